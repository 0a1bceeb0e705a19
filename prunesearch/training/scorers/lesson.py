"""Training the weights of a learned scorer: a probe for every block of the encoder, the model itself frozen."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from prunesearch.core.events import say
from prunesearch.core.files import load_json, write_bytes_atomic, write_text_atomic
from prunesearch.core.plans.plan import Plan
from prunesearch.core.tables.names import load_target
from prunesearch.core.tables.token_tables import LEARNED
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.forward.beside import SCORER
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import Batch
from prunesearch.training.distillation import teacher_of
from prunesearch.training.processes import is_first, together
from prunesearch.training.scorers.scene import LearnsScorer, Scene
from prunesearch.training.settings import TrainingSettings
from prunesearch.training.trainer import Trained, TrainingLength, train
from prunesearch.training.training_rows import TrainingRows

_HIDDEN = 32  # of a probe
_LEAST, _MOST = 0.1, 0.9  # shares that the stages of steps keep, drawn evenly
_EPOCHS = 1.0  # where none are asked for: a probe is small
RATE = 1e-3
_DONE, _TENSORS = "done.json", "probe.safetensors"


class Lesson(nn.Module):
    """Probes of one scorer, whose forward is the loss of some rows at a block that is drawn.

    Args:
        task: with the model, which stays as it is, in the dtype that is trained in.
        rows: to train on.
        learns: the method.
        seed: of the probes' start.
    """

    def __init__(self, task: Task, rows: TrainingRows, learns: LearnsScorer, *, seed: int = 0) -> None:
        super().__init__()
        self._task, self._rows, self._learns = (task,), rows, learns  # a tuple holds no submodule
        self._handle = (apply_(task.model, Plan()),)
        (batch, *_), made = rows.pick(rows.stopping[:1]), torch.Generator().manual_seed(seed)
        with torch.no_grad(), self._handle[0].observing() as inputs:
            task.outputs(task.model, batch)
        self.student = nn.ModuleList(_start(x.shape[-1], made).to(x.device) for x in inputs)

    def forward(self, rows: Tensor, return_loss: bool = True) -> dict[str, Tensor]:
        """The mean loss of rows `[b, 2]`."""
        block = int(torch.randint(len(self.student), ()))
        share = _LEAST + (_MOST - _LEAST) * float(torch.rand(()))
        parts = [(self._learns(self._scene(batch, block, share)), len(batch)) for batch in self._rows.pick(rows)]
        total = sum(n for _, n in parts)
        return {"loss": torch.stack([loss * (n / total) for loss, n in parts]).sum()}

    def _scene(self, batch: Batch, block: int, share: float) -> Scene:
        (task,), (handle,) = self._task, self._handle
        with torch.no_grad(), handle.under(Plan()), handle.observing() as inputs:
            reference = task.condensed(task.outputs(task.model, batch))
        probe = dict(self.student[block].named_parameters())
        return Scene(task, handle, batch, reference, block, inputs[block], probe, share)

    def remove(self) -> None:
        """Take the handle out of the model."""
        self._handle[0].remove()

    def tensors(self, scorer: str) -> dict[str, Tensor]:
        """The probes by their names in files."""
        return {
            f"{SCORER}{scorer}/{block}/{part}": value.detach().cpu()
            for block, probe in enumerate(self.student)
            for part, value in probe.named_parameters()
        }


def _start(width: int, made: torch.Generator) -> nn.ParameterDict:
    def drawn(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(shape, generator=made) / math.sqrt(shape[-1]))

    return nn.ParameterDict(
        {
            "local": drawn(_HIDDEN, width),
            "local_bias": nn.Parameter(torch.zeros(_HIDDEN)),
            "mixed": drawn(2 * _HIDDEN, _HIDDEN),
            "mixed_bias": nn.Parameter(torch.zeros(_HIDDEN)),
            "out": drawn(_HIDDEN),
        }
    )


@dataclass(frozen=True)
class ScorerSchool:
    """What trainings of a model's learned scorers have in common.

    Attributes:
        task: the model with its data.
        rows: to train on; labels are not used.
        settings: how long.
        scratch: where trainings that are going on keep their checkpoints, and those that are done their tensors.
    """

    task: Task
    rows: TrainingRows
    settings: TrainingSettings
    scratch: Path

    @property
    def amount(self) -> TrainingLength:
        """Of every training."""
        settings = self.settings
        epochs = _EPOCHS if settings.epochs is None else settings.epochs
        steps = math.ceil(epochs * len(self.rows.learnt) / (settings.batch_size * settings.accumulate))
        rate = RATE if settings.rate is None else settings.rate
        return TrainingLength(max(1, steps), settings.batch_size, rate, settings.accumulate, settings.seed)

    def learn(self, scorer: str, key: str) -> tuple[dict[str, Tensor], Trained]:
        """The tensors of a scorer, and what they took; a training of the same `key` goes on, or is done."""
        place = self.scratch / key
        if (place / _DONE).exists():
            say(f"{scorer}: trained before")
            return load((place / _TENSORS).read_bytes()), Trained(**load_json(place / _DONE, "training"))
        task = teacher_of(self.task)
        if task.model is self.task.model:
            task = self._copied()
        task.model.requires_grad_(False)
        lesson = Lesson(task, self.rows, load_target(LEARNED.entry(scorer).learning), seed=self.settings.seed)
        trained = train(lesson, (self.rows.learnt, self.rows.stopping), self.amount, place, label=scorer)
        lesson.remove()
        found = lesson.tensors(scorer)
        if is_first():
            write_bytes_atomic(place / _TENSORS, save(found))
            facts = {"steps": trained.steps, "seconds": trained.seconds, "loss": trained.loss}
            write_text_atomic(place / _DONE, json.dumps(facts) + "\n")
        together()
        return found, trained

    def _copied(self) -> Task:
        """The task with a copy of its model: the caller's stays as it is."""
        return replace(self.task, model=copy.deepcopy(self.task.model).eval())
