"""`prunesearch adapt`: plans of a study's front chosen row by row, and stages that go by each row's scores.

They meet the static front at equal mean time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from prunesearch.commands.tuning.judging import SCRATCH, Tuning, Wanted
from prunesearch.compress.fits import fits_for
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import plan as plan_steps
from prunesearch.core.events import say, step
from prunesearch.core.plans.plan import Plan
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.export.by_row.serving import keep_guesses
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.families.find import find_encoder
from prunesearch.search.adaptive.adapting import (
    BY_SCORE,
    LEARNT,
    ROUTER,
    UNPRUNED,
    Adapting,
    AdaptSettings,
    mean_by_plan,
)
from prunesearch.search.adaptive.bounding import row_budget
from prunesearch.search.adaptive.choosing import RowRule
from prunesearch.search.finish.illustrate import report_study
from prunesearch.search.finish.items import fidelity_of, metric_value, paired_difference_to
from prunesearch.search.rivals.any_method import AnyMethod
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.front_records import Adapted, LearntInfo, RowDuel, RowLatency, RowPlans, RowPriced, RowsLeft
from prunesearch.study.setup import Setting, make_setting
from prunesearch.study.trials import read_trials, study_place
from prunesearch.tasks.base import Task
from prunesearch.training.settings import TrainingSettings
from prunesearch.training.thresholds import ThresholdSchool

_NAMED = {BY_SCORE: "plan whose stages go by each row's scores", LEARNT: "plan of learnt thresholds"}
_NEAR = 1.02  # of a mean time, up to which another one is not more


def adapt(
    folder: StudyFolder,
    front: Front,
    wanted: AdaptSettings,
    *,
    learning: Wanted | None = None,
    task: Task | None = None,
) -> Front:
    """Choose plans and a threshold on calibration rows, check them on the holdout, time all of it, and write it down.

    Args:
        folder: of the study; its front and report are written again.
        front: its front.
        wanted: what is asked for.
        learning: rows and settings with which thresholds are learnt; None: none are.
        task: of a study of a caller's own model: the model with its data again.

    Returns:
        The front with `adapted`.

    Raises:
        PruneSearchError: if the front has no point, answers are no classes, the device is not here, or thresholds are
            to be learnt for batches that the cost table is not of.
    """
    if not front.points:
        raise PruneSearchError(
            f"plans of a front are chosen between, but '{front.study}' has none: {front.verdict.text}"
        )
    plan_steps(4)
    sizes = front.conditions.batch_size, wanted.batch_sizes[0]
    if learning is not None and len(set(sizes)) > 1:
        raise PruneSearchError(
            f"thresholds are learnt towards a time by the study's cost table, which is of batches of {sizes[0]}, but "
            f"got {sizes[1]} first: give --batch-size {sizes[0]}"
        )
    step(f"loading {front.model.id}")
    setting = make_setting(RunConfig(**front.config), task=task)
    if not setting.target.here:
        raise PruneSearchError(
            "what is chosen row by row is timed, but the study's device is not at hand: run it there"
        )
    school = None if learning is None else school_of(folder, setting, learning)
    fits = fits_for([point.to_plan() for point in front.points], folder.path)
    with apply_(setting.task.model, Plan(), seed=setting.config.seed, fits=fits) as handle:
        table = AnyMethod(CostTable.load(folder.cost_table)) if len(set(sizes)) == 1 else None
        with torch.inference_mode():
            found = adapted(Adapting(front, setting, handle, wanted, table=table, school=school), folder.weights)
        front = front.model_copy(update={"adapted": found})
        trials = read_trials(**study_place(folder, folder.load_config().get("storage")))
        report_study(folder, front, setting, handle, trials)
    front.save(folder.front)
    return front


def adapt_wanted(
    *,
    budget: str | None = None,
    percentile: float | None = None,
    learn_thresholds: bool = False,
    train: Any = None,
    training: TrainingSettings | None = None,
    **settings: Any,
) -> tuple[AdaptSettings, Wanted | None]:
    """What is asked for, and how thresholds are to be learnt; None for the latter where they are not.

    Raises:
        PruneSearchError: for settings that cannot be, and where rows or a training are given for nothing.
    """
    found = AdaptSettings(**settings, budget=row_budget(budget, percentile))
    if not learn_thresholds:
        if train is not None or training is not None:
            raise PruneSearchError("rows and epochs are of thresholds that are learnt: add --learn-thresholds")
        return found, None
    if training is not None and training.seconds is not None:
        raise PruneSearchError("thresholds are learnt for so many epochs, but got a time: give epochs")
    return found, Wanted(training or TrainingSettings(), train=str(train) if isinstance(train, Path) else train)


def school_of(folder: StudyFolder, setting: Setting, learning: Wanted) -> ThresholdSchool:
    """What learns thresholds of a study's model."""
    find_encoder(setting.task.model)  # decoders have no stages by row
    rows = Tuning(folder, learning, setting).rows
    return ThresholdSchool(setting.task, rows, learning.settings, folder.path / SCRATCH)


