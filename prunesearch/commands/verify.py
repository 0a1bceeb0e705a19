"""`prunesearch verify`: the front of a study measured again on the device at hand, predicted against measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import spearmanr
from torch import nn

from prunesearch.compress.fits import fits_for
from prunesearch.core.costs import find_cost
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.files import write_text_atomic
from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.plan import Plan
from prunesearch.cost.costs import Costs
from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.devices.device import at_hand, describe_device, is_device
from prunesearch.cost.energy.schedules import open_meter
from prunesearch.cost.energy.window import EnergyMeter
from prunesearch.cost.shape import conditions_of
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.forward.artefacts import read_weights
from prunesearch.search.costs.bench import Bench
from prunesearch.search.finish.items import combine_measured
from prunesearch.search.finish.remeasure import Remeasured, remeasure
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.front_items import CostAmount, FrontItem, Measured
from prunesearch.tasks.base import Task
from prunesearch.tasks.loading import check_device

_FILE = "verify.json"


class Check(BaseModel):
    """A cost of a point, in its unit: predicted, as the study measured it (if it did), and now.

    `how`: `measured` end to end, `recomputed` by what prices it, or `kept` from the study where neither can be done
    here; `now` is None for the last.
    """

    model_config = ConfigDict(extra="forbid")

    predicted: float | None
    study: float | None
    now: Measured | None
    how: Literal["measured", "recomputed", "kept"]

    @property
    def value(self) -> float:
        """What is known best: as of now, or the study's."""
        for found in (None if self.now is None else self.now.value, self.study, self.predicted):
            if found is not None:
                return found
        raise PruneSearchError("a cost that was neither predicted nor measured cannot be verified")

    @property
    def error(self) -> float | None:
        """Relative error of the prediction; None where there is none, or nothing to hold it against."""
        if self.predicted is None or self.now is None or not self.now.value:
            return None
        return self.predicted / self.now.value - 1


class VerifiedPoint(BaseModel):
    """A point: every cost of the study, under each of several loads too, and its speed-up as measured now."""

    model_config = ConfigDict(extra="forbid")

    id: str
    text: str
    costs: dict[str, Check]
    loads: list[dict[str, Check]] = Field(default_factory=list)
    speedup: float


class PredictionErrors(BaseModel):
    """Relative errors of the predictions of one cost; `rank_correlation` is Spearman's (1 for under 3 points)."""

    model_config = ConfigDict(extra="forbid")

    mape: float
    worst: float
    rank_correlation: float


class Verification(BaseModel):
    """A front against a measurement; `same_device`: the study's costs are of a device of the same name and conditions.

    `errors` are of the costs that were measured or recomputed; `notes` say which were not; `lost`: points that another
    one dominates in the study's objectives, with the costs of now.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal["prunesearch.verification"] = "prunesearch.verification"
    version: Literal[2] = 2
    study: str
    device: dict[str, Any]
    conditions: dict[str, Any]
    same_device: bool
    differences: list[str]
    notes: list[str]
    points: list[VerifiedPoint] = Field(min_length=1)
    errors: dict[str, PredictionErrors]
    lost: list[str]


def verify(
    folder: StudyFolder,
    front: Front,
    *,
    device: str | None = None,
    seconds: float = 25.0,
    task: Task | None = None,
    model: nn.Module | None = None,
) -> Verification:
    """Measure every cost of every point of a front, and of the unpruned model; written to `verify.json` of the study.

    Like is compared with like: a percentile with that percentile, several loads with each of them and with what they
    come to. What has no counter here is recomputed, if it can be.

    Args:
        folder: of the study.
        front: its front.
        device: torch device to measure on; None: that of the study, or what of its kind is at hand.
        seconds: wall time of the latencies; every point is measured ten times in any case.
        task: of a study of a caller's own model: the model with its data again, on that device.
        model: the same, with the data that the study names.

    Raises:
        PruneSearchError: if the front has no point, the device is not here, or model or data cannot be loaded.
    """
    device = _at_hand(front) if device is None else device
    check_device(device)
    facts = describe_device(device)
    if not front.points:
        raise PruneSearchError(f"the front of study '{front.study}' has no point to verify: {front.verdict.text}")
    from prunesearch.study.setup import make_setting

    for plan in (point.to_plan() for point in front.points):
        if plan.weights is not None:
            read_weights(folder.weights, plan.weights)  # that they are what was judged
    config = RunConfig(**{**front.config, "device": device})
    meter, notes = _meter(config, device)
    try:
        setting = make_setting(config, task=task, model=model)
        fits = fits_for([point.to_plan() for point in front.points], folder.path)
        with apply_(setting.task.model, Plan(), fits=fits) as handle:
            bench = Bench(setting, handle, meter=meter, seconds=seconds / len(setting.loads))
            points = measured_points(front, bench)
            inputs = setting.task.timing_inputs(config.batch_size)
            conditions = conditions_of(handle, inputs, setting.task.tokens, config.mode, config.concurrency)
    finally:
        if meter is not None:
            meter.counter.close()
    found = judge(front, facts, conditions, points, notes)
    write_text_atomic(folder.path / _FILE, found.model_dump_json(indent=1) + "\n")
    return found


def _meter(config: RunConfig, device: str) -> tuple[EnergyMeter | None, list[str]]:
    """The meter of the device where the study knows energies, or a note on why there is none."""
    if not config.needs_energy:
        return None, []
    meter = open_meter(device)
    if isinstance(meter, Unavailable):
        return None, [f"energy is not measured here ({meter.reason})"]
    return meter, []


def _at_hand(front: Front) -> str:
    """The torch device that a study was run on, or the one at hand for a study of a named device."""
    named = str(front.config.get("device", ""))
    if is_device(named):
        return named
    local = at_hand()
    return local.first if front.device.kind == local.name else "cpu"


def measured_points(front: Front, bench: Bench) -> list[VerifiedPoint]:
    """Every item of the front with its costs of now, the unpruned model first."""
    items: list[tuple[str, str, FrontItem]] = [("unpruned", "unpruned", front.unpruned)]
    items += [(p.id, p.text, p) for p in front.points]
    plans = [Plan(), *(p.to_plan().on_own_weights for p in front.points)]  # no cost depends on what weights are
    names = list(front.unpruned.costs)
    measured = remeasure(bench, names, plans)
    seen = {*measured[0].costs, *(name for load in measured[0].loads for name in load)}
    priced = {name: found for name in names if name not in seen and (found := _priced(name, bench)) is not None}
    rows = [_checks(front, item, found, measured[0]) for (_, _, item), found in zip(items, measured, strict=True)]
    for (costs, _), (_, _, item), plan in zip(rows, items, plans, strict=True):
        for name, amount in item.costs.items():
            if name not in costs:
                costs[name] = _unmeasured(amount, priced.get(name), plan)
    base = rows[0][0]["latency"].value
    return [
        VerifiedPoint(id=name, text=text, costs=costs, loads=loads, speedup=base / costs["latency"].value)
        for (name, text, _), (costs, loads) in zip(items, rows, strict=True)
    ]


def _priced(name: str, bench: Bench) -> Costs | None:
    """What recomputes a cost without the study's tables; None where nothing does."""
    pricing = find_cost(name).make_pricing()
    found: Costs | None = pricing.told(bench) or pricing.costs(bench)
    return found


