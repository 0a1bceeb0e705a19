"""Prices of plans whose methods the study's cost table does not know: to place them near a latency, not to tell it."""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import cast

from prunesearch.core.plans.flow import Flow, Geometry
from prunesearch.core.plans.plan import Change
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.cost.costs import Costs, OfOneModel, sum_of_pieces
from prunesearch.cost.tables.cost_table import CostTable


class AnyMethod(OfOneModel):
    """A cost table that answers for any stage: what it has not measured costs what the nearest measured one does.

    In place of a scorer or a merge that was not measured stands the mean of those that were; in place of fewer tokens
    than it was measured at, the least of them; of more tokens a block takes as much more as they are more.

    Args:
        table: of the study.
        changes: of the model, that are priced.
    """

    def __init__(self, table: CostTable, changes: tuple[Change, ...] = ()) -> None:
        self._base, self._pieces = table, table.under(changes) if changes else table
        measured = [cell.n for cell in table.cells.mlp]
        self._least, self._most = min(measured), max(measured)

    def under(self, changes: tuple[Change, ...]) -> Costs:
        """Those of the model with these changes."""
        return cast(Costs, AnyMethod(self._base, changes))

    @property
    def geometry(self) -> Geometry:
        """Of the model."""
        return self._base.geometry

    def price(self, flow: Flow) -> float:
        """Of a whole forward, in ms."""
        return sum_of_pieces(self, flow)

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """See `Pieces`."""
        return self._pieces.attention(self._within(n), sized, layer) * max(1.0, n / self._most)

    def mlp(self, n: int, layer: int) -> float:
        """See `Pieces`."""
        return self._pieces.mlp(self._within(n), layer) * max(1.0, n / self._most)

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """See `Pieces`."""
        n_in = min(max(n_in, self._least + 1), self._most)
        n_out = min(max(n_out, self._least), n_in)
        scorers, merges = self._known
        known = list(
            itertools.product([scorer] if scorer in scorers else scorers, [merge] if merge in merges else merges)
        )
        return sum(self._pieces.reduce(*pair, n_in, n_out) for pair in known) / max(len(known), 1)

    @property
    def stem(self) -> float:
        """See `Pieces`."""
        return self._pieces.stem

    def head(self, n: int) -> float:
        """See `Pieces`."""
        return self._pieces.head(max(n, self._least))

    def _within(self, n: int) -> int:
        return min(max(n, self._least), self._most)

    @cached_property
    def _known(self) -> tuple[list[str], list[str]]:
        """Scorers and merges that were measured."""
        cells = self._base.cells.reduce
        scored = (cell.scorer for cell in cells if MERGES.entry(cell.merge).uses_scores)
        return list(dict.fromkeys(scored)), list(dict.fromkeys(cell.merge for cell in cells))
