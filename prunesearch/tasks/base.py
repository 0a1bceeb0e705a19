"""What a task is to the rest of prunesearch: a model in eval mode, cached batches, and what an answer is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.schedule import Schedule
from prunesearch.pruning.apply import Handle
from prunesearch.tasks.metrics.metric import Metric, find_metric

Inputs = dict[str, Tensor]
Outputs = dict[str, Tensor]  # what a task keeps of a forward; rows first in every tensor
Labels = Tensor | list[Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Model inputs of `b` rows, ready for `model(**inputs)`, with what is needed to score them.

    `labels` is whatever the metric compares with, rows first: class ids `[b]` on the inputs' device, or a list with one
    item a row (reference texts, spans, boxes). `index` is int64 `[b]` on the CPU, each row's number in its split
    (batches of text are sorted by length, so rows do not come in that order).
    """

    inputs: Inputs
    labels: Labels
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, keep: Tensor) -> Batch:
        """Return the rows at the positions `keep` (int64 `[k]`, on the CPU); all of them copy nothing."""
        if len(keep) == len(self):
            return self
        inputs = {name: value[keep.to(value.device)] for name, value in self.inputs.items()}
        return Batch(inputs, rows_of(self.labels, keep), self.index[keep])


@dataclass(frozen=True)
class EvalSet:
    """A split, preprocessed once and kept as batches.

    `padding` gives, per input, the value that fills a short row (text only; empty for images).
    """

    name: str
    batches: list[Batch]
    padding: Mapping[str, int] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """How many rows the split has."""
        return sum(len(batch) for batch in self.batches)

    @property
    def labels(self) -> Labels:
        """Labels of all rows in the order of the batches: `[n, ...]`, or a list."""
        return _join([batch.labels for batch in self.batches])

    def take(self, n: int) -> EvalSet:
        """Return the rows numbered 0 to n - 1 of the split, in full batches.

        Rows are numbered in a class-stratified random order, so the result is an unbiased smaller split
        even where batches are sorted by length. More than there are: the whole split, unchanged.
        """
        if n < 1:
            raise PruneSearchError(f"`n >= 1` must hold, but got {n}: take at least one row")
        if n >= self.n:
            return self
        alike: dict[object, list[Batch]] = {}
        for batch in self.batches:  # rows of unlike numbers of texts are never in one batch
            shapes = (value.shape[1:-1] for value in batch.inputs.values())
            alike.setdefault(tuple(shapes), []).append(batch)
        kept: list[Batch] = []
        for batches in alike.values():
            pieces = (batch.rows((batch.index < n).nonzero().flatten()) for batch in batches)
            kept += _regroup(pieces, max(map(len, batches)), self.padding)
        return EvalSet(self.name, kept, self.padding)


@dataclass(frozen=True)
class Sample:
    """One calibration row to show: a PIL image or a text, its label (a class id, or as written) and row number."""

    content: Image.Image | str
    label: int | str
    index: int


