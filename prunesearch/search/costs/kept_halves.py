"""Halves of blocks that a search may keep in the model's own precision: those that fewer bits make slower somewhere."""

from __future__ import annotations

from collections.abc import Sequence

from prunesearch.core.events import say
from prunesearch.core.plans.plan import HALVES, Change, Options, variant_of
from prunesearch.cost.tables.cost_table import CostTable, Narrowed
from prunesearch.search.costs.precisions import Variants
from prunesearch.search.space.plan_space import in_fewer_bits

KEEP = "keep"
_SLOWER = 1.02  # what the error of a cell may hide pays for nothing


def with_kept(options: Options, table: CostTable, variants: Variants) -> Options:
    """The options of a search, and those of keeping halves as they are where the table says that it pays.

    Args:
        options: of halves of blocks so far.
        table: of the model as it is and under the `variants` that it has.
        variants: what may be done to all of the model; those that quantise count.
    """
    tables = [table.under(v) for v in variants if in_fewer_bits(v) and variant_of(v) in table.variants]
    found = {key: list(known) for key, known in options.items()}
    paying: list[tuple[int, str]] = []
    for layer in range(table.shape.depth):
        for half in HALVES:
            if any(_pays(table, other, layer, half) for other in tables):
                found.setdefault((layer, half), []).append(Change(KEEP, layer, {"part": half}))
                paying.append((layer, half))
    if paying:
        say(f"fewer bits are slower somewhere in {_told(paying)}: these may stay in the model's own precision")
    return {key: tuple(found[key]) for key in sorted(found, key=lambda key: (key[0], HALVES.index(key[1])))}


def _pays(table: CostTable, other: CostTable | Narrowed, layer: int, half: str) -> bool:
    """Whether half a block is faster as it is at any token count of the table."""
    variant = getattr(table.shape.blocks[layer], half)
    if half == HALVES[0]:
        counts = {c.n for c in table.cells.attention if c.variant == variant and not c.biased}
        return any(table.attention(n, False, layer) * _SLOWER < other.attention(n, False, layer) for n in counts)
    counts = {c.n for c in table.cells.mlp if c.variant == variant}
    return any(table.mlp(n, layer) * _SLOWER < other.mlp(n, layer) for n in counts)


def _told(halves: Sequence[tuple[int, str]]) -> str:
    counts = {half: sum(one == half for _, one in halves) for half in HALVES}
    return ", ".join(f"the {half} of {n} block{'s'[: n > 1]}" for half, n in counts.items() if n)