def adapted(work: Adapting, weights: Path | None = None) -> Adapted:
    """What is chosen, judged and timed; the router's own weights go into the folder `weights`, to be exported from."""
    step(f"choosing thresholds on {work.split('calibration').n} calibration rows")
    chosen = work.choose()
    for name, one in chosen.items():
        say(f"{name}: {' > '.join(one.plans)}, by {one.by}")
    step(f"checking them on {work.split('holdout').n} holdout rows")
    evaluations = {name: found.evaluation for name, found in work.holdout[0].items()}
    evaluations |= {name: work.judged(name, one) for name, one in chosen.items()}
    step("timing")
    found = _found(work, chosen, evaluations, work.times(chosen))
    if weights is None or ROUTER not in chosen:
        return found
    kept = keep_guesses(weights, work.guesses_of(chosen[ROUTER]))
    contestants = [one.model_copy(update={"guesses": kept}) if one.routes else one for one in found.contestants]
    return found.model_copy(update={"contestants": contestants})


def _found(
    work: Adapting,
    chosen: Mapping[str, RowRule],
    evaluations: Mapping[str, Evaluation],
    times: Mapping[int, Mapping[str, Sequence[float]]],
) -> Adapted:
    contestants = [_contestant(work, name, chosen.get(name), evaluations, times) for name in evaluations]
    notes = [
        f"{one.name}: all holdout rows go to {one.plans[one.shares.index(1.0)]}: there is nothing to decide"
        for one in contestants
        if one.decides and 1.0 in one.shares
    ]
    sizes = work.wanted.batch_sizes
    if len(sizes) > 1:
        notes.append(f"chosen by what plans take in batches of {sizes[0]}: give `adapt` one batch size for another")
    notes += _on_budget(work, chosen, times)
    if work.front.combined is not None:
        notes.append("rows are as they are, in no view")
    left_out = len(work.front.points) + 1 - len(work.plans)
    if left_out:
        notes.append(f"{left_out} points with weights of their own take no part: one model is in memory")
    missing = [kind for kind in work.kinds if kind not in chosen]
    if missing:
        named = [_NAMED.get(kind, kind) for kind in missing]
        bound = "" if work.wanted.budget is None else f", {work.wanted.budget.words},"
        notes.append(f"no {' and no '.join(named)} keeps {work.wanted.keep:.0%}{bound} on the calibration rows")
    within = [one for one in contestants if one.kind != "static" or work.fast_enough(one.name)]
    within = within if any(one.kind == "static" for one in within) else contestants
    return Adapted(
        keep=work.wanted.keep,
        rows=next(iter(evaluations.values())).n,
        batches=work.wanted.batches,
        contestants=contestants,
        duels=[
            duel_at(one, [*within, one], evaluations, size, work.task.metric)
            for one in contestants
            if one.kind != "static"
            for size in work.wanted.batch_sizes
        ],
        notes=notes,
    )


def _contestant(
    work: Adapting,
    name: str,
    one: RowRule | None,
    evaluations: Mapping[str, Evaluation],
    times: Mapping[int, Mapping[str, Sequence[float]]],
) -> RowPlans:
    evaluation = evaluations[name]
    calibration = work.calibration[0][name].evaluation.quality if one is None else one.quality
    value = metric_value(evaluation, calibration)
    if name != UNPRUNED:
        value = value.model_copy(update={"difference": paired_difference_to(evaluations[UNPRUNED], evaluation)})
    if one is None:
        latencies = [_latency(size, found[name]) for size, found in times.items()]
        return RowPlans(
            name=name,
            kind="static",
            plans=[name],
            shares=[1.0],
            calibration=calibration,
            quality=value,
            latencies=latencies,
        )
    places = work.places(name, one)
    shares = [float((places == place).double().mean()) for place in range(len(one.plans))]
    latencies = []
    for size, found in times.items():
        means = {key: float(np.mean(ms)) for key, ms in found.items()}
        latencies.append(_latency(size, found[name], mean_by_plan(name, one, shares, means)))
    router, plan = name == ROUTER, work.stages.get(name)
    left = [] if plan is None else sorted(work.left(plan))
    return RowPlans(
        name=name,
        kind="stages" if plan is not None else "router" if router else "cascade",
        plans=list(one.plans),
        plan=None if plan is None else plan.to_dict(),
        left=RowsLeft.of(left) if left else None,
        learnt=_learnt(work, plan, evaluation) if name == LEARNT and plan is not None else None,
        priced=None if plan is None else _priced(work, plan),
        fidelity=None if plan is None else fidelity_of(evaluation, one.loss),
        by=one.by,
        threshold=None if plan is not None else one.threshold,
        block=work.wanted.block if router else None,
        shares=shares,
        calibration=calibration,
        quality=value,
        latencies=latencies,
    )


