"""Quality of a schedule, against labels and against the unpruned model's own outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from prunesearch.core.schedule import Schedule
from prunesearch.pruning.apply import Handle
from prunesearch.tasks.base import EvalSet, Task
from prunesearch.tasks.metrics import agreement, correct, kl_divergence

# Standard errors by which a candidate must lose to be stopped. It is looked at after every batch, so that a look at two
# standard errors would stop one true equal in four; at three and a half it is one in a hundred.
_SURE = 3.5
_LEAST_ROWS = 64  # of a paired difference whose standard error is believed


@dataclass(frozen=True)
class Evaluation:
    """What a pass over a split found; tensors are `[n]`, in the order of the evaluator's batches, on the CPU.

    `correct` is True where the label was met; `kl` the divergence of the pruned from the unpruned outputs in nats;
    `agrees` True where both choose the same class. A candidate that lost its race has the first rows alone.
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

    @property
    def n(self) -> int:
        """Rows evaluated."""
        return len(self.kl)


@dataclass(frozen=True)
class Rival:
    """A schedule that was evaluated in full and costs no more than the candidate, to race it against.

    `correct` and `kl` are its `Evaluation`'s, `[n]`.
    """

    correct: Tensor
    kl: Tensor

    def beats(self, kl: Tensor) -> bool:
        """Whether a candidate whose first rows diverge by `kl` `[m]` has lost, by the paired differences."""
        if len(kl) < _LEAST_ROWS or len(kl) >= len(self.kl):
            return False
        difference = kl.double() - self.kl[: len(kl)].double()
        return bool(difference.mean() > _SURE * difference.std() / math.sqrt(len(kl)))

    def extend(self, evaluation: Evaluation) -> tuple[float, float]:
        """Estimate `(quality, loss)` on all rows of a candidate that was stopped.

        The rival's value on all rows plus the mean paired difference on those they share: a control variate, which
        takes the luck of the first rows out.
        """
        m = evaluation.n
        quality = (evaluation.correct.double() - self.correct[:m].double()).mean() + self.correct.double().mean()
        loss = (evaluation.kl.double() - self.kl[:m].double()).mean() + self.kl.double().mean()
        return float(quality.clamp(0, 1)), float(loss)


class Evaluator:
    """Evaluates schedules on one split; the unpruned model's outputs are computed once and kept.

    Args:
        task: the model with its data.
        handle: the handle of the task's model; its schedule is changed at will.
        split: the rows to evaluate on.
    """

    def __init__(self, task: Task, handle: Handle, split: EvalSet) -> None:
        self.task, self.handle, self.split = task, handle, split
        # texts are sorted by length: in that order the first batches would tell of short texts alone
        order = torch.randperm(len(split.batches), generator=torch.Generator().manual_seed(0))
        self._batches = [split.batches[int(i)] for i in order]
        handle.set(Schedule())
        self._reference = [logits for logits, _ in self._passes()]
        self._labels = [batch.labels for batch in self._batches]

    def evaluate(
        self, schedule: Schedule, progress: Callable[[int], None] | None = None, rival: Rival | None = None
    ) -> Evaluation:
        """Run the split under `schedule`; `progress` is told the rows done after each batch.

        With a `rival`, stop after the batch that shows, by paired differences of the divergence, that it is beaten.
        """
        self.handle.set(schedule)
        hits, losses, same = [], [], []
        passes = zip(self._passes(), self._reference, self._labels, strict=True)
        for (logits, rows), reference, labels in passes:
            hits.append(correct(logits, labels))
            losses.append(kl_divergence(reference, logits))
            same.append(agreement(reference, logits))
            if progress is not None:
                progress(rows)
            if rival is not None and len(losses) > 1 and rival.beats(torch.cat(losses).cpu()):
                break
        self.handle.set(Schedule())
        return Evaluation(*(torch.cat(parts).cpu() for parts in (hits, losses, same)))

    def unpruned(self) -> Evaluation:
        """The evaluation of the unpruned model, from the outputs kept."""
        pairs = zip(self._reference, self._labels, strict=True)
        hits = torch.cat([correct(logits, labels) for logits, labels in pairs]).cpu()
        return Evaluation(hits, torch.zeros(len(hits)), torch.ones(len(hits), dtype=torch.bool))

    @torch.inference_mode()
    def _passes(self) -> Iterator[tuple[Tensor, int]]:
        for batch in self._batches:
            yield self.task.logits(self.task.model(**batch.inputs)), len(batch)
