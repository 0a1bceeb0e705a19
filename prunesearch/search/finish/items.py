"""The unpruned model and the candidates as a front has them: what was predicted, measured and evaluated of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from prunesearch.core.costs import COSTS, find_cost
from prunesearch.core.plans.plan import Plan
from prunesearch.core.tables.registry import ACROSS
from prunesearch.cost.costs import Costs
from prunesearch.search.costs.bench import Bench
from prunesearch.search.costs.costing import Costing
from prunesearch.search.costs.latency import together
from prunesearch.search.finish.remeasure import Remeasured
from prunesearch.search.trials.evaluate import Evaluation, InViews
from prunesearch.study.front_items import CostAmount, Difference, Fidelity, Measured, MetricValue, Point, Unpruned
from prunesearch.study.trials import TrialRecord
from prunesearch.tasks.metrics.metric import Metric
from prunesearch.tasks.views.by_row import OverViews

T = TypeVar("T")


@dataclass(frozen=True)
class Reference:
    """The unpruned model: its evaluation on the holdout split, and its quality on the rows of the search."""

    evaluation: Evaluation
    calibration: float


@dataclass(frozen=True)
class ItemMaker:
    """Makes the items of a front.

    Attributes:
        costing: what schedules cost by prediction.
        bench: of the run.
        metric: what quality is called.
        reference: the unpruned model.
    """

    costing: Costing
    bench: Bench
    metric: str
    reference: Reference

    def unpruned(self, measured: Remeasured) -> Unpruned:
        """The unpruned model."""
        quality = metric_value(self.reference.evaluation, self.reference.calibration)
        loads = self._loads(Plan(), measured)
        return Unpruned(
            qualities={self.metric: quality, **self._in_views(self.reference.evaluation)},
            costs=self._costs(Plan(), measured, self.reference.evaluation, loads, loads),
            loads=self._several(loads),
            tokens=self._tokens(Plan()),
            rows=self.reference.evaluation.n,
        )

    def point(self, record: TrialRecord, evaluation: Evaluation, measured: Remeasured, base: Remeasured) -> Point:
        """A candidate; `base` is what was measured of the unpruned model."""
        plan, reference = record.plan, self.reference.evaluation
        quality = value_beside(reference, evaluation, record.quality)
        loads, whole = self._loads(plan, measured), self._loads(Plan(), base)
        costs = self._costs(plan, measured, evaluation, loads, whole)
        unpruned = self._costs(Plan(), base, reference, whole, whole)
        return Point(
            id=f"t{record.number}",
            trial=record.number,
            plan=plan.to_dict(),
            text=str(plan),
            rows=evaluation.n,
            qualities={self.metric: quality, **self._in_views(evaluation, reference.first(evaluation.n))},
            fidelity=fidelity_of(evaluation, record.loss),
            costs=costs,
            loads=self._several(loads),
            tokens=self._tokens(plan),
            speedup=unpruned["latency"].value / costs["latency"].value,
        )

    @staticmethod
    def _in_views(evaluation: Evaluation, unpruned: Evaluation | None = None) -> dict[str, MetricValue]:
        """The quality in every view, with the change from the `unpruned` model's there."""
        found = {name: metric_value(there, None) for name, there in evaluation.in_views.items()}
        if unpruned is None:
            return found
        changes = {
            name: paired_difference_to(base, evaluation.in_views[name]) for name, base in unpruned.in_views.items()
        }
        return {name: value.model_copy(update={"difference": changes[name]}) for name, value in found.items()}

    @cached_property
    def _told(self) -> dict[str, Costs]:
        """What prices the costs of the run, and those that every study is told, by name."""
        found = {}
        for name, row in COSTS.entries().items():
            costs = self.costing.costs_of(name)
            if costs is None and row.always:
                costs = row.make_pricing().told(self.bench)
            if costs is not None:
                found[name] = costs
        return found

    def _loads(self, plan: Plan, measured: Remeasured) -> list[dict[str, CostAmount]]:
        """The costs that every load has its own of, under each."""
        found: list[dict[str, CostAmount]] = []
        for index, load in enumerate(self.costing.loads):
            known = measured.loads[index] if measured.loads else {}
            found.append({"latency": CostAmount(predicted=load.costs.predict(plan), measured=known.get("latency"))})
        return found

    def _several(self, loads: list[dict[str, CostAmount]]) -> list[dict[str, CostAmount]]:
        return loads if len(loads) > 1 else []

    def _costs(
        self,
        plan: Plan,
        measured: Remeasured,
        evaluation: Evaluation,
        loads: Sequence[Mapping[str, CostAmount]],
        unpruned: Sequence[Mapping[str, CostAmount]],
    ) -> dict[str, CostAmount]:
        """Every cost of the study; of several loads what they come to together."""
        config = self.bench.config
        weights = [load.weight for load in self.costing.loads]
        costs: dict[str, CostAmount] = {}
        for name in loads[0]:
            mine, whole = ([load[name] for load in one] for one in (loads, unpruned))
            costs[name] = mine[0] if len(mine) == 1 else combine(mine, whole, weights, config.across)
        for name, priced in self._told.items():
            if name not in costs:
                costs[name] = CostAmount(predicted=priced.predict(plan), measured=measured.costs.get(name))
        for name in sorted(config.costs - set(costs)):
            found = find_cost(name).make_pricing().found(evaluation) or measured.costs.get(name)
            if found is not None:
                costs[name] = CostAmount(measured=found)
        return costs

    def _tokens(self, plan: Plan) -> list[int]:
        return plan.flow(self.bench.setting.geometry).counts


