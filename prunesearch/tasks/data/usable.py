"""Which rows of a table can be used: those with a cell in every column that is needed, of a type that it may have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from datasets.arrow_dataset import Dataset
from numpy.typing import NDArray

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.audio_cells import decode_sound, raw_sounds
from prunesearch.tasks.data.columns import Columns
from prunesearch.tasks.data.image_cells import decode_image, raw_images
from prunesearch.tasks.data.video_cells import check_video, raw_videos

_EMPTY = ("", "nan", "<na>")  # how pandas writes a missing number into a file
_arrow: Any = pyarrow  # untyped
_compute: Any = pyarrow.compute
Bools = NDArray[np.bool_]


def without_gaps(rows: Dataset, columns: Columns, needed: Sequence[str]) -> tuple[Bools, dict[str, int]]:
    """Which rows have a cell in every column of content, and in those `needed` besides.

    A text of blanks is no cell, nor is a list of nothing, or a file without bytes and path.

    Returns:
        Bool `[n]`, and how many rows lack what, by the column.
    """
    content = [n for n in (columns.image, columns.audio, columns.video, columns.text, columns.text_pair) if n]
    there, gone = np.ones(len(rows), dtype=bool), {}
    for name in dict.fromkeys([*content, *needed]):
        if name not in rows.column_names:
            continue
        empty = _empty(rows.with_format("arrow").select_columns([name])[:][name], numeric=name not in content)
        if lost := int((there & empty).sum()):
            gone[name] = lost
        there &= ~empty
    return there, gone


def texts_of(cells: Sequence[Any], name_of: Callable[[int], str], column: str) -> list[str]:
    """Cells of a column, all of them texts.

    Raises:
        PruneSearchError: naming the first row that holds anything else.
    """
    for place, cell in enumerate(cells):
        if not isinstance(cell, str):
            raise PruneSearchError(
                f"column '{column}' must hold texts, but {name_of(place)} has {_said(cell)} ({cell!r:.40}): name the "
                "column of texts with columns, or write texts into it"
            )
    return list(cells)


def lists_of_texts(cells: Sequence[Any], name_of: Callable[[int], str], column: str) -> list[list[str]]:
    """Cells of a column, all of them lists of texts.

    Raises:
        PruneSearchError: naming the first row that holds anything else.
    """
    for place, cell in enumerate(cells):
        wrong = cell if not isinstance(cell, list) else next((x for x in cell if not isinstance(x, str)), "")
        if not isinstance(cell, list) or not isinstance(wrong, str):
            raise PruneSearchError(
                f"column '{column}' must hold lists of texts, but {name_of(place)} has {_said(wrong)} ({wrong!r:.40}): "
                "name the column with columns, or write lists of texts into it"
            )
    return [list(cell) for cell in cells]


def damaged(rows: Dataset, columns: Columns, base: Path | None) -> Iterator[str]:
    """Decode the image, sound or video of each row: why it cannot be, in a line; empty where it can."""
    decode: Callable[[Any], Any]
    if columns.image is not None:
        name, stored, decode = columns.image, raw_images, partial(decode_image, base=base)
    elif columns.audio is not None:
        name, stored, decode = columns.audio, raw_sounds, partial(decode_sound, base=base, rate=None)
    elif columns.video is not None:
        name, stored, decode = columns.video, raw_videos, partial(check_video, base=base)
    else:
        yield from [""] * len(rows)
        return
    for row in stored(rows, name).select_columns([name]):
        try:
            decode(row[name])
        except PruneSearchError as error:
            yield str(error)
        else:
            yield ""


def _empty(cells: Any, *, numeric: bool) -> Bools:
    """Which cells hold nothing; of `numeric` columns also those with what stands for no number."""
    kind = cells.type
    empty = _bools(_compute.is_null(cells))
    if _arrow.types.is_struct(kind):
        names = {field.name for field in kind}
        if {"bytes", "path"} <= names:
            both = [_bools(_compute.is_null(_compute.struct_field(cells, name))) for name in ("bytes", "path")]
            empty |= both[0] & both[1]
    elif _arrow.types.is_string(kind) or _arrow.types.is_large_string(kind):
        trimmed = _compute.utf8_lower(_compute.utf8_trim_whitespace(cells))
        blank = [""] if not numeric else list(_EMPTY)
        empty |= _bools(_compute.is_in(trimmed, value_set=_arrow.array(blank, type=kind)))
    elif _arrow.types.is_binary(kind) or _arrow.types.is_large_binary(kind):
        empty |= _bools(_compute.equal(_compute.binary_length(cells), 0))
    elif _arrow.types.is_floating(kind):
        empty |= _bools(_compute.is_nan(cells))
    elif not numeric and (_arrow.types.is_list(kind) or _arrow.types.is_large_list(kind)):
        empty |= _bools(_compute.equal(_compute.list_value_length(cells), 0))
    return empty


def _bools(found: Any) -> Bools:
    """A column of truth values; what is not known is false."""
    values: Bools = np.asarray(_compute.fill_null(found, False).to_numpy(), dtype=bool)
    return values


def _said(cell: Any) -> str:
    """What a cell is, in words."""
    kinds = {type(None): "nothing", list: "a list", dict: "a dictionary", bool: "true or false", bytes: "bytes"}
    return kinds.get(type(cell), "a number" if isinstance(cell, (int, float)) else type(cell).__name__)
