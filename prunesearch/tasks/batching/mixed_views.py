"""The rows of a split in several views at once: every row in one of them at first, and in all of them in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunesearch.tasks.batching.batches import Batch, Batches, EvalSet, Held, Labels, merge_batches, rows_of


@dataclass(frozen=True)
class MixedViews(Batches):
    """Batches whose rows are in several views.

    Row `r` of `n` is in view `(r + lap) % views` in lap 0, 1, ...; its number is then `lap * n + r`. So any first rows
    are spread evenly over the views, and as many of them as there are rows are different ones.

    Args:
        views: the same `n` rows each, in the same order.
        groups: numbers of the rows of each batch, int64 `[b]`.
        padding: as of the `EvalSet` that these are the batches of.
        n: rows of a view.
    """

    views: tuple[Batches, ...]
    groups: list[Tensor]
    padding: Mapping[str, int]
    n: int

    @property
    def numbers(self) -> list[Tensor]:
        """The numbers of each batch's rows."""
        return self.groups

    @property
    def labels(self) -> Labels:
        """Labels of all rows in the order of the batches."""
        found = [self.one(place).labels for place in range(len(self))]
        tensors = [part for part in found if isinstance(part, Tensor)]
        return torch.cat(tensors) if tensors else [label for part in found for label in part]

    def one(self, place: int) -> Batch:
        """The batch at a place."""
        index = self.groups[place]
        of, rows = self.view_of(index)
        parts, order = [], []
        for view in sorted(set(of.tolist())):
            places = (of == view).nonzero().flatten()
            made = merge_batches(self.views[view].pick(rows[places].tolist(), self.padding), self.padding)
            parts.append(made)
            order.append(places)
        whole, back = merge_batches(parts, self.padding), torch.cat(order).argsort()
        inputs = {name: value[back.to(value.device)] for name, value in whole.inputs.items()}
        return Batch(inputs, rows_of(whole.labels, back), index)

    def view_of(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The views of rows, and the rows' numbers in them, int64 `[b]`."""
        rows = index % self.n
        return (rows + index // self.n) % len(self.views), rows

    def pick(self, numbers: list[int], padding: Mapping[str, int]) -> list[Batch]:
        """Any rows by their numbers."""
        return [replace(self, groups=[torch.tensor(numbers)]).one(0)]

    def take(self, n: int, padding: Mapping[str, int]) -> MixedViews:
        """The rows numbered 0 to n - 1, in batches of the same size, of one lap each."""
        size = max(map(len, self.groups))
        laps: dict[int, list[Tensor]] = {}
        for index in self.groups:
            if len(kept := index[index < n]):
                laps.setdefault(int(kept[0]) // self.n, []).append(kept)
        return replace(self, groups=[part for lap in laps.values() for part in torch.split(torch.cat(lap), size)])

    def relabelled(self, labels: list[Labels]) -> Batches:
        """The same inputs with other labels."""
        return Held([replace(self.one(place), labels=found) for place, found in enumerate(labels)])


def mixed(views: Mapping[str, EvalSet], name: str, over: str) -> EvalSet:
    """One split of the rows of several views of them; the first rows of each, as many as all have.

    Args:
        views: of the same rows, by name; a row's number is the same in all.
        name: of the split.
        over: a row of `ACROSS`.
    """
    n = min(view.n for view in views.values())
    same = [view.take(n) for view in views.values()]
    first, padding = same[0].batches, same[0].padding
    laps = [index + lap * n for lap in range(len(same)) for index in first.numbers]
    inner = MixedViews(tuple(view.batches for view in same), laps, padding, n)
    return EvalSet(name, first.wrapped(inner), padding, tuple(views), over)
