"""Plateaus of a latency-token curve: which token counts are worth offering to a search.

Kernels work in tiles, and GPUs in waves of them: latency climbs in steps. Of the counts on one step only the largest
matters, its right edge: fewer tokens lose quality there and save no time.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.table_records import Cell

# One comparison in 30,000 errs by chance, so a curve of 60 counts gets a false step once in 500 times.
_Z = 4.0
_RELATIVE = 0.01  # a gain below 1 % is not worth a token
# The standard error of the median of n normal samples is sqrt(pi / 2) sigma / sqrt(n); p90 - p10 is 2.563 sigma.
_MEDIAN_ERROR = math.sqrt(math.pi / 2)
_P10_TO_P90 = 2.563


@dataclass(frozen=True)
class CurvePoint:
    """What `tokens` tokens cost: `ms`, known with the standard error `error_ms` (0 where nothing is noisy)."""

    tokens: int
    ms: float
    error_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise PruneSearchError(f"`tokens >= 1` must hold for a point of a curve, but got {self.tokens}")
        for name in ("ms", "error_ms"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise PruneSearchError(f"`{name} >= 0` must hold for a point of a curve, but got {value}")


@dataclass(frozen=True)
class Plateau:
    """Counts `first` to `last` of a curve, of which `last`, its right edge, costs `ms` and none costs clearly less."""

    first: int
    last: int
    ms: float


def right_edges(curve: Sequence[CurvePoint], *, z: float = _Z, relative: float = _RELATIVE) -> list[int]:
    """The token counts that matter, ascending: no larger count costs the same or less.

    Found from the top: the largest count is one, and then each that is clearly cheaper than all found before it. Every
    count left out so has a larger one in the list that costs less, or the same within the noise.

    Args:
        curve: in any order, each count once.
        z: a difference counts if it is more than so many combined standard errors,
        relative: and more than this fraction of the smaller count's cost.

    Raises:
        PruneSearchError: if a count comes twice.
    """
    return [plateau.last for plateau in plateaus(curve, z=z, relative=relative)]


def plateaus(curve: Sequence[CurvePoint], *, z: float = _Z, relative: float = _RELATIVE) -> list[Plateau]:
    """Cut a curve into its plateaus, ascending; together they hold every count. Arguments as in `right_edges`."""
    ordered = sorted(curve, key=lambda point: point.tokens, reverse=True)
    for above, below in itertools.pairwise(ordered):
        if above.tokens == below.tokens:
            raise PruneSearchError(f"each token count must come once in a curve, but {above.tokens} comes twice")
    edges: list[CurvePoint] = []
    first: list[int] = []  # the least count of each edge's plateau
    for point in ordered:
        if all(_clearly_cheaper(point, edge, z, relative) for edge in edges):
            edges.append(point)
            first.append(point.tokens)
        else:
            first[-1] = point.tokens
    return [Plateau(low, edge.tokens, edge.ms) for low, edge in zip(first[::-1], edges[::-1], strict=True)]


def block_curve(table: CostTable, biased: bool) -> list[CurvePoint]:
    """What one block costs, attention half and MLP half, at each count that the table has both of, ascending.

    Where blocks differ, that is the mean over the model's.

    Args:
        table: measured, or estimated (then without error: its cells have no samples).
        biased: the attention with `+ log(size)` on the keys; it never has the full width, where nothing is merged yet.
    """
    mlp = {(cell.n, cell.variant): cell for cell in table.cells.mlp}
    attention = {(cell.n, cell.variant): cell for cell in table.cells.attention if cell.biased == biased}
    share = Counter(table.shape.blocks)
    points = []
    for n in sorted({n for n, _ in attention}):
        ms, errors = 0.0, []
        for variant, blocks in share.items():
            halves = attention.get((n, variant.attention)), mlp.get((n, variant.mlp))
            if halves[0] is None or halves[1] is None:
                break
            weight = blocks / table.shape.depth
            ms += weight * (halves[0].ms + halves[1].ms)
            errors += [weight * standard_error_ms(cell) for cell in halves if cell is not None]
        else:
            points.append(CurvePoint(n, ms, math.hypot(*errors)))
    return points


def standard_error_ms(cell: Cell) -> float:
    """Standard error of a cell's median in ms, from its quantiles as if the samples were normal; 0 without samples."""
    if cell.samples == 0:
        return 0.0
    sigma = (cell.p90_ms - cell.p10_ms) / _P10_TO_P90
    return _MEDIAN_ERROR * sigma / math.sqrt(cell.samples)


def _clearly_cheaper(point: CurvePoint, edge: CurvePoint, z: float, relative: float) -> bool:
    noise = z * math.hypot(point.error_ms, edge.error_ms)
    return edge.ms - point.ms > max(noise, relative * point.ms)