def combine(
    mine: Sequence[CostAmount], unpruned: Sequence[CostAmount], weights: Sequence[float], across: str
) -> CostAmount:
    """What a cost under several loads comes to, predicted and measured each, as far as all loads have it."""
    predicted, base = _each(a.predicted for a in mine), _each(a.predicted for a in unpruned)
    found, whole = _each(a.measured for a in mine), _each(a.measured for a in unpruned)
    return CostAmount(
        predicted=together(predicted, base, weights, across) if predicted and base else None,
        measured=combine_measured(found, whole, weights, across) if found and whole else None,
    )


def combine_measured(
    mine: Sequence[Measured], unpruned: Sequence[Measured], weights: Sequence[float], across: str
) -> Measured:
    """What was measured under several loads comes to; it has no quantiles."""
    value = together([m.value for m in mine], [m.value for m in unpruned], weights, across)
    medians, base = _each(m.median for m in mine), _each(m.median for m in unpruned)
    return Measured(value=value, median=together(medians, base, weights, across) if medians and base else None)


def _each(values: Iterable[T | None]) -> list[T] | None:
    """The values, if none is missing."""
    listed = list(values)
    found = [value for value in listed if value is not None]
    return found if len(found) == len(listed) else None


def fidelity_of(evaluation: Evaluation, calibration: float) -> Fidelity:
    """How close a plan stays to the unpruned model on holdout rows; `calibration` is its divergence on the others."""
    return Fidelity(
        kl=evaluation.loss,
        agreement=evaluation.agreement,
        agreement_at_least=evaluation.agreement_at_least(),
        calibration_kl=calibration,
    )


def metric_value(evaluation: Evaluation, calibration: float | None, moved: float = 0.0) -> MetricValue:
    """The metric with its interval, and on the calibration rows of the search.

    `moved` is what it would have more or less on all rows, by what the unpruned model has there: the difference to
    that model is known from few rows, the luck of these rows is both models' (a control variate).
    """
    if evaluation.views is not None:
        (value, low, high), bound = _over(evaluation.metric, evaluation.views).interval(evaluation.statistics)
        found = {"low": _known(low), "high": _known(high), "at_least": _known(bound)}
        return MetricValue(value=value, calibration=calibration, **found)
    metric = evaluation.metric
    at_least = metric.interval(evaluation.statistics, 0.90)[1]  # of two sides, each 5 %
    value, low, high, at_least = (
        min(metric.highest, max(metric.lowest, end + moved))
        for end in (*metric.interval(evaluation.statistics), at_least)
    )
    ends = {"low": _known(low), "high": _known(high), "at_least": _known(at_least)}
    return MetricValue(value=value, calibration=calibration, **ends)


def value_beside(reference: Evaluation, evaluation: Evaluation, calibration: float | None) -> MetricValue:
    """The metric with its difference to a reference, which may be of more rows: see `metric_value` for those."""
    same = reference.first(evaluation.n)
    difference = paired_difference_to(same, evaluation)
    moved = 0.0 if same is reference else reference.quality + difference.value - evaluation.quality
    return metric_value(evaluation, calibration, moved).model_copy(update={"difference": difference})


def paired_difference_to(reference: Evaluation, evaluation: Evaluation) -> Difference:
    """How much better than another evaluation of the same rows."""
    if evaluation.views is not None:
        together = _over(evaluation.metric, evaluation.views)
        (value, low, high), at_least = together.difference(reference.statistics, evaluation.statistics)
        return Difference(value=value, low=_known(low), high=_known(high), at_least=_known(at_least))
    value, low, high = evaluation.metric.difference(reference.statistics, evaluation.statistics)
    at_least = evaluation.metric.at_least(reference.statistics, evaluation.statistics)
    return Difference(value=value, low=_known(low), high=_known(high), at_least=_known(at_least))


def _over(metric: Metric, views: InViews) -> OverViews:
    """What the metric comes to over the views."""
    return OverViews(metric, views.of, views.rows, mean=ACROSS.entry(views.over).weighted)


def _known(end: float) -> float | None:
    """An end of an interval; None for one without bound, of which nothing is known."""
    return end if math.isfinite(end) else None
