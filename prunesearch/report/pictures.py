"""What became of each patch or word: an overlay for a picture, and marked tokens."""

from __future__ import annotations

import base64
import colorsys
import io
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.errors import PruneSearchError

if TYPE_CHECKING:
    from PIL.Image import Image

_DARK, _TINT = 0.84, 0.45  # opacity over a dropped and over a merged patch
_LINE = 0.09  # width of an outline, in patches
_GOLDEN = 0.61803398875  # steps of the golden ratio keep neighbouring hues apart
_SMALL = 64  # pixels: a picture up to this wide is kept exactly
_Source = NDArray[np.floating[Any]]


def owners(source: _Source) -> list[int]:
    """Say which surviving token holds each original one.

    Args:
        source: `[n_out, tokens]`, the share of each original token (columns) in each survivor (rows).

    Returns:
        For each of `tokens` the row with the largest share, -1 where the token was dropped. A token spread over several
        survivors (`soft`) counts for the one that got most of it.
    """
    weights = np.asarray(source, dtype=float)
    owner = weights.argmax(axis=0)
    owner[weights.sum(axis=0) <= 0] = -1
    return [int(row) for row in owner]


def overlay_svg(patches: Sequence[int], grid: tuple[int, int], owner: Sequence[int]) -> str:
    """Draw what lies over a picture: dropped patches dark, each merged group in one colour with an outline.

    Args:
        patches: owner of each patch, row by row (see `owners`).
        grid: rows and columns.
        owner: of all tokens, those that are no patch included: what a patch was merged into may be CLS.

    Returns:
        An SVG of `columns` by `rows` units that stretches with the picture under it.

    Raises:
        PruneSearchError: if there are not rows x columns patches.
    """
    rows, columns = grid
    if len(patches) != rows * columns:
        raise PruneSearchError(f"a grid of {rows} x {columns} has {rows * columns} patches, but got {len(patches)}")
    sizes = Counter(owner)
    first = {group: place for place, group in reversed(list(enumerate(patches)))}
    marks = []
    for place, group in enumerate(patches):
        y, x = divmod(place, columns)
        box = f'x="{x}" y="{y}" width="1" height="1"'
        if group < 0:
            marks.append(f'<rect {box} fill="#000" opacity="{_DARK}"/>')
        elif sizes[group] > 1:
            # a group is coloured by its first patch, so that it keeps its colour from stage to stage
            colour = _colour(first[group])
            marks.append(f'<rect {box} fill="{colour}" opacity="{_TINT}"/>')
            sides = _sides(patches, x, y, grid)
            if sides:
                marks.append(f'<path d="{sides}" stroke="{colour}" stroke-width="{_LINE}" fill="none"/>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns} {rows}" preserveAspectRatio="none"'
    return f'{head} shape-rendering="crispEdges">{"".join(marks)}</svg>'


def _sides(patches: Sequence[int], x: int, y: int, grid: tuple[int, int]) -> str:
    """The sides of a patch that are sides of its group, as SVG path data, just inside the patch."""
    rows, columns = grid
    group, inset = patches[y * columns + x], _LINE / 2
    left, top, right, bottom = x + inset, y + inset, x + 1 - inset, y + 1 - inset
    sides = ""
    if y == 0 or patches[(y - 1) * columns + x] != group:
        sides += f"M{x} {top:g}H{x + 1}"
    if y == rows - 1 or patches[(y + 1) * columns + x] != group:
        sides += f"M{x} {bottom:g}H{x + 1}"
    if x == 0 or patches[y * columns + x - 1] != group:
        sides += f"M{left:g} {y}V{y + 1}"
    if x == columns - 1 or patches[y * columns + x + 1] != group:
        sides += f"M{right:g} {y}V{y + 1}"
    return sides


def _colour(first: int) -> str:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb((first * _GOLDEN) % 1.0, 0.75, 1.0))
    return f"#{red:02x}{green:02x}{blue:02x}"


def to_data_uri(image: Image) -> str:
    """Return the picture in a `data:` URI: PNG while it is small, else JPEG."""
    buffer = io.BytesIO()
    kind = "png" if image.width <= _SMALL else "jpeg"
    image.convert("RGB").save(buffer, format=kind, optimize=True, quality=85)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def token_spans(tokens: Sequence[str], owner: Sequence[int], special: Sequence[bool]) -> list[dict[str, Any]]:
    """Mark each token of a text after a stage.

    Args:
        tokens: as the tokenizer shows them, padding left out.
        owner: of each token (see `owners`).
        special: true for tokens that are never reduced.

    Returns:
        A list of `{"text", "state", "group"}`; state is `protected`, `kept`, `merged` or `dropped`, and
        `group` numbers the merged groups of this text from 0 (else None).
    """
    if not len(tokens) == len(owner) == len(special):
        raise PruneSearchError(
            f"tokens, owners and flags must be equally many, but got {len(tokens)}, {len(owner)} and {len(special)}"
        )
    sizes = Counter(owner)
    groups: dict[int, int] = {}
    spans = []
    for text, group, protected in zip(tokens, owner, special, strict=True):
        state = "dropped" if group < 0 else "merged" if sizes[group] > 1 else "protected" if protected else "kept"
        number = groups.setdefault(group, len(groups)) if state == "merged" else None
        spans.append({"text": text, "state": state, "group": number})
    return spans
