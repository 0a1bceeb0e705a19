"""Rows of a split in batches: held, or prepared when they are used, and on the model's device only then."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError

Inputs = dict[str, Tensor]
Labels = Tensor | list[Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Model inputs of `b` rows, ready for `model(**inputs)`, with what is needed to score them.

    `labels` is whatever the metric compares with, rows first: class ids `[b]`, or a list with one item a row
    (reference texts, spans, boxes). `index` is int64 `[b]` on the CPU, each row's number in its split (batches of text
    are sorted by length, so rows do not come in that order).
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

    def to(self, device: torch.device) -> Batch:
        """The batch with inputs and labels on a device; itself where they are there."""
        held = [*self.inputs.values(), *([self.labels] if isinstance(self.labels, Tensor) else [])]
        if all(value.device == device for value in held):
            return self
        labels = self.labels.to(device) if isinstance(self.labels, Tensor) else self.labels
        return Batch({name: value.to(device) for name, value in self.inputs.items()}, labels, self.index)


class Batches(Sequence[Batch], ABC):
    """The batches of a split. One that is taken from it is ready for the model; a loop holds one at a time."""

    @property
    @abstractmethod
    def numbers(self) -> list[Tensor]:
        """The numbers of each batch's rows, int64 `[b]` on the CPU, with nothing prepared."""

    @property
    @abstractmethod
    def labels(self) -> Labels:
        """Labels of all rows in the order of the batches: `[n, ...]`, or a list."""

    @abstractmethod
    def take(self, n: int, padding: Mapping[str, int]) -> Batches:
        """The rows numbered 0 to n - 1, in full batches; see `EvalSet.take`."""

    @abstractmethod
    def relabelled(self, labels: list[Labels]) -> Batches:
        """The same inputs with other labels, those of each batch."""

    @abstractmethod
    def pick(self, numbers: list[int], padding: Mapping[str, int]) -> list[Batch]:
        """Any rows by their numbers, ready for the model: one batch, or one for each number of texts that rows have."""

    @abstractmethod
    def one(self, place: int) -> Batch:
        """The batch at a place, 0 <= place < len(self)."""

    @property
    def self_labelled(self) -> bool:
        """Whether the labels are what the unpruned model says, which is asked only when they are needed."""
        return False

    def wrapped(self, inner: Batches) -> Batches:
        """Other batches of rows that are labelled in the same way, with what labels them."""
        return inner

    def view_of(self, index: Tensor) -> tuple[Tensor, Tensor] | None:
        """By the rows' numbers, the view that each is in and its number there, int64 `[b]`; None where there is one."""
        return None

    def bare(self, place: int) -> Batch:
        """The batch at a place, to run the model on; it has its labels once it is `settled`."""
        return self.one(place)

    def settled(self, batch: Batch, outputs: dict[str, Tensor]) -> Batch:
        """A bare batch with its labels, given the unpruned model's outputs."""
        return batch

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Batch]:
        for place in range(len(self)):
            yield self.one(place)

    @overload
    def __getitem__(self, place: int) -> Batch: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Batch]: ...
    def __getitem__(self, place: int | slice) -> Batch | Sequence[Batch]:
        found = range(len(self))[place]
        return [self.one(i) for i in found] if isinstance(found, range) else self.one(found)


@dataclass(frozen=True)
class Held(Batches):
    """Batches that are kept as they are, and moved to `device` (None: where they are) when they are taken."""

    batches: list[Batch]
    device: torch.device | None = None

    @property
    def numbers(self) -> list[Tensor]:
        """The numbers of each batch's rows."""
        return [batch.index for batch in self.batches]

    @property
    def labels(self) -> Labels:
        """Labels of all rows in the order of the batches."""
        return _join([batch.labels for batch in self.batches])

    def one(self, place: int) -> Batch:
        """The batch at a place."""
        batch = self.batches[place]
        return batch if self.device is None else batch.to(self.device)

    @cached_property
    def _places(self) -> dict[int, tuple[int, int]]:
        """Where each row is, by its number: the batch, and its place in it."""
        return {n: (b, at) for b, batch in enumerate(self.batches) for at, n in enumerate(batch.index.tolist())}

    def pick(self, numbers: list[int], padding: Mapping[str, int]) -> list[Batch]:
        """Rows by their numbers."""
        alike: dict[object, list[Batch]] = {}
        for number in numbers:
            batch, at = self._places[number]
            row = trimmed(self.batches[batch].rows(torch.tensor([at])), padding)
            alike.setdefault(_inner(row), []).append(row)
        found = [merge_batches(rows, padding) for rows in alike.values()]
        return found if self.device is None else [batch.to(self.device) for batch in found]

    def take(self, n: int, padding: Mapping[str, int]) -> Held:
        """The rows numbered 0 to n - 1; those of unlike numbers of texts are never in one batch."""
        alike: dict[object, list[Batch]] = {}
        for batch in self.batches:
            alike.setdefault(_inner(batch), []).append(batch)
        kept: list[Batch] = []
        for batches in alike.values():
            pieces = (batch.rows((batch.index < n).nonzero().flatten()) for batch in batches)
            kept += _regroup(pieces, max(map(len, batches)), padding)
        return replace(self, batches=kept)

    def relabelled(self, labels: list[Labels]) -> Held:
        """The same inputs with other labels."""
        pairs = zip(self.batches, labels, strict=True)
        return replace(self, batches=[replace(batch, labels=found) for batch, found in pairs])


