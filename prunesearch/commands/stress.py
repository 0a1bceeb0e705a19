"""`prunesearch stress`: points of a front on rows that were attacked, on other data, and class by class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from prunesearch.export.by_row.row_rule import ByRow
from prunesearch.export.by_row.serving import Server, Serving
from prunesearch.pruning.apply import Handle, apply_
from prunesearch.pruning.forward.twins import Fits
from prunesearch.search.adaptive.dearness import (
    PIXELS,
    Dearness,
    Unsureness,
    dearer_notes,
    ruled,
    rules_of,
    timed_beside,
)
from prunesearch.search.adaptive.stress_notes import stress_notes
from prunesearch.search.finish.illustrate import report_study
from prunesearch.search.finish.items import metric_value, paired_difference_to
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
from prunesearch.tasks.batching.groups import groups_in
from prunesearch.tasks.kinds.classification import logits_of
from prunesearch.tasks.loading import load
from prunesearch.tasks.views.attacks import ATTACKS, COMPUTE, Colours, attacked

UNPRUNED = "unpruned"


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
        rules = rules_of(front, plans, Server(setting.task.model, handle), folder.weights)
        found = Stressing(front, setting, handle, plans, wanted, fits, rules).found()
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
        rules: cascades and routers that `adapt` found, of which only what they compute is attacked.
    """

    front: Front
    setting: Setting
    handle: Handle
    plans: Mapping[str, Plan]
    wanted: StressSettings
    fits: Fits | None = None
    rules: Mapping[str, ByRow] = field(default_factory=dict)

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
            groups=self._groups(name, clean),
            shifted=_beside(name, shifted) if shifted else None,
        )

    def _classes(self, name: str, clean: Mapping[str, Judged]) -> list[ClassQuality]:
        return self._parts(name, clean, torch.as_tensor(self.rows.labels).cpu().tolist(), self.task.label_names)

    def _groups(self, name: str, clean: Mapping[str, Judged]) -> list[ClassQuality]:
        values = self.task.groups.get("holdout")
        if values is None:
            return []
        mine = groups_in(self.rows, values)
        names = sorted(set(mine))
        return self._parts(name, clean, [names.index(one) for one in mine], names)

    def _parts(
        self, name: str, clean: Mapping[str, Judged], places: Sequence[int], names: Sequence[str]
    ) -> list[ClassQuality]:
        """Right answers of each part of the rows, the one that lost most first; `places` are those of rows' names."""
        of, found = torch.tensor(places), []
        for place in sorted(set(places)):
            mine = of == place
            quality, base = (float(clean[one].right[mine].mean()) for one in (name, UNPRUNED))
            called = names[place] if place < len(names) else str(place)
            found.append(ClassQuality(name=called, rows=int(mine.sum()), quality=quality, change=quality - base))
        return sorted(found, key=lambda one: (one.change, one.quality))

    # -- other data ----------------------------------------------------------------------------------------------------

    def _shifted(self) -> tuple[dict[str, Judged], EvalSet | None]:
        if self.wanted.data is None:
            return {}, None
        step(f"{len(self.plans)} plans on {self.wanted.data}")
        other: dict[str, Any] = {"data": self.wanted.data, "given_digest": None, "robust": [], "group": None}
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
        stages = {name: plan for name, plan in self.plans.items() if plan.schedule.by_row is not None}
        if not stages and not self.rules:
            raise PruneSearchError(
                "an attack on compute needs a plan of stages by row, a cascade or a router: every other plan computes "
                f"on as many tokens whatever is in a row; `prunesearch adapt {self.front.study}` looks for them"
            )
        plain, model, found = self._pictures, self.task.model, []
        for name, plan in stages.items():
            step(f"attacking what {plan} computes")
            changed = self._changed(plan, plain, COMPUTE, Dearness(model, self.handle))
            others = {one: p for one, p in self.plans.items() if one not in stages}
            others = others if name == next(iter(stages)) else {UNPRUNED: Plan()}
            found += [self._beside(one, p, plain, changed, name) for one, p in track_of({**others, name: plan})]
        for name, rule in self.rules.items():
            step(f"attacking which plan {name} runs")
            changed = self._changed(Plan(), plain, COMPUTE, Unsureness(rule))
            found.append(self._beside(UNPRUNED, Plan(), plain, changed, name))
            found.append(self._rule_beside(name, rule, plain, changed))
        return found

    def _rule_beside(self, name: str, rule: ByRow, plain: Sequence[Batch], changed: Sequence[Batch]) -> DearerPlan:
        """A cascade or a router on rows as they are and as they were changed, timed in turn."""
        before, after = (ruled(self.task, rule, batches) for batches in (plain, changed))
        return DearerPlan(
            name=name,
            made_for=name,
            slow=before.slow,
            attacked_slow=after.slow,
            quality=before.quality,
            attacked_quality=after.quality,
            **self._timed(lambda inputs: rule(inputs)[0], plain, changed),
        )

    def _timed(self, run: Serving, plain: Sequence[Batch], changed: Sequence[Batch]) -> dict[str, float]:
        """Mean milliseconds in batches of the study."""
        size, seed = self.setting.config.batch_size, self.setting.config.seed
        pixels = [[batch.inputs[PIXELS] for batch in batches] for batches in (plain, changed)]
        ms, attacked_ms = timed_beside(run, pixels[0], pixels[1], size, seed)
        return {"ms": ms, "attacked_ms": attacked_ms}

    def _beside(
        self, name: str, plan: Plan, plain: Sequence[Batch], changed: Sequence[Batch], made_for: str
    ) -> DearerPlan:
        """A plan on rows as they are and as they were changed; both are timed in turn."""
        before, after = (self._clean(plan, batches) for batches in (plain, changed))
        return DearerPlan(
            name=name,
            made_for=made_for,
            tokens=before.tokens,
            attacked_tokens=after.tokens,
            quality=before.evaluation.quality,
            attacked_quality=after.evaluation.quality,
            **self._timed(Server(self.task.model, self.handle).static(plan), plain, changed),
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
