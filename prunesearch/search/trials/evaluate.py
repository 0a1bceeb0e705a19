"""Quality of a schedule, against labels and against the unpruned model's own outputs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import NormalDist

import torch
from torch import Tensor

from prunesearch.core.events import track
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import ACROSS
from prunesearch.pruning.apply import Handle
from prunesearch.search.costs.in_runtime import answers_elsewhere, forward_in
from prunesearch.tasks.base import Forward, Outputs, Task
from prunesearch.tasks.batching.batches import Batch, EvalSet
from prunesearch.tasks.metrics.classes import Accuracy
from prunesearch.tasks.metrics.metric import Metric, wilson

# Standard errors by which a candidate must lose to be stopped. It is looked at after every batch, so that a look at two
# standard errors would stop one true equal in four; at three and a half it is one in a hundred.
_SURE = 3.5
_LEAST_ROWS = 64  # of a paired difference whose standard error is believed


@dataclass(frozen=True)
class InViews:
    """The views that rows were evaluated in.

    Attributes:
        names: of the views.
        of: int64 `[n]`, the number of each row's view.
        rows: int64 `[n]`, the number of each row before there were views; it comes again in other views.
        over: a row of `ACROSS`: how what is found in each becomes one number.
    """

    names: tuple[str, ...]
    of: Tensor
    rows: Tensor
    over: str

    def together(self, values: Sequence[float]) -> float:
        """What numbers come to of which less is better, such as losses; one a view."""
        return float(ACROSS[self.over](values, [1.0] * len(values)))


@dataclass(frozen=True)
class Evaluation:
    """What a pass over a split found; tensors have rows first, in the order of the evaluator's batches, on the CPU.

    `statistics` `[n, k]` are what the metric is computed from; `kl` `[n]` the divergence of the pruned from the
    unpruned outputs (`Task.divergence`: nats where it is one of Kullback and Leibler); `agrees` `[n]` says where, or in
    what share, both answer the same. A candidate that lost its race has the first rows alone. Of rows in several
    `views` every number is what those of the views come to.
    """

    statistics: Tensor
    kl: Tensor
    agrees: Tensor
    metric: Metric = field(default_factory=Accuracy)
    views: InViews | None = None

    @cached_property
    def in_views(self) -> dict[str, Evaluation]:
        """What was found in each view that has rows; empty where there is one view alone."""
        views, found = self.views, {}
        for number, name in enumerate(() if views is None else views.names):
            mine = torch.empty(0) if views is None else (views.of == number).nonzero().flatten()
            if len(mine):
                found[name] = Evaluation(self.statistics[mine], self.kl[mine], self.agrees[mine], self.metric)
        return found

    def _over_views(self, read: Callable[[Evaluation], float], *, high: bool = True) -> float:
        """What a number comes to over the views; `high`: more of it is better."""
        if self.views is None:
            raise ValueError("rows of one view have one number")
        sign = -1.0 if high else 1.0
        return sign * self.views.together([sign * read(found) for found in self.in_views.values()])

    @property
    def quality(self) -> float:
        """The task metric."""
        if self.views is not None:
            return self._over_views(lambda found: found.quality)
        return self.metric.value(self.statistics)

    @property
    def agreement(self) -> float:
        """Share of answers that are the unpruned model's."""
        if self.views is not None:
            return self._over_views(lambda found: found.agreement)
        return float(self.agrees.double().mean())

    def agreement_at_least(self, level: float = 0.95) -> float:
        """One-sided lower bound of `agreement`: Wilson's where rows agree or do not, else a normal one."""
        if self.views is not None:
            return self._over_views(lambda found: found.agreement_at_least(level))
        if self.agrees.dtype == torch.bool:
            return wilson(int(self.agrees.sum()), self.n, 2 * level - 1)[1]
        spread = float(self.agrees.double().std()) if self.n > 1 else math.inf
        return max(0.0, self.agreement - NormalDist().inv_cdf(level) * spread / math.sqrt(self.n))

    @property
    def loss(self) -> float:
        """Mean divergence from the unpruned model."""
        if self.views is not None:
            return self._over_views(lambda found: found.loss, high=False)
        return float(self.kl.double().mean())

    @property
    def finite(self) -> bool:
        """False if any output was NaN or infinite."""
        return bool(self.kl.isfinite().all())

    @property
    def n(self) -> int:
        """Rows evaluated."""
        return len(self.kl)

    def first(self, n: int) -> Evaluation:
        """The same of the first `n` rows."""
        if n >= self.n:
            return self
        views = self.views
        if views is not None:
            views = replace(views, of=views.of[:n], rows=views.rows[:n])
        return Evaluation(self.statistics[:n], self.kl[:n], self.agrees[:n], self.metric, views)


