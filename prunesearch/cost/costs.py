"""What prices schedules: the protocol that cost tables, energies, MACs and memory share."""

from __future__ import annotations

from typing import Protocol

from prunesearch.core.schedule import Schedule


class Costs(Protocol):
    """What the solver asks of a table, all in the objective's unit (ms a batch, or mJ an input)."""

    def predict(self, schedule: Schedule) -> float:
        """A whole schedule."""

    def attention(self, n: int, biased: bool) -> float:
        """One block's attention half at `n` tokens; `biased` with `+ log(size)` on the keys."""

    def mlp(self, n: int) -> float:
        """One block's MLP half at `n` tokens."""

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """One stage."""

    @property
    def stem(self) -> float:
        """Everything before the first block, and the head."""

    def head(self, n: int) -> float:
        """What `n` tokens at the end cost more or less than the whole sequence."""
