"""Training plans of a model, and judging what came of it: what `tune` does with a study, and without one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from prunesearch import __version__
from prunesearch.compress.fits import Fits
from prunesearch.core.events import say, step
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import CHANGES
from prunesearch.cost.timing.validate import measure_schedules
from prunesearch.pruning.apply import Handle
from prunesearch.pruning.forward.artefacts import loaded
from prunesearch.pruning.forward.beside import Beside
from prunesearch.search.finish.candidates import blind_note
from prunesearch.search.finish.items import fidelity_of, metric_value, paired_difference_to
from prunesearch.search.finish.robustness import classes_of, groups_of
from prunesearch.search.trials.evaluate import Evaluation, Evaluator
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front_items import ClassQuality, Fidelity, MetricValue, Tuned
from prunesearch.study.setup import Setting
from prunesearch.tasks.base import Task
from prunesearch.tasks.objects import digest_of
from prunesearch.training.distillation import fixed, teacher_of
from prunesearch.training.elastic import looked_at, sandwich
from prunesearch.training.recover import Learnt, School
from prunesearch.training.settings import TrainingSettings
from prunesearch.training.training_rows import TrainingRows, training_rows

SCRATCH = "tuning"  # in the folder: trainings that are going on
_SECONDS = 10.0  # of measuring whether trained weights run as fast
_ROUNDS = 10  # of it, at least
_SAME = 0.03  # of a speed-up: a smaller change is not told


@dataclass(frozen=True)
class Wanted:
    """What is asked for: points that `pick` names (None: all of a front), rows, and how they are trained.

    Attributes:
        train: rows to train on, as `training_rows` takes them; None: the study's own that it does not use.
    """

    settings: TrainingSettings
    pick: str | None = None
    train: Any = None


@dataclass(frozen=True)
class Tuning:
    """Trains a model under plans.

    Attributes:
        folder: that weights are kept in, and what trainings that are going on need.
        wanted: what is asked for.
        setting: the model with its data; nothing here touches it.
        school: what trains.
        fits: weights of smaller halves of blocks, as they were fitted.
    """

    folder: StudyFolder
    wanted: Wanted
    setting: Setting
    school: type[School] = School
    fits: Fits = field(default_factory=dict)

    @cached_property
    def rows(self) -> TrainingRows:
        """To train on."""
        seed, model = self.wanted.settings.seed, teacher_of(self.setting.task).model
        found = training_rows(self.setting, model, self.wanted.train, seed=seed)
        say(f"{len(found.learnt):,} rows of {found.said} to train on, {len(found.stopping):,} more to stop by")
        return found

    def _school(self, share: float = 1.0) -> School:
        """What all trainings have in common; each gets a `share` of the time."""
        scratch, given = self.folder.path / SCRATCH, self.setting.weights
        asked = self.setting.task, self.rows, self.wanted.settings, self.folder.weights, scratch, share
        return self.school(*asked, {} if given is None else given.tensors)

    def learn(self, plan: Plan, label: str, share: float = 0.5, steps: int | None = None) -> Learnt:
        """Train a student under the stages of a plan, with the halves of blocks that it has, in a `share` of the time.

        Args:
            plan: of which precision is no part of the training.
            label: what is trained, for people.
            share: of the time that was asked for.
            steps: in place of it.
        """
        trained = plan.shaped
        step(f"tuning {label}: {trained}")
        if plan.whole:
            say(f"{label} is trained without {plan.variant}, and judged with it")
        key = self.key([trained if trained.changes else trained.schedule], steps or share)
        return self._school(share).learn(fixed(trained), key, label, steps=steps, fits=self._fits_of(trained))

    def _fits_of(self, plan: Plan) -> Fits:
        """What smaller halves of blocks begin with: as they were trained before, or as they were fitted."""
        held = Beside.of(self.setting.task.model).fits
        trained = {} if held is None else {change: held.of(change) or {} for change in held.changes}
        names = [str(change) for change in plan.changes if CHANGES.entry(change.kind).fitted]
        return {name: trained.get(name) or self.fits[name] for name in names}

    def learn_elastic(self, near: Sequence[Plan], share: float) -> Learnt:
        """Train a student that serves all of these plans, from the slowest to the fastest."""
        step(f"training one network for {len(near)} plans near the front; the smallest: {near[-1]}")
        key = self.key([plan if plan.changes else plan.schedule for plan in near], share)
        fits = {name: fit for plan in near for name, fit in self._fits_of(plan).items()}
        return self._school(share).learn(sandwich(near), key, "elastic", looks=looked_at(near), fits=fits)

    def reference(self, learnt: Learnt) -> Learnt | None:
        """The unpruned model after the same training as one of a point; None: that leaves it as it is."""
        if not learnt.labels:
            step("no labels: the same training leaves the unpruned model as it is, and it is the only reference")
            return None
        step("training the unpruned model in the same way: the second reference")
        return self.unpruned(learnt.amount.steps)

    def unpruned(self, steps: int) -> Learnt:
        """The unpruned model trained for so many steps."""
        return self._school().learn(fixed(Schedule()), self.key([Schedule()], steps), "unpruned", steps=steps)

    def told(self, learnt: Learnt) -> dict[str, Any]:
        """How weights were trained, fields of `Tuned`."""
        settings, rows = self.wanted.settings, len(self.rows.learnt)
        return {
            "parameters": settings.parameters,
            "data": self.rows.said,
            "rows": rows,
            "labels": learnt.labels,
            "epochs": learnt.trained.steps * settings.batch_size * settings.accumulate / rows,
            "steps": learnt.trained.steps,
            "seconds": learnt.trained.seconds,
            "batch_size": settings.batch_size * settings.accumulate,
            "learning_rate": settings.height,
            "seed": settings.seed,
        }

    def key(self, schedules: Sequence[Plan | Schedule], length: float) -> str:
        """What tells a training from all others of the study.

        Args:
            schedules: that it draws from.
            length: its steps, or its share of a time that was asked for; epochs are the same for all.
        """
        asked, drawn = self.wanted.settings.to_dict(), [schedule.to_dict() for schedule in schedules]
        facts = [drawn, asked, self.rows.digest, digest_of(self.setting.task), __version__]
        if self.setting.weights is not None:
            facts.append(self.setting.weights.name)
        if self.wanted.settings.seconds is not None:
            facts.append(str(length))
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Outcome:
    """A plan on its trained weights: quality on the holdout split, in all, by class and by group; how it came."""

    plan: Plan
    quality: MetricValue
    fidelity: Fidelity
    tuned: Tuned
    classes: list[ClassQuality]
    groups: list[ClassQuality]


@dataclass(frozen=True)
class Judging:
    """Judges what trainings left, on the rows of the study.

    Attributes:
        work: the trainings.
        equal: the unpruned model after the same training, where that changed it.
        calibration, holdout: evaluators, made while the model had its own weights.
        unpruned: the user's model on the holdout split.
    """

    work: Tuning
    equal: Learnt | None
    calibration: Evaluator
    holdout: Evaluator
    unpruned: Evaluation

    @classmethod
    def of(cls, work: Tuning, equal: Learnt | None, handle: Handle) -> Judging:
        """With the model on its own weights, and a `handle` on it."""
        task = work.setting.task
        with work.setting.on_own_weights():
            calibration = Evaluator(task, handle, task.calibration.take(work.setting.config.search_samples))
            holdout = Evaluator(task, handle, task.holdout, work.setting.config.mode)
            unpruned = holdout.unpruned()
        return cls(work, equal, calibration, holdout, unpruned)

    @property
    def task(self) -> Task:
        """The model with its data."""
        return self.work.setting.task

    @cached_property
    def blind(self) -> bool:
        """Whether the unpruned model's quality is too low to tell schedules apart."""
        return blind_note(self.task, self.unpruned, self.task.holdout.labels) is not None

    @cached_property
    def _equal(self) -> tuple[Evaluation, float]:
        """The unpruned model after the same training: on the holdout split, and its quality on calibration rows."""
        weights = {} if self.equal is None else self.equal.weights
        with loaded(self.task.model, weights):
            return _anew(self.holdout, Plan()), _anew(self.calibration, Plan()).quality

    @property
    def equal_quality(self) -> MetricValue:
        """The unpruned model after the same training, with its difference to the user's."""
        return self._to_unpruned(*self._equal)

    def on_shared(self, plans: Mapping[str, Plan], learnt: Learnt) -> list[dict[str, Any]]:
        """Every plan on the model's own weights and on those that all share; see `ElasticWeights`."""
        splits = self.calibration, self.holdout
        found = []
        for name, plan in plans.items():
            with self.work.setting.on_own_weights():
                seen, before = (_anew(split, plan) for split in splits)
            with loaded(self.task.model, learnt.weights):
                seen_after, after = (_anew(split, plan) for split in splits)
            row: dict[str, Any] = {"point": name, "text": str(plan)}
            row |= {"calibration_before": seen.quality, "calibration_after": seen_after.quality}
            row["before"] = metric_value(before, seen.quality).model_dump()
            row["after"] = metric_value(after, seen_after.quality).model_dump()
            references = {"to_before": before, "to_unpruned": self.unpruned, "to_equal": self._equal[0]}
            row |= {key: paired_difference_to(one, after).model_dump() for key, one in references.items()}
            found.append(row)
        return found

    def outcome(self, plan: Plan, learnt: Learnt, label: str, before: MetricValue | None = None) -> Outcome | None:
        """What a plan is on its trained weights; None where these are not better on calibration rows, which is said.

        Args:
            plan: on the model's own weights.
            learnt: what was trained under it.
            label: what people know it by.
            before: its quality on the model's own weights, where that is known.
        """
        untrained = _anew(self.calibration, plan)
        with loaded(self.task.model, learnt.weights):
            seen = _anew(self.calibration, plan)
            if (seen.quality, -seen.loss) <= (untrained.quality, -untrained.loss):
                say(
                    f"{label}: dropped, since its trained weights are not better on the calibration rows "
                    f"({self.task.metric} {100 * untrained.quality:.2f} % before, {100 * seen.quality:.2f} % after)"
                )
                return None
            judged = _anew(self.holdout, plan)
        if before is None:
            with self.work.setting.on_own_weights():
                before = self._to_unpruned(_anew(self.holdout, plan), _anew(self.calibration, plan).quality)
        tuned = self._tuned(plan, learnt, judged, before)
        say(
            f"{label}: {self.task.metric} {100 * before.value:.2f} % before, {100 * judged.quality:.2f} % after; "
            f"unpruned {100 * self.unpruned.quality:.2f} %, after the same training {100 * tuned.equal.value:.2f} %"
        )
        whole, fidelity = Plan(plan.schedule, plan.changes, learnt.name), fidelity_of(judged, seen.loss)
        classes = classes_of(self.task, self.unpruned, judged, self.task.holdout)
        groups = groups_of(self.task, self.unpruned, judged, self.task.holdout)
        return Outcome(whole, self._to_unpruned(judged, seen.quality), fidelity, tuned, classes, groups)

    def _to_unpruned(self, judged: Evaluation, calibration: float) -> MetricValue:
        """A quality with its difference to the user's model."""
        difference = paired_difference_to(self.unpruned, judged)
        return metric_value(judged, calibration).model_copy(update={"difference": difference})

    def _tuned(self, plan: Plan, learnt: Learnt, judged: Evaluation, before: MetricValue) -> Tuned:
        speeds = self._speeds(plan, learnt)
        return Tuned(
            **self.work.told(learnt),
            before=before,
            equal=self.equal_quality,
            difference=paired_difference_to(self._equal[0], judged),
            speedup_before=speeds[0],
            speedup=speeds[1],
        )

    def _speeds(self, plan: Plan, learnt: Learnt) -> tuple[float | None, float | None]:
        """The speed-up on the model's own weights and on the trained ones, measured one after the other."""
        setting = self.work.setting
        if not setting.target.here:
            return None, None
        found = []
        for weights in ({}, learnt.weights):
            with loaded(self.task.model, weights):
                whole, pruned = measure_schedules(
                    self.task.model,
                    self.task.timing_inputs(setting.config.batch_size),
                    [Plan(), plan],
                    time_budget_s=_SECONDS / 2,
                    min_rounds=_ROUNDS,
                    label="re-measuring",
                    mode=setting.config.mode,
                    concurrency=setting.config.concurrency,
                )
            found.append(whole.median_ms / pruned.median_ms)
        if abs(found[1] / found[0] - 1) > _SAME:
            say(f"measured {found[0]:.2f}x on the model's own weights, {found[1]:.2f}x on the trained ones")
        return found[0], found[1]


def to_recover(plan: Plan) -> bool:
    """Whether a plan loses what training may bring back: it has stages, or halves of blocks smaller or left out."""
    return bool(len(plan) or plan.shaped.changes)


def _anew(evaluator: Evaluator, plan: Plan) -> Evaluation:
    """All rows under a plan, on the weights that the model has now: evaluators know plans without stages by heart."""
    return evaluator.evaluate(plan, rows=evaluator.split.n)
