"""Rows of a table as a view has them: made once, with a seed of their own each, and kept on disk."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
from datasets.arrow_dataset import Dataset
from datasets.combine import concatenate_datasets
from PIL import Image

from prunesearch.core.events import track
from prunesearch.core.tables.names import load_target
from prunesearch.tasks.data.audio_cells import raw_sounds, read_sound
from prunesearch.tasks.data.columns import Columns, digests
from prunesearch.tasks.data.image_cells import decode_image, raw_images
from prunesearch.tasks.libraries import quiet_libraries
from prunesearch.tasks.views.pixel_views import as_eight_bits
from prunesearch.tasks.views.view_table import SEVERITIES, VIEWS, views_of
from prunesearch.tasks.views.weather import SMALL_PICTURE

_arrow: Any = pyarrow  # untyped
_FORM = 1  # of the files that are kept: counted up where a view comes to mean something else


@dataclass(frozen=True)
class Alterations:
    """Which views rows are wanted in.

    Attributes:
        names: of views and groups, as they were asked for.
        severity: 1 to 5; None: each of them in turn, row by row.
        rows: of a split, at most.
        seed: of everything random.
    """

    names: Sequence[str]
    severity: int | None = 3
    rows: int = 500
    seed: int = 0

    def __call__(self, rows: Dataset, columns: Columns, base: Path | None) -> Iterator[tuple[str, Dataset]]:
        """Every view by its name, of the same rows in the same order, with all their columns.

        Args:
            rows: to be altered, all of them.
            columns: in use; what is altered is their image, sound or text.
            base: folder that relative paths start from.

        Raises:
            PruneSearchError: if a view does not alter what the rows hold, or needs a package that is not here.
        """
        reads, column = _content(columns)
        names = [name for name in (column, columns.text_pair if reads == "text" else None) if name is not None]
        of_rows = hashlib.blake2b(b"".join(digests(rows, columns, base)), digest_size=16)
        for view in views_of(self.names, reads):
            asked = [_FORM, view, VIEWS.entry(view).amounts, VIEWS.entry(view).small, self.severity, self.seed, names]
            key = hashlib.blake2b(of_rows.digest() + repr(asked).encode(), digest_size=16).hexdigest()
            path = Path(datasets.config.HF_DATASETS_CACHE) / "prunesearch-views" / f"{key}.arrow"
            if not path.exists():
                _keep(path, {name: list(self._altered(view, rows, name, reads, base)) for name in names})
            with quiet_libraries():
                others, made = rows.remove_columns(names), Dataset.from_file(str(path))
                whole = concatenate_datasets([others, made], axis=1) if others.column_names else made
            yield view, whole

    def _altered(self, view: str, rows: Dataset, column: str, reads: str, base: Path | None) -> Iterator[Any]:
        """The cells of a column in a view."""
        row, alter = VIEWS.entry(view), load_target(VIEWS.entry(view).target)
        stored, change = _READS[reads]
        cells = stored(rows, column).select_columns([column])
        for place, cell in enumerate(track(cells, len(rows), f"making {len(rows)} rows in {view}")):
            step = place % SEVERITIES if self.severity is None else self.severity - 1
            random = np.random.default_rng([self.seed, place, *view.encode()])

            def one(content: Any, small: bool, rate: int = 1, step: int = step, random: Any = random) -> Any:
                amount = (row.small if small and row.small is not None else row.amounts)[step]
                return alter(content, amount * rate if row.seconds else amount, random)

            yield change(cell[column], base, one)


def _content(columns: Columns) -> tuple[str, str | None]:
    """What rows hold that a view may alter, and the column."""
    kinds = [("image", columns.image), ("audio", columns.audio), ("video", columns.video), ("text", columns.text)]
    return next((kind, name) for kind, name in kinds if name is not None)


def _picture(cell: Any, base: Path | None, alter: Callable[[Any, bool], Any]) -> bytes:
    """The bytes of a PNG."""
    image = decode_image(cell, base)
    made = alter(np.asarray(image, dtype=np.float64) / 255.0, min(image.size) < SMALL_PICTURE)
    file = io.BytesIO()
    Image.fromarray(as_eight_bits(made)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _sound(cell: Any, base: Path | None, alter: Callable[[Any, bool, int], Any]) -> dict[str, Any]:
    samples, rate = read_sound(cell, base)
    made = alter(samples, False, rate)
    loudest = float(np.abs(made).max(initial=1.0))
    return {"array": (made / loudest).astype(np.float32), "sampling_rate": rate}


def _text(cell: Any, base: Path | None, alter: Callable[[Any, bool], Any]) -> Any:
    return alter(cell, False) if isinstance(cell, str) else cell  # what is no text is refused where texts are read


_READS: dict[str, tuple[Callable[[Dataset, str], Dataset], Callable[..., Any]]] = {
    "image": (raw_images, _picture),
    "audio": (raw_sounds, _sound),
    "text": (lambda rows, name: rows, _text),
}


def _keep(path: Path, cells: dict[str, list[Any]]) -> None:
    """Write cells as a file that is mapped into memory, all at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = _arrow.table({name: _arrow.array(found) for name, found in cells.items()})
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file, _arrow.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
