"""Rows whose labels are what the unpruned model says of them: it is asked when they are needed, and once a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from prunesearch.core.events import track
from prunesearch.tasks.batching.batches import Batch, Batches, Labels

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class SelfLabelled(Batches):
    """Batches that are labelled by the unpruned model.

    Args:
        inner: the same rows; their own labels mean nothing.
        run: the outputs of the unpruned model on a batch.
        read: labels from them, `[b, ...]`.
        known: labels found so far, by the row's number; those who take fewer rows share it.
    """

    inner: Batches
    run: Callable[[Batch], Outputs]
    read: Callable[[Outputs], Tensor]
    known: dict[int, Tensor] = field(default_factory=dict)

    @property
    def numbers(self) -> list[Tensor]:
        """The numbers of each batch's rows."""
        return self.inner.numbers

    @property
    def labels(self) -> Labels:
        """Labels of all rows in the order of the batches; the model is asked for those that are not known."""
        places = track(range(len(self)), len(self), "Running the unpruned model")
        return torch.cat([self._known(index) for index in (self._asked(place) for place in places)])

    @property
    def self_labelled(self) -> bool:
        """They are."""
        return True

    def one(self, place: int) -> Batch:
        """The batch at a place, labelled."""
        batch = self.inner.one(place)
        if not self._has(batch.index):
            return self.settled(batch, self.run(batch))
        return replace(batch, labels=self._known(batch.index))

    def wrapped(self, inner: Batches) -> Batches:
        """Other batches whose labels the unpruned model is asked for."""
        return replace(self, inner=inner, known={})

    def view_of(self, index: Tensor) -> tuple[Tensor, Tensor] | None:
        """As the rows have it that are labelled."""
        return self.inner.view_of(index)

    def bare(self, place: int) -> Batch:
        """The batch at a place, to run the model on."""
        return self.inner.one(place)

    def pick(self, numbers: list[int], padding: Mapping[str, int]) -> list[Batch]:
        """Rows by their numbers, bare: what is trained on them is asked of the model itself."""
        return self.inner.pick(numbers, padding)

    def settled(self, batch: Batch, outputs: Outputs) -> Batch:
        """A bare batch with the labels that the unpruned model's outputs are."""
        if not self._has(batch.index):
            self.known.update(zip(batch.index.tolist(), self.read(outputs), strict=True))
        return replace(batch, labels=self._known(batch.index))

    def take(self, n: int, padding: Mapping[str, int]) -> SelfLabelled:
        """The rows numbered 0 to n - 1."""
        return replace(self, inner=self.inner.take(n, padding))

    def relabelled(self, labels: list[Labels]) -> Batches:
        """The same inputs with other labels."""
        return self.inner.relabelled(labels)

    def _asked(self, place: int) -> Tensor:
        index = self.numbers[place]
        if not self._has(index):
            self.one(place)
        return index

    def _has(self, index: Tensor) -> bool:
        return all(row in self.known for row in index.tolist())

    def _known(self, index: Tensor) -> Tensor:
        return torch.stack([self.known[row] for row in index.tolist()])