def _checks(
    front: Front, item: FrontItem, mine: Remeasured, unpruned: Remeasured
) -> tuple[dict[str, Check], list[dict[str, Check]]]:
    """What was measured of an item: each cost, and those of every load."""
    costs = {name: _check(item.costs[name], found) for name, found in mine.costs.items()}
    if not front.loads:
        costs |= {name: _check(item.costs[name], found) for name, found in mine.loads[0].items()}
        return costs, []
    loads = [
        {name: _check(known[name], found) for name, found in load.items()}
        for known, load in zip(item.loads, mine.loads, strict=True)
    ]
    weights = [load.weight for load in front.loads]
    for name in mine.loads[0]:
        each, whole = ([load[name] for load in one.loads] for one in (mine, unpruned))
        together = combine_measured(each, whole, weights, front.across or "mean")
        costs[name] = _check(item.costs[name], together)
    return costs, loads


def _check(amount: CostAmount, now: Measured) -> Check:
    study = None if amount.measured is None else amount.measured.value
    return Check(predicted=amount.predicted, study=study, now=now, how="measured")


def _unmeasured(amount: CostAmount, priced: Costs | None, plan: Plan) -> Check:
    study = None if amount.measured is None else amount.measured.value
    if priced is None:
        return Check(predicted=amount.predicted, study=study, now=None, how="kept")
    now = Measured(value=priced.predict(plan))
    return Check(predicted=amount.predicted, study=study, now=now, how="recomputed")


def judge(
    front: Front,
    device: dict[str, Any],
    conditions: dict[str, Any],
    points: list[VerifiedPoint],
    notes: Sequence[str] = (),
) -> Verification:
    """Hold what was measured now against what the front says."""
    stated = front.conditions.model_dump()
    differences = [
        f"{name} {stated[name]} in the study, {value} now"
        for name, value in conditions.items()
        if stated.get(name) not in (None, value)
    ]
    if front.device.name != device["name"]:
        differences.insert(0, f"device {front.device.name} in the study, {device['name']} now")
    kept = [name for name, check in points[0].costs.items() if check.how == "kept"]
    said = [f"{name} is the study's: nothing here measures or recomputes it" for name in kept]
    items: list[FrontItem] = [front.unpruned, *front.points]
    values = [
        (*(p.costs[name].value for name in front.objectives), -item.quality.value)
        for item, p in zip(items, points, strict=True)
    ]
    lost = [p.id for p, stands in zip(points, non_dominated(values), strict=True) if not stands]
    return Verification(
        study=front.study,
        device=device,
        conditions=conditions,
        same_device=not differences,
        differences=differences,
        notes=[*notes, *said],
        points=points,
        errors={name: found for name in points[0].costs if (found := _errors([p.costs[name] for p in points]))},
        lost=[name for name in lost if name != "unpruned"],
    )


def _errors(checks: Sequence[Check]) -> PredictionErrors | None:
    """Of one cost over all points; None where it was not held against anything."""
    errors = [abs(check.error) for check in checks if check.error is not None]
    if len(errors) < len(checks):
        return None
    rank = 1.0
    if len(checks) > 2:
        rank = float(np.nan_to_num(spearmanr([c.predicted for c in checks], [c.value for c in checks])[0]))
    return PredictionErrors(mape=sum(errors) / len(errors), worst=max(errors), rank_correlation=rank)
