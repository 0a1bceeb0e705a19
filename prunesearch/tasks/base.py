"""What a task is to the rest of prunesearch: a model in eval mode, cached batches, labels, notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError

Inputs = dict[str, Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Model inputs of `b` rows, ready for `model(**inputs)`, with what is needed to score them.

    `labels` is int64 `[b]` on the inputs' device; `index` is int64 `[b]` on the CPU, each row's number
    in its split (batches of text are sorted by length, so rows do not come in that order).
    """

    inputs: Inputs
    labels: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, keep: Tensor) -> Batch:
        """Return the rows at the positions `keep` (int64 `[k]`, on the CPU); all of them copy nothing."""
        if len(keep) == len(self):
            return self
        inputs = {name: value[keep.to(value.device)] for name, value in self.inputs.items()}
        return Batch(inputs, self.labels[keep.to(self.labels.device)], self.index[keep])


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
    def labels(self) -> Tensor:
        """Labels of all rows in the order of the batches, int64 `[n]`."""
        return torch.cat([batch.labels for batch in self.batches])

    def take(self, n: int) -> EvalSet:
        """Return the rows numbered 0 to n - 1 of the split, in full batches.

        Rows are numbered in a class-stratified random order, so the result is an unbiased smaller split
        even where batches are sorted by length. More than there are: the whole split, unchanged.
        """
        if n < 1:
            raise PruneSearchError(f"`n >= 1` must hold, but got {n}: take at least one row")
        if n >= self.n:
            return self
        size = max(len(batch) for batch in self.batches)
        pieces = (batch.rows((batch.index < n).nonzero().flatten()) for batch in self.batches)
        return EvalSet(self.name, list(_regroup(pieces, size, self.padding)), self.padding)


@dataclass(frozen=True)
class Sample:
    """One calibration row to show in a report: a PIL image or a text, its label id and row number."""

    content: Image.Image | str
    label: int
    index: int


@dataclass
class Task:
    """A model with the data and the metric that say how good it is.

    `tokens` is the sequence length, special tokens included, at which latency is measured;
    `timing_inputs(b)` gives a real batch of `b` rows of exactly that many tokens, with no padding.
    `timing_at(n)` gives the same function for `n` tokens; None where a model has a length of its own.
    `notes` tells a user in one line each what was inferred or decided.
    """

    name: str
    model: nn.Module
    calibration: EvalSet
    holdout: EvalSet
    tokens: int
    timing_inputs: Callable[[int], Inputs]
    label_names: list[str]
    metric: str = "accuracy"
    notes: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    timing_at: Callable[[int], Callable[[int], Inputs]] | None = None

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

    def logits(self, outputs: Any) -> Tensor:
        """Return the logits `[batch, classes]` of what `self.model(**inputs)` returned."""
        logits = getattr(outputs, "logits", None)
        found = outputs[0] if logits is None else logits
        if not isinstance(found, Tensor):
            raise PruneSearchError(
                f"model outputs must hold logits, but got {type(outputs).__name__}: use a classifier"
            )
        return found


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
    labels = torch.cat([batch.labels for batch in batches])
    return Batch(inputs, labels, torch.cat([batch.index for batch in batches]))


def _stack(parts: list[Tensor], fill: int | None) -> Tensor:
    """Concatenate `[b, ...]` tensors; with `fill`, `[b, n]` ones of unlike `n`."""
    if fill is None:
        return torch.cat(parts)
    longest = max(part.shape[1] for part in parts)
    pads = [longest - part.shape[1] for part in parts]
    return torch.cat([nn.functional.pad(part, (0, pad), value=fill) for part, pad in zip(parts, pads, strict=True)])


def _trim(batch: Batch) -> Batch:
    """Cut columns that are padding in every row (the long rows of this batch were not taken)."""
    mask = batch.inputs.get("attention_mask")
    if mask is None:
        return batch
    longest = int(mask.sum(dim=1).max())
    if longest == mask.shape[1]:
        return batch
    inputs = {name: value[:, :longest] for name, value in batch.inputs.items()}
    return Batch(inputs, batch.labels, batch.index)


def _regroup(pieces: Iterable[Batch], size: int, padding: Mapping[str, int]) -> Iterator[Batch]:
    """Join pieces, in order, into batches of `size` rows (the last one may be smaller)."""
    waiting: list[Batch] = []
    for piece in pieces:
        start = 0
        while start < len(piece):
            room = size - sum(len(batch) for batch in waiting)
            stop = min(start + room, len(piece))
            waiting.append(
                _trim(piece.rows(torch.arange(start, stop))) if padding else piece.rows(torch.arange(start, stop))
            )
            start = stop
            if sum(len(batch) for batch in waiting) == size:
                yield merge_batches(waiting, padding)
                waiting = []
    if waiting:
        yield merge_batches(waiting, padding)
