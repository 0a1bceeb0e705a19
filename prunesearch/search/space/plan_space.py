"""Spaces of plans: the schedules of a space times what may be done to the model beside its tokens."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from prunesearch.core.plans.plan import HALVES, Change, Options, Plan, variant_of
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import CHANGES, PRECISIONS
from prunesearch.cost.tables.plateaus import Plateau
from prunesearch.search.space.space import Space

_PARAMETER = "precision"
_WHOLE = "whole"  # half a block, as a choice: as it is


def in_fewer_bits(whole: Iterable[Change]) -> bool:
    """Whether changes of a whole model quantise its linear layers, so that some of them can be kept as they are."""
    names = [c.params[0][1] for c in whole if CHANGES.entry(c.kind).names]
    return any(PRECISIONS.entry(str(name)).linear for name in names)


class PlanSpace:
    """What a search may propose. A sampler sees the changes of the model as one more parameter, a choice.

    Args:
        schedules: the space of the stages.
        variants: what may be done beside them, each a name that `Plan.variant` gives; the first is nothing.
        own: the name of the first as a choice: what the model is in by itself.
        options: what may be done to halves of blocks, the mildest first.
    """

    def __init__(
        self,
        schedules: Space,
        variants: Sequence[tuple[Change, ...]] = ((),),
        own: str = "float32",
        options: Options | None = None,
    ) -> None:
        self.schedules, self.own = schedules, own
        self.options: Options = dict(options or {})
        self._halves: dict[str, dict[str, Change | None]] = {
            f"{half}_{block}": {_WHOLE: None, **{str(c).partition(":")[2]: c for c in known}}
            for (block, half), known in self.options.items()
        }
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
        return PlanSpace(schedules, list(self.variants.values()), self.own, self.options)

    @property
    def unpruned(self) -> list[Plan]:
        """The model with each of the changes and all of its tokens; the model as it is comes first."""
        return [Plan(changes=changes) for changes in self.variants.values()]

    # -- parameters ------------------------------------------------------------------------------------

    def distributions(self) -> dict[str, BaseDistribution]:
        """The parameters of a schedule; of the model's changes one more where there is a choice, of halves one each."""
        found = self.schedules.distributions()
        if len(self._choices) > 1:
            found[_PARAMETER] = CategoricalDistribution(list(self._choices))
        found |= {name: CategoricalDistribution(list(known)) for name, known in self._halves.items()}
        return found

    def decode(self, params: Mapping[str, Any]) -> Plan:
        """Read parameters as a plan; any combination is legal."""
        chosen = [known[params.get(name, _WHOLE)] for name, known in self._halves.items()]
        return self.planned(
            self.schedules.decode(params), self._choices[params.get(_PARAMETER, self.own)], [c for c in chosen if c]
        )

    def planned(self, schedule: Schedule, whole: tuple[Change, ...], halves: Iterable[Change]) -> Plan:
        """A plan whose changes are in their order; a block with a stage keeps the attention that scores it."""
        staged = {stage.layer for stage in schedule}
        fit = {
            (c.block, c.half): c
            for c in halves
            if not (c.half == HALVES[0] and c.block in staged and CHANGES.entry(c.kind).removes)
            and not (CHANGES.entry(c.kind).keeps and not in_fewer_bits(whole))
        }
        return Plan(schedule, (*whole, *(fit[key] for key in self.options if key in fit)))

    def encode(self, plan: Plan | Schedule) -> dict[str, Any] | None:
        """Write a plan as parameters (the inverse of `decode`); None if it does not lie in the space."""
        plan = Plan.of(plan)
        params = self.schedules.encode(plan.schedule)
        outside = any(change not in self.options.get(key, ()) for key, change in plan.halves.items())
        if params is None or plan.variant not in self.variants or plan.weights is not None or outside:
            return None
        return self._said(params, plan.changes)

    def _said(self, params: dict[str, Any], changes: tuple[Change, ...]) -> dict[str, Any]:
        if len(self._choices) > 1:
            params = {**params, _PARAMETER: variant_of(changes) or self.own}
        own = {f"{c.half}_{c.block}": str(c).partition(":")[2] for c in changes if c.half}
        return {**params, **{name: own.get(name, _WHOLE) for name in self._halves}}

    def shrink(self, plan: Plan | Schedule) -> Plan | None:
        """The plan with the next smaller schedule; None at the bottom."""
        plan = Plan.of(plan)
        smaller = self.schedules.shrink(plan.schedule)
        return None if smaller is None else Plan(smaller, plan.changes)

    def neighbour(self, plan: Plan | Schedule, rng: random.Random) -> Plan:
        """A plan one random move away: one parameter changed."""
        plan = Plan.of(plan)
        others = [changes for changes in self._choices.values() if changes != plan.whole]
        drawn = rng.randrange(len(self.distributions())) if others or self.options else -1
        if others and drawn == 0:
            return self.planned(plan.schedule, rng.choice(others), plan.halves.values())
        if self.options and (drawn <= len(self.options) or not self.schedules.max_stages):
            return rng.choice(self.narrower(plan) or [plan])
        return self.planned(self.schedules.neighbour(plan.schedule, rng), plan.whole, plan.halves.values())

    def narrower(self, plan: Plan) -> list[Plan]:
        """The plans that differ in half a block, by one step up or down."""
        found = []
        for key, known in self.options.items():
            own = plan.halves.get(key)
            place = known.index(own) if own in known else -1
            rest = [c for k, c in plan.halves.items() if k != key]
            for step in (place - 1, place + 1):
                if -1 <= step < len(known):
                    more = [] if step < 0 else [known[step]]
                    found.append(self.planned(plan.schedule, plan.whole, [*rest, *more]))
        return [other for other in dict.fromkeys(found) if other != plan]

    def plain(self, rng: random.Random) -> dict[str, Any]:
        """Parameters of a schedule as one would set it by hand, with any of the changes."""
        params = self.schedules.plain(rng)
        changes = rng.choice(list(self._choices.values())) if len(self._choices) > 1 else ()
        return self._said(params, changes)

    def between(self, params: Mapping[str, Any], name: str) -> tuple[int, int]:
        """See `Space.between`."""
        return self.schedules.between(params, name)