def _learnt(work: Adapting, plan: Plan, evaluation: Evaluation) -> LearntInfo | None:
    """What training took, and what it gained over the thresholds that it began with."""
    if work.learning is None:
        return None
    found, school = work.learning.of(plan), work.learning.school
    before = work.evaluated({"begun": found.begun}, work.split("holdout"))["begun"]
    return LearntInfo(
        steps=found.trained.steps,
        seconds=found.trained.seconds,
        rows=len(school.rows.learnt),
        begun=str(found.begun),
        difference=paired_difference_to(before, evaluation),
    )


def _priced(work: Adapting, plan: Plan) -> RowPriced | None:
    """What a plan of stages by row was to take by the cost table."""
    if work.table is None:
        return None
    ms = work.row_prices.of(plan)
    return RowPriced(
        batch_size=work.wanted.batch_sizes[0],
        mean=float(np.mean(ms)),
        p95=float(np.quantile(ms, 0.95)),
        counting=work.row_prices.counting,
    )


def _on_budget(work: Adapting, chosen: Iterable[str], times: Mapping[int, Mapping[str, Sequence[float]]]) -> list[str]:
    """What batches of holdout rows took beside the bound that calibration rows kept."""
    budget, limit = work.wanted.budget, work.limit
    if budget is None or limit is None:
        return []
    size, notes = work.wanted.batch_sizes[0], []
    for name in chosen:
        ms = budget.of(times[size][name])
        kept = "is kept" if ms <= limit else "is broken"
        notes.append(f"{name}: {budget.words} ({limit:.2f} ms) {kept} in batches of {size} holdout rows: {ms:.2f} ms")
    return notes


def _latency(size: int, ms: Sequence[float], by_plan: float | None = None) -> RowLatency:
    p50, p95 = (float(np.quantile(ms, q)) for q in (0.5, 0.95))
    return RowLatency(batch_size=size, mean=float(np.mean(ms)), p50=p50, p95=p95, worst=float(max(ms)), by_plan=by_plan)


def duel_at(
    mine: RowPlans, others: Sequence[RowPlans], evaluations: Mapping[str, Evaluation], size: int, metric: str
) -> RowDuel:
    """Against the static plan that is best on calibration rows among those that take no more on average."""
    limit = _at(mine, size).least
    static = [one for one in others if one.kind == "static"]
    # what takes no more whatever the clock says: all that is run, and what a cascade runs for every row
    only = [plan for plan, share in zip(mine.plans, mine.shares, strict=True) if share == 1 and mine.decides]
    part = only or (mine.plans[:1] if not mine.routes and mine.decides else [])
    able = [one for one in static if one.name in part or (not only and _at(one, size).mean <= _NEAR * limit)]
    means = {one.name: _at(one, size).mean for one in static}
    rival = max(able, key=lambda one: (one.calibration, -means[one.name]), default=None)
    rival = rival or min(static, key=lambda one: means[one.name])
    change = paired_difference_to(evaluations[rival.name], evaluations[mine.name])
    low, high = change.ends or (-1.0, 1.0)
    winner: Literal["adaptive", "static", "neither"] = "adaptive" if low > 0 else "static" if high < 0 else "neither"
    around = f"{100 * change.value:+.2f} points of {metric} (95 %: {100 * low:+.2f} to {100 * high:+.2f})"
    against = f"{rival.name} for every row ({means[rival.name]:.2f} ms)"
    who = f"{mine.name} ({limit:.2f} ms on average)"
    said = {
        "adaptive": f"{who} is better than {against}: {around}",
        "static": f"static wins: {who} is worse than {against}: {around}",
        "neither": f"no gain shown: {who} against {against}: {around}; take the static plan, whose time is the same "
        "for every row",
    }[winner]
    return RowDuel(batch_size=size, adaptive=mine.name, static=rival.name, difference=change, winner=winner, text=said)


def _at(one: RowPlans, size: int) -> RowLatency:
    return next(found for found in one.latencies if found.batch_size == size)
