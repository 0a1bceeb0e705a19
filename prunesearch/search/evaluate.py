"""Quality of a schedule, against labels and against the unpruned model's own outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from prunesearch.core.schedule import Schedule
from prunesearch.pruning.apply import Handle
from prunesearch.tasks.base import EvalSet, Task
from prunesearch.tasks.metrics import agreement, correct, kl_divergence


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a split found; tensors are `[n]`, in the order of the split's batches, on the CPU.

    `correct` is True where the label was met; `kl` the divergence of the pruned from the unpruned outputs in nats;
    `agrees` True where both choose the same class.
    """

    correct: Tensor
    kl: Tensor
    agrees: Tensor

    @property
    def quality(self) -> float:
        """The task metric: accuracy."""
        return float(self.correct.double().mean())

    @property
    def loss(self) -> float:
        """Mean divergence from the unpruned model, nats."""
        return float(self.kl.double().mean())

    @property
    def finite(self) -> bool:
        """False if any output was NaN or infinite."""
        return bool(self.kl.isfinite().all())


class Evaluator:
    """Evaluates schedules on one split; the unpruned model's outputs are computed once and kept.

    Args:
        task: the model with its data.
        handle: the handle of the task's model; its schedule is changed at will.
        split: the rows to evaluate on.
    """

    def __init__(self, task: Task, handle: Handle, split: EvalSet) -> None:
        self.task, self.handle, self.split = task, handle, split
        handle.set(Schedule())
        self._reference = [logits for logits, _ in self._passes()]
        self._labels = [batch.labels for batch in split.batches]

    def evaluate(self, schedule: Schedule, progress: Callable[[int], None] | None = None) -> Evaluation:
        """Run the whole split under `schedule`; `progress` is told the rows done after each batch."""
        self.handle.set(schedule)
        hits, losses, same = [], [], []
        passes = zip(self._passes(), self._reference, self._labels, strict=True)
        for (logits, rows), reference, labels in passes:
            hits.append(correct(logits, labels))
            losses.append(kl_divergence(reference, logits))
            same.append(agreement(reference, logits))
            if progress is not None:
                progress(rows)
        self.handle.set(Schedule())
        return Evaluation(*(torch.cat(parts).cpu() for parts in (hits, losses, same)))

    def unpruned(self) -> Evaluation:
        """The evaluation of the unpruned model, from the outputs kept."""
        pairs = zip(self._reference, self._labels, strict=True)
        hits = torch.cat([correct(logits, labels) for logits, labels in pairs]).cpu()
        return Evaluation(hits, torch.zeros(len(hits)), torch.ones(len(hits), dtype=torch.bool))

    @torch.inference_mode()
    def _passes(self) -> Iterator[tuple[Tensor, int]]:
        for batch in self.split.batches:
            yield self.task.logits(self.task.model(**batch.inputs)), len(batch)
