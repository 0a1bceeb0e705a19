"""`prunesearch stress`: points of a front on rows that were attacked, on other data, and class by class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor

from prunesearch.compress.fits import fits_for
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import plan as plan_steps
from prunesearch.core.events import step, track
from prunesearch.core.plans.plan import Plan
from prunesearch.export.by_row.serving import Server
from prunesearch.pruning.apply import Handle, apply_
from prunesearch.pruning.forward.twins import Fits
from prunesearch.search.adaptive.dearness import PIXELS, Dearness, dearer_notes, timed_beside
from prunesearch.search.finish.illustrate import report_study
from prunesearch.search.finish.items import metric_value, paired_difference_to
from prunesearch.search.finish.robustness import rank_correlation
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.front_compared import AttackedPlan, DearerPlan, Stressed, StressedPlan
from prunesearch.study.front_items import ClassQuality, MetricValue
from prunesearch.study.setup import Setting, make_setting
from prunesearch.study.trials import read_trials, study_place
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import Batch, EvalSet
from prunesearch.tasks.kinds.classification import logits_of
from prunesearch.tasks.loading import load
from prunesearch.tasks.views.attacks import ATTACKS, COMPUTE, Colours, attacked

UNPRUNED, BY_SCORE = "unpruned", "by-score"


@dataclass(frozen=True)
class StressSettings:
    """What is asked for.

    Attributes:
        attacks: names in `ATTACKS`, or `compute`, which makes stages by row leave more; empty: none.
        eps: most that a channel of a pixel changes, of 1.
        data: other rows of the same classes, as `run --data` takes them; None: none.
        rows: of the holdout split, at most.
        attacked: of these, at most, that are attacked.
    """

    attacks: tuple[str, ...] = ()
    eps: float = 2 / 255
    data: str | None = None
    rows: int = 2048
    attacked: int = 256

    def __post_init__(self) -> None:
        for name in self.attacks:
            if name not in (*ATTACKS, COMPUTE):
                raise PruneSearchError(f"unknown attack '{name}': use {', '.join(ATTACKS)} or {COMPUTE}")
        if not 0 < self.eps < 1:
            raise PruneSearchError(f"`0 < eps < 1` must hold: it is a part of a channel's range, but got {self.eps}")
        if min(self.rows, self.attacked) < 1:
            raise PruneSearchError(f"`rows >= 1` must hold, but got {min(self.rows, self.attacked)}")


def stress(folder: StudyFolder, front: Front, wanted: StressSettings, *, task: Task | None = None) -> Front:
    """Judge the points of a study where rows are not like those that it was searched on, and write it down.

    Args:
        folder: of the study; its front and report are written again.
        front: its front.
        wanted: what is asked for.
        task: of a study of a caller's own model: the model with its data again.

    Returns:
        The front with `stressed`.

    Raises:
        PruneSearchError: if answers are no classes, attacks are asked for on what is no picture, or the other data does
            not fit the model.
    """
    plan_steps(2 + bool(wanted.attacks) + (wanted.data is not None))
    step(f"loading {front.model.id}")
    setting = make_setting(RunConfig(**front.config), task=task)
    plans = plans_of(front)
    fits = fits_for(list(plans.values()), folder.path)
    with apply_(setting.task.model, Plan(), seed=setting.config.seed, fits=fits) as handle:
        found = Stressing(front, setting, handle, plans, wanted, fits).found()
        front = front.model_copy(update={"stressed": found})
        trials = read_trials(**study_place(folder, folder.load_config().get("storage")))
        report_study(folder, front, setting, handle, trials)
    front.save(folder.front)
    return front


def plans_of(front: Front) -> dict[str, Plan]:
    """The unpruned model, the points on its weights, and the plan of stages by row, where one was found."""
    found = {UNPRUNED: Plan()}
    found |= {point.id: point.to_plan() for point in front.points if point.to_plan().weights is None}
    contestants = [] if front.adapted is None else front.adapted.contestants
    return found | {one.name: Plan.from_dict(one.plan) for one in contestants if one.plan is not None}


@dataclass(frozen=True)
class Judged:
    """A plan on rows: what it finds, which answers are right, and how many tokens are behind the last block."""

    evaluation: Evaluation
    right: Tensor
    tokens: float


@dataclass(frozen=True)
class Stressing:
    """The work on one study.

    Attributes:
        front: of the study.
        setting: of its model and data.
        handle: on the model.
        plans: that are judged, the unpruned model first.
        wanted: what is asked for.
        fits: weights of changes of halves of blocks.
    """

    front: Front
    setting: Setting
    handle: Handle
    plans: Mapping[str, Plan]
    wanted: StressSettings
    fits: Fits | None = None

    @property
    def task(self) -> Task:
        """The model with its data."""
        return self.setting.task

    @cached_property
    def rows(self) -> EvalSet:
        """Holdout rows, as they are."""
        return self.task.splits["holdout"].take(self.wanted.rows)

    def found(self) -> Stressed:
        """All that is asked for."""
        step(f"{len(self.plans)} plans on {self.rows.n} holdout rows, class by class")
        clean = {name: self._clean(plan, self.rows.batches) for name, plan in track_of(self.plans)}
        shifted, other = self._shifted()
        attacks, dearer = self._attacked(), self._dearer()
        told = [self._plan(name, clean, shifted) for name in self.plans]
        return Stressed(
            rows=self.rows.n,
            attacked_rows=min(self.wanted.attacked, self.rows.n) if self.wanted.attacks else 0,
            eps=self.wanted.eps if self.wanted.attacks else None,
            data=self.wanted.data,
            shifted_rows=0 if other is None else other.n,
            plans=told,
            attacked=attacks,
            dearer=dearer,
            notes=[*stress_notes(told, attacks), *dearer_notes(dearer)],
        )

    def _clean(self, plan: Plan, batches: Iterable[Batch]) -> Judged:
        """A plan on batches of the study's own data."""
        return judged(self.task, self.handle, plan, batches)

    def _plan(self, name: str, clean: Mapping[str, Judged], shifted: Mapping[str, Judged]) -> StressedPlan:
        return StressedPlan(
            name=name,
            quality=_beside(name, clean),
            tokens=clean[name].tokens,
            classes=self._classes(name, clean),
            shifted=_beside(name, shifted) if shifted else None,
        )

    def _classes(self, name: str, clean: Mapping[str, Judged]) -> list[ClassQuality]:
        labels = torch.as_tensor(self.rows.labels).cpu()
        found = []
        for label in sorted(set(labels.tolist())):
            mine = labels == label
            quality, base = (float(clean[one].right[mine].mean()) for one in (name, UNPRUNED))
            names = self.task.label_names
            called = names[label] if label < len(names) else str(label)
            found.append(ClassQuality(name=called, rows=int(mine.sum()), quality=quality, change=quality - base))
        return sorted(found, key=lambda one: (one.change, one.quality))

    # -- other data ----------------------------------------------------------------------------------------------------

    def _shifted(self) -> tuple[dict[str, Judged], EvalSet | None]:
        if self.wanted.data is None:
            return {}, None
        step(f"{len(self.plans)} plans on {self.wanted.data}")
        other: dict[str, Any] = {"data": self.wanted.data, "given_digest": None, "robust": []}
        config = RunConfig(**{**self.front.config, **other})
        task = make_setting(config).task
        if task.label_names != self.task.label_names:
            raise PruneSearchError(
                f"rows of other data must have the model's classes, but '{self.wanted.data}' has "
                f"{', '.join(task.label_names[:5])}: give rows with {', '.join(self.task.label_names[:5])}"
            )
        rows = task.splits["holdout"].take(self.wanted.rows)
        with apply_(task.model, Plan(), seed=config.seed, fits=self.fits) as handle:
            found = {name: judged(task, handle, plan, rows.batches) for name, plan in track_of(self.plans)}
        return found, rows

    # -- attacks -------------------------------------------------------------------------------------------------------

    @cached_property
    def _colours(self) -> Colours:
        processor: Any = load(AutoImageProcessor, str(self.setting.source.id), "image processor", backend="pil")
        if not getattr(processor, "do_normalize", False):
            return Colours([0.0], [1.0])
        return Colours(list(processor.image_mean), list(processor.image_std))

    @cached_property
    def _pictures(self) -> list[Batch]:
        """The rows that are attacked."""
        batches = list(self.rows.take(min(self.wanted.attacked, self.rows.n)).batches)
        if any(set(batch.inputs) != {PIXELS} for batch in batches):
            raise PruneSearchError("attacks change pixels, but the model reads more, or none: leave --attack out")
        return batches

    def _dearer(self) -> list[DearerPlan]:
        if COMPUTE not in self.wanted.attacks:
            return []
        if BY_SCORE not in self.plans:
            raise PruneSearchError(
                "an attack on compute needs a plan of stages by row: every other plan computes on as many tokens "
                f"whatever is in a row; `prunesearch adapt {self.front.study}` looks for one"
            )
        step(f"attacking what {self.plans[BY_SCORE]} computes")
        plain, made = self._pictures, Dearness(self.task.model, self.handle)
        changed = self._changed(self.plans[BY_SCORE], plain, COMPUTE, made)
        return [self._beside(name, plan, plain, changed) for name, plan in track_of(self.plans)]

    def _beside(self, name: str, plan: Plan, plain: Sequence[Batch], changed: Sequence[Batch]) -> DearerPlan:
        """A plan on rows as they are and as they were changed; both are timed in turn, in batches of the study."""
        before, after = (self._clean(plan, batches) for batches in (plain, changed))
        size, seed = self.setting.config.batch_size, self.setting.config.seed
        pixels = [[batch.inputs[PIXELS] for batch in batches] for batches in (plain, changed)]
        ms = timed_beside(Server(self.task.model, self.handle).static(plan), pixels[0], pixels[1], size, seed)
        return DearerPlan(
            name=name,
            tokens=before.tokens,
            attacked_tokens=after.tokens,
            ms=ms[0],
            attacked_ms=ms[1],
            quality=before.evaluation.quality,
            attacked_quality=after.evaluation.quality,
        )

    def _attacked(self) -> list[AttackedPlan]:
        attacks = [name for name in self.wanted.attacks if name != COMPUTE]
        if not attacks:
            return []
        batches = self._pictures
        step(f"attacking {len(self.plans)} plans: {', '.join(attacks)}")
        able = {name: plan for name, plan in self.plans.items() if not plan.changes}
        found = []
        for attack in attacks:
            changed = {name: self._changed(plan, batches, attack) for name, plan in track_of(able)}
            for name, plan in able.items():
                own = self._clean(plan, changed[name])
                found.append(
                    AttackedPlan(
                        name=name,
                        attack=attack,
                        own=own.evaluation.quality,
                        from_unpruned=self._clean(plan, changed[UNPRUNED]).evaluation.quality,
                        to_unpruned=self._clean(Plan(), changed[name]).evaluation.quality,
                        tokens=own.tokens,
                    )
                )
        return found

    def _changed(
        self, plan: Plan, batches: Sequence[Batch], attack: str, forward: Callable[[Tensor], Tensor] | None = None
    ) -> list[Batch]:
        """The batches with pixels that mislead a plan, or that raise what `forward` says."""

        def answer(pixels: Tensor) -> Tensor:
            return logits_of(self.task.model(**{PIXELS: pixels}))

        found = []
        for number, batch in enumerate(batches):
            with self.handle.under(plan):
                labels, seed = torch.as_tensor(batch.labels), self.setting.config.seed + number
                how = labels, attack, self.wanted.eps, self._colours, seed
                pixels = attacked(forward or answer, batch.inputs[PIXELS], *how)
            found.append(replace(batch, inputs={PIXELS: pixels}))
        return found


