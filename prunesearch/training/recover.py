"""One training from beginning to end: a student of a task's model, under what each step draws, and what it learnt."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunesearch.core.events import say
from prunesearch.core.files import load_json, write_text_atomic
from prunesearch.core.plans.plan import Plan
from prunesearch.core.tables.training_tables import PARAMETERS
from prunesearch.pruning.forward.artefacts import changed_weights, read_weights, save_weights
from prunesearch.pruning.forward.beside import named_fits
from prunesearch.tasks.base import Task
from prunesearch.training.distillation import Distillation, Draw, LearntFits, student_of, teacher_of
from prunesearch.training.processes import is_first, share_of, together
from prunesearch.training.settings import EPOCHS, TrainingSettings
from prunesearch.training.trainable import Trainable, freeze
from prunesearch.training.trainer import Trained, TrainingLength, train
from prunesearch.training.training_rows import TrainingRows

_TIMED = 3  # steps, the first of which warms up
_OVERHEAD = 1.15  # of the optimiser, and of looking at the stopping rows, over forwards and backwards
_DONE, _PLANNED = "done.json", "planned.json"


@dataclass(frozen=True)
class Learnt:
    """What a training left.

    Attributes:
        name: of its weights, as a plan has it.
        weights: the parameters that changed.
        trained: what it spent.
        labels: whether labels were part of the loss.
        amount: how much was asked for.
    """

    name: str
    weights: Mapping[str, Tensor]
    trained: Trained
    labels: bool
    amount: TrainingLength


@dataclass(frozen=True)
class School:
    """What trainings of one model have in common.

    Attributes:
        task: the model with its data, untouched.
        rows: to train on.
        settings: how long, and what.
        folder: of weights.
        scratch: where trainings that are going on keep their checkpoints.
        share: of the time asked for that one training gets.
        given: parameters that the model was given in place of its own: what is learnt stands on them.
    """

    task: Task
    rows: TrainingRows
    settings: TrainingSettings
    folder: Path
    scratch: Path
    share: float = 1.0
    given: Mapping[str, Tensor] = field(default_factory=dict)

    def learn(
        self,
        draw: Draw,
        key: str,
        label: str,
        *,
        looks: Sequence[Plan] | None = None,
        steps: int | None = None,
        fits: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> Learnt:
        """Train a student on what `draw` gives at each step; a training of the same `key` goes on, or is done.

        Args:
            draw: plans of a step, all on the same rows.
            key: of all that the outcome depends on, one for each training of a study.
            label: what is trained, for people.
            looks: where several plans are trained at once, in place: those that the stopping rows look at.
            steps: in place of what the settings come to: those of another training that this one is compared with.
            fits: weights of changes that plans have, which are learnt with the model's.
        """
        place = self.scratch / key
        if (place / _DONE).exists():
            say(f"{label}: trained before")
            return self._read(place)
        settings = self.settings
        chosen: Trainable = PARAMETERS.load(settings.parameters)
        teacher, student = teacher_of(self.task), student_of(self.task.model)
        freeze(student)
        chosen.prepare(student)
        learnt = LearntFits(fits, next(student.parameters()).device) if fits else None
        if learnt is not None:
            chosen.prepare(learnt)
        how: dict[str, Any] = {
            "fits": learnt,
            "seed": settings.seed,
            "augment": settings.augment,
            "in_place": looks is not None,
            "looks": looks,
        }
        made = Distillation(teacher, student, self.rows, draw, **how)
        labels = made.uses_labels()
        count = self._planned(place, made) if steps is None else steps
        amount = TrainingLength(count, settings.batch_size, settings.height, settings.accumulate, settings.seed)
        trained = train(made, (self.rows.learnt, self.rows.stopping), amount, place, label=label)
        made.remove()
        chosen.end(student)
        weights = {**self.given, **changed_weights(student, teacher.model)}
        weights |= {} if learnt is None else named_fits(learnt.by_change())
        together()  # all have read the best checkpoint
        if is_first():
            self._keep(place, weights, trained, label, {"labels": labels, "planned": count})
        together()
        return self._read(place)

    def _keep(
        self, place: Path, weights: Mapping[str, Tensor], trained: Trained, label: str, facts: Mapping[str, Any]
    ) -> None:
        """Write what was learnt, and that it is done."""
        name = save_weights(self.folder, weights, {"format": "pt", "tuned": label})
        told = {"weights": name, "steps": trained.steps, "seconds": trained.seconds, "loss": trained.loss, **facts}
        write_text_atomic(place / _DONE, json.dumps(told) + "\n")
        for old in place.glob("checkpoint-*"):
            shutil.rmtree(old, ignore_errors=True)

    def _read(self, place: Path) -> Learnt:
        """What a training left that is done."""
        found, settings = load_json(place / _DONE, "training"), self.settings
        weights = read_weights(self.folder, found["weights"])
        trained = Trained(found["steps"], found["seconds"], found["loss"])
        amount = TrainingLength(
            found["planned"], settings.batch_size, settings.height, settings.accumulate, settings.seed
        )
        return Learnt(found["weights"], weights, trained, found["labels"], amount)

    def _planned(self, place: Path, made: Distillation) -> int:
        """Steps of a training: those that the epochs have, or that fit into the time; the same when it goes on."""
        path = place / _PLANNED
        if is_first() and not path.exists():
            write_text_atomic(path, json.dumps({"steps": self._wanted_steps(made)}) + "\n")
        together()
        return int(load_json(path, "training")["steps"])

    def _wanted_steps(self, made: Distillation) -> int:
        settings = self.settings
        in_epoch = len(self.rows.learnt) / (settings.batch_size * settings.accumulate)
        if settings.seconds is None:
            return max(1, math.ceil((EPOCHS if settings.epochs is None else settings.epochs) * in_epoch))
        return max(1, int(settings.seconds * self.share / self._step_seconds(made)))

    def _step_seconds(self, made: Distillation) -> float:
        """What a step takes, by a few of them whose gradients are thrown away."""
        took, rows = [], share_of(self.settings.batch_size)
        made.train()
        for number in range(_TIMED):
            started = time.perf_counter()
            for part in range(self.settings.accumulate):
                first = (number * self.settings.accumulate + part) * rows
                picked = (torch.arange(first, first + rows)) % len(self.rows.learnt)
                made(self.rows.learnt[picked])["loss"].backward()
            took.append(time.perf_counter() - started)
            made.zero_grad(set_to_none=True)
        made.eval()
        return _OVERHEAD * min(took[1:])
