"""Energy of whole schedules and of their pieces: the cost table's times, at the powers fitted to the device."""

from __future__ import annotations

from dataclasses import dataclass

from prunesearch.core.schedule import Schedule
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.energy_fit import EnergyFit


@dataclass(frozen=True)
class EnergyCosts:
    """Prices as a `CostTable` does, but in gross mJ for one row of the batch.

    Raises:
        PruneSearchError: from every method, for a kind of piece whose power was not measured.
    """

    table: CostTable
    fit: EnergyFit

    def predict(self, schedule: Schedule) -> float:
        """A whole schedule."""
        return self.fit.predict_mj(self.table.breakdown(schedule))

    def attention(self, n: int, biased: bool) -> float:
        """One block's attention half at `n` tokens; `biased` with `+ log(size)` on the keys."""
        return self.fit.predict_mj({"attention": self.table.attention(n, biased)})

    def mlp(self, n: int) -> float:
        """One block's MLP half at `n` tokens."""
        return self.fit.predict_mj({"mlp": self.table.mlp(n)})

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