@torch.inference_mode()
def judged(task: Task, handle: Handle, plan: Plan, batches: Iterable[Batch]) -> Judged:
    """A plan on batches of a task whose model carries `handle`; divergence is not asked for, and 0."""
    statistics, right, tokens = [], [], 0.0
    with handle.under(plan):
        for batch in batches:
            outputs = task.outputs(task.model, batch)
            logits = outputs.get("logits")
            if logits is None or logits.ndim != 2:
                raise PruneSearchError(f"classes are judged one by one, but task {task.name} has none")
            statistics.append(task.statistics(outputs, batch).cpu())
            right.append((logits.argmax(-1).cpu() == torch.as_tensor(batch.labels).cpu()).float())
            tokens += len(logits) * tokens_left(handle, task.tokens)
    rows = sum(map(len, right))
    same = torch.ones(rows, dtype=torch.bool)
    found = Evaluation(torch.cat(statistics), torch.zeros(rows), same, task.scoring)
    return Judged(found, torch.cat(right), tokens / rows)


def tokens_left(handle: Handle, of: int) -> float:
    """Tokens behind the last block of the latest forward, on average over rows; `of` where none were taken."""
    left = handle.tokens
    if left is None or left.valid is None:
        return float(of if left is None else left.n)
    return float(left.valid.sum(1).float().mean())


