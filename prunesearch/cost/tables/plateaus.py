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
from prunesearch.cost.tables.table_records import Cell, CountCell

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
    return [
        CurvePoint(a.n, a.ms + m.ms, math.hypot(standard_error_ms(a), standard_error_ms(m)))
        for a, m in block_halves(table, biased)
    ]


def block_halves(table: CostTable, biased: bool) -> list[tuple[CountCell, CountCell]]:
    """The attention half and the MLP half of a block at each count that the table has both of, ascending.

    Where blocks differ, the mean over the model's: every kind counts as often as it is there.
    """
    blocks = table.shape.blocks
    attention = _of_any_block([c for c in table.cells.attention if c.biased == biased], [b.attention for b in blocks])
    mlp = _of_any_block(table.cells.mlp, [block.mlp for block in blocks])
    return [(attention[n], mlp[n]) for n in sorted(attention.keys() & mlp.keys())]


def _of_any_block(cells: Sequence[CountCell], variants: Sequence[str]) -> dict[int, CountCell]:
    """One cell a count: the only variant's, or the mean over blocks of these variants where all were measured."""
    share = Counter(variants)
    known: dict[int, dict[str, CountCell]] = {}
    for cell in cells:
        if cell.variant in share:
            known.setdefault(cell.n, {})[cell.variant] = cell
    found = {}
    for n, by_variant in known.items():
        if len(by_variant) < len(share):
            continue
        if len(share) == 1:
            (found[n],) = by_variant.values()
            continue
        weights = {variant: count / len(variants) for variant, count in share.items()}
        found[n] = CountCell(
            n=n,
            samples=min(cell.samples for cell in by_variant.values()),
            **{
                name: sum(weights[v] * getattr(cell, name) for v, cell in by_variant.items())
                for name in ("ms", "median_ms", "p10_ms", "p90_ms")
            },
        )
    return found


def standard_error_ms(cell: Cell) -> float:
    """Standard error of a cell's median in ms, from its quantiles as if the samples were normal; 0 without samples."""
    if cell.samples == 0:
        return 0.0
    sigma = (cell.p90_ms - cell.p10_ms) / _P10_TO_P90
    return _MEDIAN_ERROR * sigma / math.sqrt(cell.samples)


def _clearly_cheaper(point: CurvePoint, edge: CurvePoint, z: float, relative: float) -> bool:
    noise = z * math.hypot(point.error_ms, edge.error_ms)
    return edge.ms - point.ms > max(noise, relative * point.ms)
