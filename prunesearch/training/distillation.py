"""The loss that all trainings here have in common: the unpruned model's outputs, and labels where there are any."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.forward.beside import Beside
from prunesearch.tasks.base import Outputs, Task
from prunesearch.tasks.batching.batches import Batch
from prunesearch.training.augment import augmented
from prunesearch.training.training_rows import TrainingRows

LABELS = 0.5  # weight of the loss against labels, beside the divergence
Draw = Callable[[], Sequence[Plan]]  # what a step trains, all of it on the same rows


class Distillation(nn.Module):
    """A student under schedules, whose forward is the loss of some rows; the teacher is the untouched model.

    The divergence is the task's own (`Task.divergence`), so that every head that fidelity knows is distilled. The
    teacher is in eval mode, without dropout, and no part of this module: it is neither trained nor saved.

    Args:
        task: with the teacher as its model, in the dtype that is trained in.
        student: a copy of it, with the schedules' handle still to come.
        rows: to train on.
        draw: the plans of a step; each one's stages are real removal.
        seed: of the `random` scorer.
        augment: whether inputs are.
        in_place: while it is trained, distil reduced passes from the step's own unpruned pass, which comes first, in
            place of the teacher; the student teaches then, and has no dropout.
        looks: plans that the stopping rows are looked at under; None: what is drawn.
        fits: weights that changes of halves of blocks have, which are learnt too; a part of this module.
    """

    def __init__(
        self,
        task: Task,
        student: nn.Module,
        rows: TrainingRows,
        draw: Draw,
        *,
        seed: int = 0,
        augment: bool = True,
        in_place: bool = False,
        looks: Sequence[Plan] | None = None,
        fits: LearntFits | None = None,
    ) -> None:
        super().__init__()
        self.student, self.fits = student, fits
        self._parts: tuple[Task, Task] = (task, replace(task, model=student))  # a tuple holds no submodule
        self._rows, self._draw, self._in_place, self._augment = rows, draw, in_place, augment
        self._looks = looks
        self._handle = apply_(student, Plan(), seed=seed, fits=None if fits is None else fits.by_change())

    def forward(self, rows: Tensor, return_loss: bool = True) -> dict[str, Tensor]:
        """The mean loss of rows `[b, 2]`, over the plans of a step; while evaluating, over those that are looked at."""
        losses: list[Tensor] = []
        weights: list[int] = []
        plans = self._draw() if self.training or self._looks is None else self._looks
        if self._in_place:
            self.student.eval()
        for batch in self._rows.pick(rows):
            losses.append(self._loss(batch, plans))
            weights.append(len(batch))
        shares = torch.tensor(weights, device=losses[0].device) / sum(weights)
        return {"loss": (torch.stack(losses) * shares).sum()}

    def _loss(self, batch: Batch, plans: Sequence[Plan]) -> Tensor:
        teacher, mine = self._parts
        if self.training and self._augment:
            batch = augmented(batch)
        with torch.no_grad():
            target = teacher.condensed(teacher.outputs(teacher.model, batch))
        total: list[Tensor] = []
        for plan in plans:
            with self._handle.under(plan):
                outputs = mine.outputs(self.student, batch)
            total.append(self._of(mine, target, outputs, batch))
            if self.training and self._in_place and not len(plan):
                target = teacher.condensed({name: value.detach() for name, value in outputs.items()})
        return torch.stack(total).mean()

    def _of(self, task: Task, target: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        loss = task.divergence(target, outputs, batch).mean()
        labelled = task.supervised(outputs, batch) if self._rows.labelled else None
        return loss if labelled is None else loss + LABELS * labelled.mean()

    def remove(self) -> None:
        """Take the schedule out of the student."""
        self._handle.remove()

    def uses_labels(self) -> bool:
        """Whether labels are part of the loss: of this kind of task, and with rows that have them."""
        if not self._rows.labelled:
            return False
        batch, mine = self._rows.pick(self._rows.stopping[:1])[0], self._parts[1]
        with torch.no_grad():
            return mine.supervised(mine.outputs(self.student, batch), batch) is not None


class LearntFits(nn.Module):
    """Weights of changes of halves of blocks as parameters, which smaller layers have as their own.

    Args:
        fits: by the change as it prints itself, as `compress.fits` has them.
        device: of the student.
    """

    def __init__(self, fits: Mapping[str, Mapping[str, Tensor]], device: torch.device) -> None:
        super().__init__()
        self._names: dict[str, dict[str, str]] = {}
        for number, (change, own) in enumerate(fits.items()):
            for part, value in own.items():
                name = f"{number}_{part.replace('.', '_')}"
                made = value.float() if value.is_floating_point() else value
                self.register_parameter(name, nn.Parameter(made.to(device, copy=True), requires_grad=False))
                self._names.setdefault(change, {})[part] = name

    def by_change(self) -> dict[str, dict[str, Tensor]]:
        """The parameters as `apply_` takes them."""
        return {
            change: {part: self.get_parameter(name) for part, name in own.items()}
            for change, own in self._names.items()
        }


def fixed(plan: Plan | Schedule) -> Draw:
    """Every step trains one plan."""
    plans = [Plan.of(plan)]
    return lambda: plans


def student_of(model: nn.Module) -> nn.Module:
    """A copy of a model to train; in float32 where it is stored in 16 bits, which train slowly and poorly.

    What its smaller layers were trained with stays behind: weights that are learnt now stand in their place.
    """
    made = copy.deepcopy(model)
    Beside(Beside.of(made).probes).put_into(made)
    return made.float() if _in_few_bits(made) else made


def teacher_of(task: Task) -> Task:
    """The task with its model in the dtype that a student is trained in; untouched, in eval mode."""
    return replace(task, model=student_of(task.model).eval()) if _in_few_bits(task.model) else task


def _in_few_bits(model: nn.Module) -> bool:
    return any(value.dtype in (torch.float16, torch.bfloat16) for value in model.parameters())


def named_parts(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The parameters that are trained, by name."""
    return ((name, value) for name, value in module.named_parameters() if value.requires_grad)
