"""Spaces of plans: the schedules of a space times what may be done to the model beside its tokens."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from prunesearch.core.plans.plan import Change, Plan, variant_of
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.tables.plateaus import Plateau
from prunesearch.search.space.space import Space

_PARAMETER = "precision"


class PlanSpace:
    """What a search may propose. A sampler sees the changes of the model as one more parameter, a choice.

    Args:
        schedules: the space of the stages.
        variants: what may be done beside them, each a name that `Plan.variant` gives; the first is nothing.
        own: the name of the first as a choice: what the model is in by itself.
    """

    def __init__(self, schedules: Space, variants: Sequence[tuple[Change, ...]] = ((),), own: str = "float32") -> None:
        self.schedules, self.own = schedules, own
        self.variants = {variant_of(changes): changes for changes in variants}
        self._choices = {variant or own: changes for variant, changes in self.variants.items()}

    # -- what is fixed ---------------------------------------------------------------------------------

    def with_methods(self, methods: list[str]) -> PlanSpace:
        """The same space with other methods."""
        return self._with(self.schedules.with_methods(methods))

    def at_edges(self, plateaus: Sequence[Plateau]) -> PlanSpace:
        """See `Space.at_edges`."""
        return self._with(self.schedules.at_edges(plateaus))

    def _with(self, schedules: Space) -> PlanSpace:
        return PlanSpace(schedules, list(self.variants.values()), self.own)

    @property
    def unpruned(self) -> list[Plan]:
        """The model with each of the changes and all of its tokens; the model as it is comes first."""
        return [Plan(changes=changes) for changes in self.variants.values()]

    # -- parameters ------------------------------------------------------------------------------------

    def distributions(self) -> dict[str, BaseDistribution]:
        """The parameters of a schedule; of the model's changes one more where there is a choice."""
        found = self.schedules.distributions()
        if len(self._choices) > 1:
            found[_PARAMETER] = CategoricalDistribution(list(self._choices))
        return found

    def decode(self, params: Mapping[str, Any]) -> Plan:
        """Read parameters as a plan; any combination is legal."""
        return Plan(self.schedules.decode(params), self._choices[params.get(_PARAMETER, self.own)])

    def encode(self, plan: Plan | Schedule) -> dict[str, Any] | None:
        """Write a plan as parameters (the inverse of `decode`); None if it does not lie in the space."""
        plan = Plan.of(plan)
        params = self.schedules.encode(plan.schedule)
        if params is None or plan.variant not in self.variants or plan.weights is not None:
            return None
        return self._said(params, plan.changes)

    def _said(self, params: dict[str, Any], changes: tuple[Change, ...]) -> dict[str, Any]:
        return {**params, _PARAMETER: variant_of(changes) or self.own} if len(self._choices) > 1 else params

    def shrink(self, plan: Plan | Schedule) -> Plan | None:
        """The plan with the next smaller schedule; None at the bottom."""
        plan = Plan.of(plan)
        smaller = self.schedules.shrink(plan.schedule)
        return None if smaller is None else Plan(smaller, plan.changes)

    def neighbour(self, plan: Plan | Schedule, rng: random.Random) -> Plan:
        """A plan one random move away: one parameter changed."""
        plan = Plan.of(plan)
        others = [changes for changes in self._choices.values() if changes != plan.changes]
        if others and rng.randrange(len(self.distributions())) == 0:
            return Plan(plan.schedule, rng.choice(others))
        return Plan(self.schedules.neighbour(plan.schedule, rng), plan.changes)

    def plain(self, rng: random.Random) -> dict[str, Any]:
        """Parameters of a schedule as one would set it by hand, with any of the changes."""
        params = self.schedules.plain(rng)
        return self._said(params, rng.choice(list(self._choices.values()))) if len(self._choices) > 1 else params

    def between(self, params: Mapping[str, Any], name: str) -> tuple[int, int]:
        """See `Space.between`."""
        return self.schedules.between(params, name)
