"""What a task is to the rest of prunesearch: a model in eval mode, its rows by split, and what an answer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.pruning.apply import Handle
from prunesearch.tasks.batching.batches import Batch, EvalSet, Inputs, Labels
from prunesearch.tasks.batching.mixed_views import mixed
from prunesearch.tasks.data.split import view_of_split
from prunesearch.tasks.metrics.metric import Metric, find_metric
from prunesearch.tasks.table import TASKS
from prunesearch.tasks.views.view_table import CLEAN

_LITTLE = 0.5  # of what a constant answer has on a metric that is blind to it

Outputs = dict[str, Tensor]  # what a task keeps of a forward; rows first in every tensor
# takes the model's inputs by name, and returns outputs that have names: the model itself, or a graph made of it
Forward = Callable[..., Any]


@dataclass(frozen=True)
class Sample:
    """One calibration row to show: a PIL image or a text, its label (a class id, or as written) and row number."""

    content: Image.Image | str
    label: int | str
    index: int


@dataclass
class Task(ABC):
    """A model with the data and the metric that say how good it is; a kind of task says what its answers are.

    `splits` are rows by name: `calibration` (a search sees these alone), `holdout` (what is reported comes from it),
    and `train` where something is fitted.
    `tokens` is the sequence length, special tokens included, at which latency is measured;
    `timing_inputs(b)` gives a real batch of `b` rows of exactly that many tokens, with no padding.
    `timing_at(n)` gives the same function for `n` tokens; None where a model has a length of its own. `lengths` are the
    tokens of the calibration rows, padding left out, where these differ.
    `label_names` are the classes, where there are any; `metric` is a name in `table.METRICS`, or that of `own`, the
    metric of a caller. `over`, a row of `ACROSS`, is how the qualities in several views become one. `space` is the
    shipped search space that suits its rows where the model's own does not; empty: the model's.
    `notes` tells a user in one line each what was inferred or decided.
    """

    name: str
    model: nn.Module
    splits: dict[str, EvalSet]
    tokens: int
    timing_inputs: Callable[[int], Inputs]
    label_names: list[str] = field(default_factory=list)
    metric: str = "accuracy"
    notes: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    timing_at: Callable[[int], Callable[[int], Inputs]] | None = None
    lengths: list[int] = field(default_factory=list)
    own: Metric | None = None
    over: str = "mean"
    space: str = ""
    groups: dict[str, list[str]] = field(default_factory=dict)

    @property
    def calibration(self) -> EvalSet:
        """The split that a search sees."""
        return self.splits["calibration"]

    @property
    def holdout(self) -> EvalSet:
        """The split that results are reported on."""
        return self.splits["holdout"]

    @property
    def views(self) -> list[str]:
        """The views that rows of the splits are in beside the rows as they are."""
        head = view_of_split("holdout", "")
        return [name.removeprefix(head) for name in self.splits if name.startswith(head)]

    def judging(self, role: str) -> EvalSet:
        """The rows of a split that schedules are judged on: the split, or where there are views, its rows in all."""
        if not self.views:
            return self.splits[role]
        others = {view: self.splits[view_of_split(role, view)] for view in self.views}
        return mixed({CLEAN: self.splits[role], **others}, role, self.over)

    @property
    def scoring(self) -> Metric:
        """The metric itself."""
        return find_metric(self.metric) if self.own is None else self.own

    @property
    def answering(self) -> nn.Module:
        """The module whose outputs hold the answers, that a graph is made of: the model, or it with what pools it."""
        return self.model

    def unable(self, given: Collection[str]) -> str:
        """Why the answers cannot be had of a forward that is not `model` and whose outputs are `given`, by their names.

        Empty where they can.
        """
        return ""

    def served_by(self, model: nn.Module) -> Task | None:
        """The task with another model in place of its own, which then writes the answers; None where none are written.

        Args:
            model: of the same class, in eager torch.
        """
        return None

    @abstractmethod
    def outputs(self, forward: Forward, batch: Batch) -> Outputs:
        """Run `forward` once on a batch, and keep what the other methods need.

        Args:
            forward: `model`, under whatever schedule it carries, or what was made of it (a graph, a quantised copy).
            batch: of this task.
        """

    @abstractmethod
    def divergence(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """How far outputs are from the unpruned model's (after `condensed`): float `[b]`, 0 where they are equal.

        It needs no labels, and its mean is what a search minimises: nats of a KL divergence, or `1 - cosine`.
        """

    @abstractmethod
    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Whether each row's answer is the unpruned model's: bool `[b]`, or the share of its answers that are, 0 to 1.

        `reference` is what `condensed` kept.
        """

    @abstractmethod
    def answers(self, outputs: Outputs, batch: Batch) -> Any:
        """What the metric compares with the labels (`wanted`). It may run the model again (to decode a text)."""

    def condensed(self, outputs: Outputs) -> Outputs:
        """What is kept of the unpruned model's outputs for every later comparison; `statistics` must do with it too."""
        return outputs

    def statistics(self, outputs: Outputs, batch: Batch) -> Tensor:
        """The metric's numbers of every row, `[b, k]`, while the schedule that made `outputs` is still in place."""
        return self.scoring.statistics(self.answers(outputs, batch), self.wanted(batch.labels))

    def supervised(self, outputs: Outputs, batch: Batch) -> Tensor | None:
        """A loss against the labels that can be trained with, `[b]`; None where there is none for this kind of task."""
        return None

    def wanted(self, labels: Labels) -> Any:
        """Labels of rows as the metric takes them."""
        return labels

    def telling(self, labels: Labels) -> list[str]:
        """Other metrics of this kind of task on which an answer that is the same for every row has little."""
        wanted = self.wanted(labels)
        mine, found = self.scoring.constant(wanted) or 0.0, []
        for name in TASKS.entry(self.name).metrics if self.name in TASKS else ():
            metric = find_metric(name)
            constant = metric.constant(wanted)
            if constant is not None and constant <= _LITTLE * mine and not metric.fixed(wanted):
                found.append(name)
        return found

    def check_measure(self) -> None:
        """Refuse a metric that is the same whatever the model answers.

        Raises:
            PruneSearchError: with the reason, and other metrics of this kind of task.
        """
        for split in (s for s in (self.calibration, self.holdout) if not s.batches.self_labelled):
            why = self.scoring.fixed(self.wanted(split.labels))
            if why:
                others = self.telling(split.labels)
                way_out = f"use --metric {' or '.join(others)}" if others else "give other rows, or check the columns"
                raise PruneSearchError(
                    f"{self.metric} must depend on what the model answers, but on the {split.n} {split.name} rows it "
                    f"is the same for every model ({why}): {way_out}"
                )

    def shown(self, outputs: Outputs, batch: Batch) -> list[str]:
        """The answers as a reader sees them, one line a row."""
        return [str(answer) for answer in self.answers(outputs, batch)]

    def shown_labels(self, batch: Batch) -> list[str]:
        """The labels as a reader sees them, one line a row."""
        return [str(label) for label in batch.labels]

    def remarks(self, handle: Handle, schedules: Mapping[str, Plan], batch_size: int) -> list[str]:
        """Lines on finished schedules, by point id, that no column has (such as the time to decode); measured now."""
        return []

    def at_length(self, length: int | None) -> Task:
        """The same task with its latency measured at `length` tokens; None changes nothing.

        Raises:
            PruneSearchError: if the model has a length of its own, or none so great.
        """
        if length is None or length == self.tokens:
            return self
        if self.timing_at is None:
            raise PruneSearchError(f"this model takes {self.tokens} tokens and no other, but got length {length}")
        return replace(self, tokens=length, timing_inputs=self.timing_at(length))


@dataclass(frozen=True)
class Prepared:
    """Splits by role, preprocessed for a model, with what its latency is measured on; see `Task` for the rest."""

    sets: dict[str, EvalSet]
    tokens: int
    timing_inputs: Callable[[int], Inputs]
    notes: list[str] = field(default_factory=list)
    timing_at: Callable[[int], Callable[[int], Inputs]] | None = None
    lengths: list[int] = field(default_factory=list)

    @property
    def for_task(self) -> dict[str, Any]:
        """The fields of a `Task` that this holds, by their names; the notes go among its others."""
        timed = {"tokens": self.tokens, "timing_inputs": self.timing_inputs, "timing_at": self.timing_at}
        return {"splits": self.sets, **timed, "lengths": self.lengths}


def named(found: Any, name: str) -> Tensor | None:
    """The output called `name` of what a forward returned (with attributes or keys); None if there is none."""
    value = found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
    return value if isinstance(value, Tensor) else None


def output(found: Any, name: str) -> Tensor:
    """The output called `name` of what a forward returned.

    Raises:
        PruneSearchError: if there is none.
    """
    value = named(found, name)
    if value is None:
        raise PruneSearchError(f"model outputs must hold {name}, but got {type(found).__name__}: use a model that does")
    return value
