"""Stages whose thresholds are learnt (LTP, Kim et al. 2022): where training begins, and how fast what it finds is."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from prunesearch import __version__
from prunesearch.core.events import say
from prunesearch.core.plans.amount import Threshold
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.search.adaptive.by_score import RowTwins, matched
from prunesearch.search.adaptive.row_prices import RowPrices
from prunesearch.tasks.objects import digest_of
from prunesearch.training.thresholds import ThresholdSchool
from prunesearch.training.trainer import Trained

SITES = (0.25, 0.5, 0.75)  # of the depth: where stages are
_EARLIER = (1.0, 0.5, 0.25)  # factors of these: of the latest stages that are fast enough
_NOTHING, _EASILY = 1e-3, 0.8  # a share that leaves next to nothing; of a time, within which that must be
SCORERS = ("attention_received", "cls_attention")
_TIMES = (1.0, 0.85)  # of the time that is aimed at: all thresholds of a plan are moved together until they have it
_UNDER = 0.985  # of a time that is sought, so that it is met
_FARTHEST, _STEPS = 16.0, 9  # factor of thresholds, at most; halvings of its logarithm
_LEAST_SHARE = 0.8  # of the unpruned time, at most, that is aimed at


class LearntPlan(NamedTuple):
    """Stages with learnt thresholds, and the same stages as training began, both at one time by the cost table."""

    plan: Plan
    begun: Plan
    trained: Trained


@dataclass
class LearntThresholds:
    """Trains thresholds, and moves them to times.

    Attributes:
        school: what trains.
        prices: of plans on calibration rows.
        twins: finds thresholds that leave as many tokens as fractions do.
        depth: of the model.
        seen: plans that were found, by their names.
    """

    school: ThresholdSchool
    prices: RowPrices
    twins: RowTwins
    depth: int
    seen: dict[str, LearntPlan] = field(default_factory=dict)

    def plans(self, aim: float, changes: tuple[Change, ...] = ()) -> dict[str, Plan]:
        """Plans with learnt thresholds that take about `aim` of the unpruned time, and less.

        Args:
            aim: share of the unpruned time; at most `_LEAST_SHARE` is aimed at.
            changes: of the model, which they are to have beside their stages; training does without them.
        """
        aim = min(aim, _LEAST_SHARE)
        time = aim * self.prices.mean(Plan())
        for scorer in SCORERS:
            begun = self._begun(scorer, time, changes)
            label, key = f"thresholds of {scorer}", self._key(begun, aim)
            with torch.inference_mode(False), torch.enable_grad():
                learnt, trained = self.school.learn(list(begun), key, label)
            say(f"{label}: {_numbers(begun)} before, {_numbers(learnt)} after {trained.steps} steps")
            for share in _TIMES:
                plan, before = (self._at(list(one), share * time, changes) for one in (learnt, begun))
                self.seen[f"{scorer} at {share:g}"] = LearntPlan(plan, before, trained)
        return {name: found.plan for name, found in self.seen.items()}

    def of(self, plan: Plan) -> LearntPlan:
        """What is known of a plan that was found."""
        return next(found for found in self.seen.values() if found.plan == plan)

    def _begun(self, scorer: str, time: float, changes: tuple[Change, ...]) -> Plan:
        """Thresholds at a time which leave as many tokens as stages that each take the same share of what comes."""

        def fractions(share: float, sites: Sequence[int]) -> Plan:
            stages = [Stage(site, share ** (i + 1), scorer, "drop") for i, site in enumerate(sites)]
            return Plan(Schedule(stages), changes)

        def reaches(sites: Sequence[int]) -> bool:
            return self.prices.mean(fractions(_NOTHING, sites)) <= _EASILY * time

        able = [sorted({int(part * first * self.depth) for part in SITES}) for first in _EARLIER]
        sites = next((some for some in able if reaches(some)), able[-1])
        share = matched(lambda share: self.prices.mean(fractions(share, sites)), _UNDER * time, bounded=True)
        twin = self.twins.of(fractions(share, sites), "t")
        if twin is None:
            raise TypeError("stages by a score have twins with thresholds")
        return self._at(list(twin), time, changes)

    def _at(self, stages: Sequence[Stage], time: float, changes: tuple[Change, ...]) -> Plan:
        """The stages with all thresholds times one number, so that batches take a time on average."""

        def moved(number: float) -> Plan:
            made = [stage.replace(keep=Threshold(stage.amount.number * number)) for stage in stages]
            return Plan(Schedule(made), changes)

        return moved(_nearest(lambda number: self.prices.mean(moved(number)), _UNDER * time))

    def _key(self, begun: Plan, aim: float) -> str:
        """What tells a training from all others; where it began hangs on the clock, and is taken up again."""
        school = self.school
        facts = [
            "thresholds",
            [[str(stage.place), stage.scorer] for stage in begun],
            round(aim, 1),
            school.settings.to_dict(),
            school.rows.digest,
            digest_of(school.task),
            __version__,
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _nearest(takes: Callable[[float], float], wanted: float) -> float:
    """A factor of thresholds with which a plan takes no more than wanted, or as little as it can."""
    low, high = 1 / _FARTHEST, _FARTHEST
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if takes(middle) > wanted else (low, middle)
    return high


def _numbers(plan: Plan) -> str:
    return ", ".join(f"{stage.amount.number:.3g}" for stage in plan)
