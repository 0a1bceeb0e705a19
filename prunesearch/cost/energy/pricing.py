"""Energy of whole schedules and of their pieces: the cost table's times, at the powers fitted to the device."""

from __future__ import annotations

from dataclasses import dataclass

from prunesearch.core.plans.flow import Flow, Geometry
from prunesearch.cost.costs import OfOneModel
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.energy_fit import EnergyFit


def by_kind(table: CostTable, flow: Flow) -> dict[str, float]:
    """Where a forward's time goes by the kinds that powers are fitted to; a tower is of the rest."""
    found = table.breakdown(flow)
    return {**found, "rest": found["rest"] + found.pop("tower", 0.0)}


@dataclass(frozen=True)
class EnergyCosts(OfOneModel):
    """Prices as a `CostTable` does, but in gross mJ for one row of the batch.

    Raises:
        PruneSearchError: from every method, for a kind of piece whose power was not measured.
    """

    table: CostTable
    fit: EnergyFit

    @property
    def geometry(self) -> Geometry:
        """Of the model that the table is of."""
        return self.table.geometry

    def price(self, flow: Flow) -> float:
        """A whole forward."""
        return self.fit.predict_mj(by_kind(self.table, flow))

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """The attention half of block `layer` at `n` tokens; `sized` with `+ log(size)` on the keys."""
        return self.fit.predict_mj({"attention": self.table.attention(n, sized, layer)})

    def mlp(self, n: int, layer: int) -> float:
        """The MLP half of block `layer` at `n` tokens."""
        return self.fit.predict_mj({"mlp": self.table.mlp(n, layer)})

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """One stage."""
        return self.fit.predict_mj({"reduce": self.table.reduce(scorer, merge, n_in, n_out)})

    @property
    def stem(self) -> float:
        """Everything before the first block, and the head."""
        return self.fit.predict_mj({"rest": self.table.stem})

    def head(self, n: int) -> float:
        """What `n` tokens at the end cost more (or, negative, less) than the whole sequence."""
        more = self.table.head(n)
        return self.fit.predict_mj({"rest": abs(more)}) * (1 if more >= 0 else -1)