@dataclass(frozen=True)
class Rival:
    """A schedule that was evaluated in full and costs no more than the candidate, to race it against.

    `statistics` `[n, k]` and `kl` `[n]` are its `Evaluation`'s; `k` is 0 where the former were too long to keep.
    """

    statistics: Tensor
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
        takes the luck of the first rows out. Without the rival's statistics, the quality is that of the first rows.
        """
        m = evaluation.n
        metric = evaluation.metric
        quality = evaluation.quality
        if self.statistics.shape[1]:
            quality = metric.contrast(self.statistics[:m], evaluation.statistics) + metric.value(self.statistics)
        loss = (evaluation.kl.double() - self.kl[:m].double()).mean() + self.kl.double().mean()
        return min(metric.highest, max(metric.lowest, quality)), float(loss)


def order_of_batches(split: EvalSet) -> list[int]:
    """The batches of a split in the order in which they are evaluated.

    Texts are sorted by length: in that order the first batches would tell of short texts alone.
    """
    drawn: list[int] = torch.randperm(len(split.batches), generator=torch.Generator().manual_seed(0)).tolist()
    return drawn


def order_of_rows(split: EvalSet) -> Tensor:
    """Where the rows of an evaluation are in the order of the batches, in which labels are; int64 `[n]`."""
    counts = [len(numbers) for numbers in split.batches.numbers]
    places = torch.split(torch.arange(sum(counts)), counts)
    return torch.cat([places[i] for i in order_of_batches(split)])


class Evaluator:
    """Evaluates schedules on one split; the unpruned model's outputs are computed once and kept.

    Args:
        task: the model with its data.
        handle: the handle of the task's model; its schedule is changed at will.
        split: the rows to evaluate on.
        mode: the row of `RUNTIMES` that plans in fewer bits answer in, where it is not torch: each such runtime has a
            quantiser of its own. Any other plan answers in torch, as it would there; None: all do.

    Attributes:
        seconds: what the unpruned model took for them.
    """

    def __init__(self, task: Task, handle: Handle, split: EvalSet, mode: str | None = None) -> None:
        self.task, self.handle, self.split, self.mode = task, handle, split, mode
        self._order = order_of_batches(split)
        started = time.monotonic()
        with handle.under(Plan()):
            batches = track(self.batches(), len(split.batches), "unpruned model")
            self._reference = [task.condensed(self._run(batch)) for batch in batches]
        self.seconds = time.monotonic() - started
        self._unpruned: Evaluation | None = None
        self._changed: dict[Plan, Evaluation] = {}  # of the whole sequence, with changes of the model

    @torch.inference_mode()
    def evaluate(
        self,
        schedule: Plan | Schedule,
        progress: Callable[[int], None] | None = None,
        rival: Rival | None = None,
        rows: int | None = None,
        ends: Callable[[Tensor], bool] | None = None,
    ) -> Evaluation:
        """Run the split under a plan, `schedule`; `progress` is told the rows done after each batch.

        With `rows`, stop after the batch in which so many are done, the same ones whatever the plan; nothing is taken
        from before then, so that the model may have other weights by now; or after the first batch where `ends` says so
        of the statistics until then. With a `rival`,
        stop after the batch that shows, by paired differences of the divergence, that it is beaten.
        """
        known = self._changed.get(Plan.of(schedule))
        if known is not None and rows is None:
            return known
        task, forward = self.task, self._forward(Plan.of(schedule))
        statistics, losses, same, numbers = [], [], [], []
        done, last = 0, self.split.n if rows is None else rows
        with self.handle.under(schedule):
            for bare, reference in zip(self.batches(), self._reference, strict=True):
                batch = self.split.batches.settled(bare, reference)
                outputs = task.outputs(forward, batch)
                statistics.append(task.statistics(outputs, batch))
                losses.append(task.divergence(reference, outputs, batch))
                same.append(task.agrees(reference, outputs, batch))
                numbers.append(batch.index)
                if progress is not None:
                    progress(len(batch))
                done += len(batch)
                beaten = rival is not None and len(losses) > 1 and rival.beats(torch.cat(losses).cpu())
                if beaten or done >= last or (ends is not None and ends(torch.cat(statistics).cpu())):
                    break
        of_rows, kl, agrees = (torch.cat(parts).cpu() for parts in (statistics, losses, same))
        found = Evaluation(of_rows, kl, agrees, task.scoring, self._views(torch.cat(numbers)))
        if rows is None and not len(Plan.of(schedule)) and found.n == self.split.n:
            self._changed[Plan.of(schedule)] = found
        return found

    def unpruned(self) -> Evaluation:
        """The evaluation of the unpruned model, from the outputs kept."""
        if self._unpruned is None:
            statistics = self._unpruned_statistics()
            n = len(statistics)
            ones = torch.ones(n, dtype=torch.bool)
            views = self._views(torch.cat([self.split.batches.numbers[i] for i in self._order]))
            self._unpruned = Evaluation(statistics, torch.zeros(n), ones, self.task.scoring, views)
        return self._unpruned

    def _views(self, index: Tensor) -> InViews | None:
        """The views of rows by their numbers."""
        found = self.split.batches.view_of(index)
        return None if found is None else InViews(self.split.views, *found, self.split.over)

    @torch.inference_mode()
    def _unpruned_statistics(self) -> Tensor:
        pairs, settled = zip(self._reference, self.batches(), strict=True), self.split.batches.settled
        with self.handle.under(Plan()):  # a task may write its answers anew
            return torch.cat([self.task.statistics(out, settled(batch, out)) for out, batch in pairs]).cpu()

    def _forward(self, plan: Plan) -> Forward:
        if self.mode is None or not answers_elsewhere(self.mode, plan):
            return self.task.model
        return forward_in(self.mode, self.task, plan, self.split)

    @torch.inference_mode()
    def _run(self, batch: Batch) -> Outputs:
        return self.task.outputs(self.task.model, batch)

    def batches(self) -> Iterator[Batch]:
        """The batches in the order of the evaluation, one at a time."""
        return (self.split.batches.bare(i) for i in self._order)