@dataclass
class Task(ABC):
    """A model with the data and the metric that say how good it is; a kind of task says what its answers are.

    `tokens` is the sequence length, special tokens included, at which latency is measured;
    `timing_inputs(b)` gives a real batch of `b` rows of exactly that many tokens, with no padding.
    `timing_at(n)` gives the same function for `n` tokens; None where a model has a length of its own. `lengths` are the
    tokens of the calibration rows, padding left out, where these differ.
    `label_names` are the classes, where there are any; `metric` is a name in `table.METRICS`, or that of `own`, the
    metric of a caller. `notes` tells a user in one line each what was inferred or decided.
    """

    name: str
    model: nn.Module
    calibration: EvalSet
    holdout: EvalSet
    tokens: int
    timing_inputs: Callable[[int], Inputs]
    label_names: list[str] = field(default_factory=list)
    metric: str = "accuracy"
    notes: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    timing_at: Callable[[int], Callable[[int], Inputs]] | None = None
    lengths: list[int] = field(default_factory=list)
    own: Metric | None = None

    @property
    def scoring(self) -> Metric:
        """The metric itself."""
        return find_metric(self.metric) if self.own is None else self.own

    @abstractmethod
    def outputs(self, batch: Batch) -> Outputs:
        """Run the model once on a batch, under whatever schedule it carries, and keep what the other methods need."""

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
        """What the metric compares with `batch.labels`. It may run the model again (to decode a text)."""

    def condensed(self, outputs: Outputs) -> Outputs:
        """What is kept of the unpruned model's outputs for every later comparison; `statistics` must do with it too."""
        return outputs

    def statistics(self, outputs: Outputs, batch: Batch) -> Tensor:
        """The metric's numbers of every row, `[b, k]`, while the schedule that made `outputs` is still in place."""
        return self.scoring.statistics(self.answers(outputs, batch), batch.labels)

    def shown(self, outputs: Outputs, batch: Batch) -> list[str]:
        """The answers as a reader sees them, one line a row."""
        return [str(answer) for answer in self.answers(outputs, batch)]

    def shown_labels(self, batch: Batch) -> list[str]:
        """The labels as a reader sees them, one line a row."""
        return [str(label) for label in batch.labels]

    def remarks(self, handle: Handle, schedules: Mapping[str, Schedule], batch_size: int) -> list[str]:
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
        sets = {"calibration": self.sets["calibration"], "holdout": self.sets["holdout"]}
        timed = {"tokens": self.tokens, "timing_inputs": self.timing_inputs, "timing_at": self.timing_at}
        return {**sets, **timed, "lengths": self.lengths}


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items in order; the last one may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def merge_batches(batches: list[Batch], padding: Mapping[str, int]) -> Batch:
    """Put the rows of several batches into one, padded on the right to the longest of them."""
    if len(batches) == 1:
        return batches[0]
    names = batches[0].inputs
    inputs = {name: _stack([b.inputs[name] for b in batches], padding.get(name)) for name in names}
    return Batch(inputs, _join([batch.labels for batch in batches]), torch.cat([batch.index for batch in batches]))


def _stack(parts: list[Tensor], fill: int | None) -> Tensor:
    """Concatenate `[b, ...]` tensors; with `fill`, `[b, ..., n]` ones of unlike `n`."""
    if fill is None:
        return torch.cat(parts)
    longest = max(part.shape[-1] for part in parts)
    pads = [longest - part.shape[-1] for part in parts]
    return torch.cat([nn.functional.pad(part, (0, pad), value=fill) for part, pad in zip(parts, pads, strict=True)])


def rows_of(labels: Labels, keep: Tensor) -> Labels:
    """The labels of the rows at the positions `keep`, int64 `[k]` on the CPU."""
    return labels[keep.to(labels.device)] if isinstance(labels, Tensor) else [labels[int(i)] for i in keep]


def _join(parts: list[Labels]) -> Labels:
    """Put labels of several batches, all tensors or all lists, one after another."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    return torch.cat(tensors) if tensors else [label for part in parts for label in part]


def trimmed(batch: Batch, padding: Mapping[str, int]) -> Batch:
    """Cut places, of the last dimension, that are padding in every row (the long rows of this batch were not taken).

    `padding` names the inputs that have them; those of a decoder, `decoder_*`, have a mask of their own.
    """
    widths = {}
    for name in padding:
        mask = batch.inputs.get("decoder_attention_mask" if name.startswith("decoder_") else "attention_mask")
        if mask is not None:
            widths[name] = int(mask.sum(dim=-1).max())
    if all(batch.inputs[name].shape[-1] == width for name, width in widths.items()):
        return batch
    inputs = {name: value[..., : widths[name]] if name in widths else value for name, value in batch.inputs.items()}
    return Batch(inputs, batch.labels, batch.index)


def _regroup(pieces: Iterable[Batch], size: int, padding: Mapping[str, int]) -> Iterator[Batch]:
    """Join pieces, in order, into batches of `size` rows (the last one may be smaller)."""
    waiting: list[Batch] = []
    for piece in pieces:
        start = 0
        while start < len(piece):
            room = size - sum(len(batch) for batch in waiting)
            stop = min(start + room, len(piece))
            waiting.append(trimmed(piece.rows(torch.arange(start, stop)), padding))
            start = stop
            if sum(len(batch) for batch in waiting) == size:
                yield merge_batches(waiting, padding)
                waiting = []
    if waiting:
        yield merge_batches(waiting, padding)
