"""Learning the thresholds of stages (LTP, Kim et al. 2022), the model itself frozen, without labels."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from prunesearch.core.files import load_json, write_text_atomic
from prunesearch.core.plans.amount import Threshold
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import Handle, apply_, handle_of
from prunesearch.pruning.decide import Scored
from prunesearch.pruning.forward.tokens import Tokens
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import Batch
from prunesearch.training.distillation import teacher_of
from prunesearch.training.scorers.scene import GONE
from prunesearch.training.settings import TrainingSettings
from prunesearch.training.trainer import Trained, TrainingLength, train
from prunesearch.training.training_rows import TrainingRows

SOFTNESS = 0.1  # T of the soft mask, in units of the threshold that training begins with
_PRESSURE = 20.0  # weight of the square of too much work, in units of the divergence that training begins with
_STEPS = 60  # where no epochs are asked for: what is learnt are a few numbers
_LOOKED_AT = 256  # rows that tell when to stop, at most
RATE, _BEGUN = 0.03, "begun.json"


class ThresholdLesson(nn.Module):
    """Thresholds of some stages, whose forward is the loss of some rows.

    A token whose score is `s` counts `sigmoid((s - threshold) / T)` from its stage on, times what it counted before:
    the logarithm is added to every later attention to it. The best token of a row always counts, as it always stays.
    The loss is the divergence from the unpruned model, and `pressure` times the square of the work that is too much:
    the expected share of tokens, on average over blocks, over the share that is aimed at.

    Args:
        task: with the model, frozen, in the dtype that is trained in.
        handle: on it.
        rows: to train on.
        begun: stages with the thresholds that training begins with.
        aim: expected share of the tokens that blocks work on; None: what the first thresholds leave.
        softness: T, in units of the threshold that a stage begins with.
    """

    def __init__(
        self,
        task: Task,
        handle: Handle,
        rows: TrainingRows,
        begun: Sequence[Stage],
        *,
        aim: float | None = None,
        softness: float = SOFTNESS,
    ) -> None:
        super().__init__()
        self._parts, self._rows, self._begun = (task, handle), rows, tuple(begun)  # a tuple holds no submodule
        self._softness = softness
        device = next(task.model.parameters()).device
        self.student = nn.ParameterList([nn.Parameter(torch.zeros(len(begun), device=device))])
        self._open = Plan(Schedule([stage.replace(keep=Threshold(0.0)) for stage in begun]))
        with torch.no_grad():
            lost, work = self._on(rows.stopping[:_LOOKED_AT])
        self.aim = float(work) if aim is None else aim
        self.pressure = _PRESSURE * float(lost)

    def forward(self, rows: Tensor, return_loss: bool = True) -> dict[str, Tensor]:
        """The loss of rows `[b, 2]`."""
        lost, work = self._on(rows)
        return {"loss": lost + self.pressure * (work / self.aim - 1).clamp(min=0).square()}

    @property
    def thresholds(self) -> Tensor:
        """Of each stage, `[stages]`, with gradients."""
        first = [float(stage.amount.number) for stage in self._begun]
        found: Tensor = torch.tensor(first, device=self.student[0].device) * self.student[0].exp()
        return found

    @property
    def plan(self) -> Plan:
        """The stages with the thresholds as they are now."""
        found = zip(self._begun, self.thresholds.tolist(), strict=True)
        return Plan(Schedule([stage.replace(keep=Threshold(number)) for stage, number in found]))

    def _on(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean divergence of rows, and the expected share of the tokens that blocks work on."""
        parts = [(*self.softly(batch), len(batch)) for batch in self._rows.pick(rows)]
        total = sum(n for *_, n in parts)
        lost = torch.stack([divergence.mean() * (n / total) for divergence, _, n in parts]).sum()
        return lost, torch.stack([work.mean() * (n / total) for _, work, n in parts]).sum()

    def softly(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Divergence of each row, and the expected share of its tokens that blocks work on, `[b]` each."""
        task, handle = self._parts
        with torch.no_grad(), handle.under(Plan()):
            reference = task.condensed(task.outputs(task.model, batch))
        depth, thresholds = handle.encoder.depth, self.thresholds
        places = {stage.layer: number for number, stage in enumerate(self._begun)}
        left: list[Tensor] = []
        with handle.under(self._open), handle.scoring() as seen:

            def soften(layer: int, x: Tensor, tokens: Tokens) -> Tensor | None:
                number = places.get(layer)
                if number is None:
                    return None
                size = self._size(seen[-1], tokens, thresholds[number], number)
                on = tokens.reducible
                left.append((size * on).sum(1) / on.sum(1).clamp(min=1))
                return size

            with handle.softened(soften):
                outputs = task.outputs(task.model, batch)
        spans = halves_behind(sorted(places), depth)
        gone = torch.stack([(1 - share) * halves for share, halves in zip(left, spans, strict=True)]).sum(0)
        return task.divergence(reference, outputs, batch), 1 - gone / (2 * depth)

    def _size(self, scored: Scored, tokens: Tokens, threshold: Tensor, number: int) -> Tensor:
        before = torch.ones_like(scored.score) if tokens.size is None else tokens.size.to(scored.score.dtype)
        width = self._softness * float(self._begun[number].amount.number)
        soft = torch.sigmoid((scored.score - threshold) / width)
        there = (scored.score * before).where(tokens.reducible, torch.full_like(before, -1.0))
        best = there == there.amax(1, keepdim=True)
        size = (before * soft.where(~best, torch.ones_like(soft))).clamp(min=GONE)
        return size.where(tokens.reducible, torch.ones_like(size))


def halves_behind(layers: Sequence[int], depth: int) -> list[int]:
    """Halves of blocks that work on what each stage leaves: from the MLP of its block to the attention of the next's.

    Args:
        layers: blocks of the stages, in order.
        depth: of the model.
    """
    borders = [2 * layer + 1 for layer in layers] + [2 * depth]
    return [end - start for start, end in itertools.pairwise(borders)]


@dataclass(frozen=True)
class ThresholdSchool:
    """What trainings of a model's thresholds have in common.

    Attributes:
        task: the model with its data; it stays as it is.
        rows: to train on; labels are not used.
        settings: how long.
        scratch: where trainings that are going on keep their checkpoints.
    """

    task: Task
    rows: TrainingRows
    settings: TrainingSettings
    scratch: Path

    @property
    def amount(self) -> TrainingLength:
        """Of every training."""
        settings = self.settings
        batch = settings.batch_size * settings.accumulate
        epochs = settings.epochs
        steps = _STEPS if epochs is None else max(1, math.ceil(epochs * len(self.rows.learnt) / batch))
        rate = RATE if settings.rate is None else settings.rate
        return TrainingLength(steps, settings.batch_size, rate, settings.accumulate, settings.seed)

    def learn(self, begun: Sequence[Stage], key: str, label: str) -> tuple[Plan, Trained]:
        """The stages with learnt thresholds, and what they took; a training of the same `key` goes on as it began."""
        place = self.scratch / key
        if (place / _BEGUN).exists():
            begun = Plan.from_dict(load_json(place / _BEGUN, "plan")).schedule.stages
        else:
            write_text_atomic(place / _BEGUN, json.dumps(Plan(Schedule(begun)).to_dict()) + "\n")
        task = teacher_of(self.task)
        if task.model is self.task.model:
            task = replace(task, model=copy.deepcopy(task.model).eval())
        task.model.requires_grad_(False)
        handle = handle_of(task.model) or apply_(task.model, Plan(), seed=self.settings.seed)
        lesson = ThresholdLesson(task, handle, self.rows, begun)
        looked_at = self.rows.learnt, self.rows.stopping[:_LOOKED_AT]
        trained = train(lesson, looked_at, self.amount, place, label=label)
        return lesson.plan, trained