@dataclass(frozen=True)
class OnDemand(Batches):
    """Batches whose inputs are made when one is taken, and go with it; every row has inputs of the same shape.

    Args:
        inputs: makes the model inputs of rows, by their numbers, on the model's device.
        rows: numbers of the rows of each batch, int64 `[b]`.
        held: labels of all rows, by their number: on the model's device, or a list.
    """

    inputs: Callable[[list[int]], Inputs]
    rows: list[Tensor]
    held: Labels

    @property
    def numbers(self) -> list[Tensor]:
        """The numbers of each batch's rows."""
        return self.rows

    @property
    def labels(self) -> Labels:
        """Labels of all rows in the order of the batches."""
        return _join([rows_of(self.held, index) for index in self.rows])

    def one(self, place: int) -> Batch:
        """The batch at a place, prepared."""
        index = self.rows[place]
        return Batch(self.inputs(index.tolist()), rows_of(self.held, index), index)

    def pick(self, numbers: list[int], padding: Mapping[str, int]) -> list[Batch]:
        """Rows by their numbers, prepared."""
        index = torch.tensor(numbers)
        return [Batch(self.inputs(numbers), rows_of(self.held, index), index)]

    def take(self, n: int, padding: Mapping[str, int]) -> OnDemand:
        """The rows numbered 0 to n - 1, in batches of the same size."""
        kept = torch.cat([index[index < n] for index in self.rows])
        return replace(self, rows=list(torch.split(kept, max(map(len, self.rows)))))

    def relabelled(self, labels: list[Labels]) -> OnDemand:
        """The same inputs with other labels."""
        order, joined = torch.cat(self.rows).argsort(), _join(labels)
        return replace(self, held=rows_of(joined, order))


@dataclass(frozen=True)
class EvalSet:
    """A split in batches.

    `padding` gives, per input, the value that fills a short row (empty where all rows are of one length).
    `views` are the views that its rows are in (empty for one), and `over`, a row of `ACROSS`, is how what is found in
    each becomes one number.
    """

    name: str
    batches: Batches
    padding: Mapping[str, int] = field(default_factory=dict)
    views: tuple[str, ...] = ()
    over: str = "mean"

    @property
    def n(self) -> int:
        """How many rows the split has."""
        return sum(map(len, self.batches.numbers))

    @property
    def labels(self) -> Labels:
        """Labels of all rows in the order of the batches: `[n, ...]`, or a list."""
        return self.batches.labels

    def take(self, n: int) -> EvalSet:
        """Return the rows numbered 0 to n - 1 of the split, in full batches.

        Rows are numbered in a class-stratified random order, so the result is an unbiased smaller split
        even where batches are sorted by length. More than there are: the whole split, unchanged.
        """
        if n < 1:
            raise PruneSearchError(f"`n >= 1` must hold, but got {n}: take at least one row")
        return self if n >= self.n else replace(self, batches=self.batches.take(n, self.padding))


def in_random_order(batches: Sequence[Tensor], seed: int) -> list[Tensor]:
    """The rows of batches, in an order that hangs on the seed alone: the first few are a fair sample of all."""
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed)).tolist()
    return [batches[place] for place in order]


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


def _inner(batch: Batch) -> tuple[torch.Size, ...]:
    """What rows of one batch have in common beside their length: how many texts each has."""
    return tuple(value.shape[1:-1] for value in batch.inputs.values())


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