def track_of(plans: Mapping[str, Plan]) -> Any:
    """Plans by name, one after another."""
    return track(plans.items(), len(plans), f"{len(plans)} plans")


def _beside(name: str, found: Mapping[str, Judged]) -> MetricValue:
    value = metric_value(found[name].evaluation, None)
    if name == UNPRUNED:
        return value
    return value.model_copy(
        update={"difference": paired_difference_to(found[UNPRUNED].evaluation, found[name].evaluation)}
    )


def stress_notes(plans: Sequence[StressedPlan], attacks: Sequence[AttackedPlan]) -> list[str]:
    """What a reader should know: who loses most where, whether the order of plans holds, and what an attack costs."""
    pruned, notes = plans[1:], []
    if pruned and pruned[0].classes:
        worst = min(pruned, key=lambda one: one.classes[0].change)
        first, whole = worst.classes[0], worst.quality.difference
        notes.append(
            f"class by class {worst.name} loses most: {100 * first.change:+.1f} points on {first.rows} rows of "
            f"{first.name}, where all rows together change by {100 * (whole.value if whole else 0.0):+.1f}"
        )
    clean = {one.name: one.quality.value for one in plans}
    moved = {one.name: one.shifted.value for one in plans if one.shifted is not None}
    if moved:
        notes += _order("on the other data", {n: clean[n] for n in moved if n != UNPRUNED}, moved)
    for attack in dict.fromkeys(one.attack for one in attacks):
        mine = {one.name: one for one in attacks if one.attack == attack}
        own = {name: one.own for name, one in mine.items()}
        notes += _order(f"under {attack} on themselves", {n: clean[n] for n in own if n != UNPRUNED}, own)
        there = [one.from_unpruned for name, one in mine.items() if name != UNPRUNED]
        if there:
            notes.append(
                f"{attack} leaves the unpruned model {100 * own[UNPRUNED]:.1f} %; rows that mislead it leave pruned "
                f"plans {100 * min(there):.1f} to {100 * max(there):.1f} %"
            )
    return [*notes, *_compute(plans, attacks)]


