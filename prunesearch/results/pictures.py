"""What became of each patch or word: pictures and marked tokens for the report."""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.errors import PruneSearchError

if TYPE_CHECKING:
    from PIL.Image import Image

_DARK = 0.16  # brightness that a dropped patch keeps
_TINT = 0.45  # share of the group's colour in a merged patch
_GOLDEN = 0.61803398875  # steps of the golden ratio keep neighbouring hues apart
_Source = NDArray[np.floating[Any]]


def holders(source: _Source) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Say which surviving token holds each original one, and how many originals that token holds.

    Args:
        source: `[n_out, tokens]`, the share of each original token (columns) in each survivor (rows).

    Returns:
        `owner` `[tokens]`: row with the largest share, -1 where the token was dropped; `members`
        `[tokens]`: number of originals with the same owner (0 where dropped). A token spread over several
        survivors (`soft`) counts for the one that got most of it.
    """
    weights = np.asarray(source, dtype=float)
    owner = weights.argmax(axis=0)
    owner[weights.sum(axis=0) <= 0] = -1
    counts = np.bincount(owner[owner >= 0], minlength=weights.shape[0])
    members = np.where(owner >= 0, counts[owner], 0)
    return owner, members


def patch_pictures(
    image: Image,
    sources: Sequence[_Source],
    captions: Sequence[str],
    grid: tuple[int, int],
    protected: int,
    *,
    width: int = 192,
) -> list[Image]:
    """Draw the image once a stage: dropped patches dark, kept ones plain, each merged group in one colour.

    Args:
        image: the input of the model, any mode and size.
        sources: one `[n_out, tokens]` array a stage (see `holders`).
        captions: one a stage; only their number is checked here, the report prints them.
        grid: rows and columns of patches; their product and `protected` make up `tokens`.
        protected: leading tokens that are no patch (CLS, registers).
        width: least width of a picture in pixels; it is rounded up to whole patches.

    Raises:
        PruneSearchError: if the shapes do not fit each other.
    """
    if len(captions) != len(sources):
        raise PruneSearchError(f"there must be a caption for each stage, but got {len(captions)} for {len(sources)}")
    rows, columns = grid
    cell = max(4, -(-width // columns))
    canvas = _enlarge(image, columns * cell, rows * cell)
    pictures = []
    for source in sources:
        if source.shape[1] != protected + rows * columns:
            raise PruneSearchError(
                f"a source map must have {protected} + {rows} x {columns} columns, but got {source.shape[1]}"
            )
        owner, members = holders(source)
        shape = (rows, columns)
        pictures.append(_draw(canvas, owner[protected:].reshape(shape), members[protected:].reshape(shape), cell))
    return pictures


def to_data_uri(image: Image) -> str:
    """Return the picture as a PNG in a `data:` URI."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def token_spans(
    tokens: Sequence[str], source: _Source, protected: Sequence[bool] | NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Mark each token of a text after a stage.

    Args:
        tokens: as the tokenizer shows them, padding left out.
        source: `[n_out, tokens]` (see `holders`).
        protected: `[tokens]`, true for tokens that are never reduced.

    Returns:
        A list of `{"text", "state", "group"}`; state is `protected`, `kept`, `merged` or `dropped`, and
        `group` numbers the merged groups of this text from 0 (else None).
    """
    if not len(tokens) == source.shape[1] == len(protected):
        raise PruneSearchError(
            "tokens, source columns and protected flags must be equally many, but got "
            f"{len(tokens)}, {source.shape[1]} and {len(protected)}"
        )
    owner, members = holders(source)
    groups: dict[int, int] = {}
    spans = []
    for text, row, size, special in zip(tokens, owner, members, protected, strict=True):
        state = "dropped" if row < 0 else "merged" if size > 1 else "protected" if special else "kept"
        group = groups.setdefault(int(row), len(groups)) if state == "merged" else None
        spans.append({"text": text, "state": state, "group": group})
    return spans


def _enlarge(image: Image, width: int, height: int) -> NDArray[np.float64]:
    """RGB values 0 to 1; a small picture keeps its pixels visible instead of being blurred."""
    from PIL.Image import Resampling

    small = image.width * 2 <= width
    method = Resampling.NEAREST if small else Resampling.BICUBIC
    pixels = np.asarray(image.convert("RGB").resize((width, height), method), dtype=float)
    return np.asarray(pixels / 255.0)


def _draw(canvas: NDArray[np.float64], owner: NDArray[np.int64], members: NDArray[np.int64], cell: int) -> Image:
    """Paint one stage, and outline every merged group where it meets another patch."""
    from PIL.Image import fromarray

    pixels = canvas.copy()
    rows, columns = owner.shape
    line = max(1, cell // 12)
    for row, column in np.ndindex(rows, columns):
        box = pixels[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
        if owner[row, column] < 0:
            box[:] = box.mean(axis=2, keepdims=True) * _DARK
        elif members[row, column] > 1:
            colour = _colour(int(np.flatnonzero(owner.ravel() == owner[row, column])[0]))
            box[:] = box * (1 - _TINT) + colour * _TINT
            _outline(box, owner, row, column, colour, line)
    return fromarray((pixels * 255).round().astype(np.uint8))


def _outline(
    box: NDArray[np.float64],
    owner: NDArray[np.int64],
    row: int,
    column: int,
    colour: NDArray[np.float64],
    line: int,
) -> None:
    """Draw the sides of a patch (a view into the picture) that are sides of its group."""
    rows, columns = owner.shape
    group = owner[row, column]
    if row == 0 or owner[row - 1, column] != group:
        box[:line] = colour
    if row == rows - 1 or owner[row + 1, column] != group:
        box[-line:] = colour
    if column == 0 or owner[row, column - 1] != group:
        box[:, :line] = colour
    if column == columns - 1 or owner[row, column + 1] != group:
        box[:, -line:] = colour


def _colour(first: int) -> NDArray[np.float64]:
    """A group is coloured by its first patch, so that it keeps its colour from stage to stage."""
    return np.array(colorsys.hsv_to_rgb((first * _GOLDEN) % 1.0, 0.75, 1.0))
