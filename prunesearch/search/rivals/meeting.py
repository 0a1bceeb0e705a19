"""Methods at equal latency: a plan of each near the target by the cost table, timed, and the nearest one chosen."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunesearch.core.plans.plan import Plan
from prunesearch.cost.timing.samples import Samples
from prunesearch.cost.timing.validate import measure_schedules
from prunesearch.search.finish.kept import Kept
from prunesearch.search.rivals.arena import Arena, Entrant
from prunesearch.study.front_items import Measured

INSIDE = 1.02  # of the target, up to which a plan is at it
NEAR_BY = 0.97  # of the target, from which on no plan nearer to it is sought
_HOPELESS = 2.0  # of the target: a method that is predicted to come no nearer is not timed
_AROUND = ((1.0,), (1.06, 1.03, 1.01, 0.98, 0.94), (1.05, 1.02, 1.0, 0.98, 0.95))  # of the target: what is timed
_TIME = (0.15, 0.3, 0.2)  # of the time, for each of these; the rest is for what is chosen
_ROUNDS = 10

Timing = Callable[[Sequence[Plan], float, Path], Sequence[Samples]]  # plans, seconds, file of the unfinished


@dataclass(frozen=True)
class AtTarget:
    """A plan of a method at the target, and its latency in the run in which all of them were timed."""

    plan: Plan
    ms: Measured


@dataclass(frozen=True)
class Meeting:
    """Brings methods to one latency.

    Attributes:
        arena: what they are compared on.
        kept: what was timed before.
        seconds: of timing, in all.
        timing: what times plans side by side.
    """

    arena: Arena
    kept: Kept
    seconds: float
    timing: Timing

    def choose(self, entrants: Mapping[str, Entrant]) -> tuple[Measured, dict[str, AtTarget], dict[str, str]]:
        """The unpruned model's latency, a plan of every method at the target, and why others have none.

        First one plan a method is timed, which says how far the table is off for it; then some around the target, for
        methods that miss it twice. Of all of them the one is chosen that takes as much of the target as it may; those
        are timed side by side in the end. No quality has a part in it.
        """
        left_out = {name: why for name, one in entrants.items() if (why := self._hopeless(one.plans))}
        tried: dict[str, dict[Plan, float]] = {name: {} for name in entrants if name not in left_out}
        for around, time in zip(_AROUND, _TIME, strict=True):
            wanted = {name: self._around(entrants[name].plans, known, around) for name, known in tried.items()}
            found = self._timed((plan for plans in wanted.values() for plan in plans), time)
            for name, plans in wanted.items():
                tried[name] |= {plan: found[plan].middle / found[Plan()].middle for plan in plans}
        chosen: dict[str, Plan] = {}
        for name, known in tried.items():
            best = at_target(known, self.arena.share)
            if known[best] <= INSIDE * self.arena.share:
                chosen[name] = best
            else:
                left_out[name] = f"its fastest schedule near it ({best}) is measured at {1 / known[best]:.2f}x"
        found = self._timed(chosen.values(), 1 - sum(_TIME))
        return found[Plan()], {name: AtTarget(plan, found[plan]) for name, plan in chosen.items()}, left_out

    def _hopeless(self, plans: Sequence[Plan]) -> str:
        """Why a method is not timed; empty where it is."""
        if not plans:
            return "it has no schedule on this model"
        fastest = self._price(plans[-1])
        if fastest <= _HOPELESS * self.arena.limit:
            return ""
        return f"its fastest schedule ({plans[-1]}) is predicted at {self._price(Plan()) / fastest:.2f}x"

    def _around(self, plans: Sequence[Plan], known: Mapping[Plan, float], shares: Sequence[float]) -> list[Plan]:
        """What is to be timed next: plans around the target, by the table and by how far it is off there."""
        target, off = self.arena.share, 1.0
        if known:
            best = at_target(known, target)
            if NEAR_BY * target <= known[best] <= INSIDE * target:
                return []
            nearest = min(known, key=lambda plan: abs(known[plan] - target))
            off = known[nearest] / (self._price(nearest) / self._price(Plan()))
        found = within(plans, self._price, [share * self.arena.limit / off for share in shares])
        return [plan for plan in found if plan not in known]

    def _price(self, plan: Plan) -> float:
        return self.arena.prices.predict(plan)

    def _timed(self, plans: Iterable[Plan], share: float) -> dict[Plan, Measured]:
        """All of them beside the unpruned model, interleaved in one run."""
        every = list(dict.fromkeys([Plan(), *plans]))

        def measure(unfinished: Path) -> list[Measured]:
            samples = self.timing(every, share * self.seconds, unfinished)
            return [Measured(value=s.median_ms, p10=s.p10_ms, p90=s.p90_ms) for s in samples]

        of = f"{self.arena.setting.loads[0]!r}, {share:.0%} of {self.seconds} s"
        return dict(zip(every, self.kept.measured("latency", of, every, measure) or [], strict=True))


def within(plans: Sequence[Plan], price: Callable[[Plan], float], limits: Sequence[float]) -> list[Plan]:
    """Of plans from the slowest to the fastest, the slowest that is predicted within each of some limits, each once.

    Of a limit that none keeps, the fastest.
    """
    places = (bisect_left(range(len(plans)), -limit, key=lambda i: -price(plans[i])) for limit in limits)
    return list(dict.fromkeys(plans[min(place, len(plans) - 1)] for place in places))


def at_target(shares: Mapping[Plan, float], target: float) -> Plan:
    """Of plans with the shares of the unpruned latency that they take the slowest within the target, or the fastest."""
    able = [plan for plan, share in shares.items() if share <= INSIDE * target]
    return max(able, key=lambda plan: shares[plan]) if able else min(shares, key=lambda plan: shares[plan])


def timing_of(arena: Arena) -> Timing:
    """Times plans on the model of the arena as its study did."""
    setting = arena.setting
    config = setting.config

    def time(plans: Sequence[Plan], seconds: float, unfinished: Path) -> Sequence[Samples]:
        return measure_schedules(
            setting.task.model,
            setting.task.timing_inputs(config.batch_size),
            list(plans),
            time_budget_s=seconds,
            min_rounds=_ROUNDS,
            label=f"timing {len(plans)} plans",
            mode=config.mode,
            concurrency=config.concurrency,
            keep=unfinished,
            tolerance=config.promise.latency_error,
            seed=config.seed,
        )

    return time