def _order(where: str, clean: Mapping[str, float], found: Mapping[str, float]) -> list[str]:
    """How the order of pruned plans holds, and whether any is better than the unpruned model there."""
    if not clean:
        return []
    best, there = (max(values, key=lambda name: values[name]) for values in (clean, {n: found[n] for n in clean}))
    rank = rank_correlation([clean[n] for n in clean], [found[n] for n in clean])
    if rank is None:
        return []
    same = "stays the best" if best == there else f"is not: {there} is"
    return [
        f"{where} the best pruned plan, {best}, {same}; rank correlation of {len(clean)} plans with clean rows "
        f"{rank:+.2f}"
    ]


def _compute(plans: Sequence[StressedPlan], attacks: Sequence[AttackedPlan]) -> list[str]:
    """What an attack on answers does to what is computed (DeSparsify, Yehezkel et al. 2024, attacks that itself)."""
    if not attacks:
        return []
    tokens = {one.name: one.tokens for one in plans}
    static = [one for one in attacks if one.name != BY_SCORE]
    notes = []
    if all(abs(one.tokens - tokens[one.name]) < 1e-6 for one in static):
        notes.append("static plans compute on as many tokens whatever is in a row: no attack makes them dearer")
    notes += [
        f"{one.name} computes on {tokens[one.name]:.1f} tokens behind the last block, under {one.attack} on "
        f"{one.tokens:.1f}"
        for one in attacks
        if one.name == BY_SCORE
    ]
    return notes
