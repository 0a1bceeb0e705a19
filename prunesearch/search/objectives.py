"""What a search minimises beside the loss of quality, and the bounds it keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prunesearch.core.budget import Budget
from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.schedule import Schedule
from prunesearch.search.seeds import Costs

UNITS = {"latency": "ms", "energy": "mJ"}


@dataclass(frozen=True)
class Objective:
    """A cost with its bound; one that is not `minimised` only bounds.

    `costs` prices schedules and their pieces in `unit`: ms for a batch, or mJ for one input.
    """

    name: str
    costs: Costs
    limit: float = math.inf
    minimised: bool = True

    @property
    def unit(self) -> str:
        """`ms` or `mJ`."""
        return UNITS[self.name]

    def fits(self, schedule: Schedule) -> bool:
        """Whether the schedule is predicted to keep the bound."""
        return self.costs.predict(schedule) <= self.limit


def parse_objectives(text: str) -> list[str]:
    """Read `latency`, `energy` or `latency,energy`.

    Raises:
        PruneSearchError: for an unknown or repeated name.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in UNITS:
            raise PruneSearchError(f"unknown objective '{name}': {did_you_mean(name, UNITS)}; quality is always one")
    if len(set(names)) < len(names):
        raise PruneSearchError(f"an objective is named once, but got '{text}'")
    return names


def make_objectives(names: Sequence[str], budget: Budget | None, costs: dict[str, Costs]) -> list[Objective]:
    """The objectives of a run in the order named, the first of them the one that shares and speed-ups bound.

    The unpruned model is the bound of the first where there is no budget: nothing dearer is worth a trial. Latency is
    always among them, if only to be told.
    """
    bounded = names[0] if budget is None or budget.kind in ("share", "speedup") else budget.kind
    found = []
    for name in dict.fromkeys([*names, bounded, "latency"]):
        unpruned = costs[name].predict(Schedule())
        limit = unpruned if name == names[0] else math.inf
        if budget is not None and name == bounded:
            limit = budget.limit(unpruned)
        found.append(Objective(name, costs[name], limit, name in names))
    return found
