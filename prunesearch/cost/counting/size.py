"""The size of a model's weights on disk as a cost: counted, by what a plan's changes leave of every weight."""

from __future__ import annotations

from typing import Any

from torch import nn

from prunesearch.compress.halves import find_half
from prunesearch.core.plans.flow import Flow, Geometry
from prunesearch.core.plans.plan import Change, Plan, whole_of
from prunesearch.core.tables.registry import CHANGES, PRECISIONS
from prunesearch.cost.costs import OfOneModel
from prunesearch.pruning.families.find import find_encoder

_MB = 1e6
_SCALES = 8  # bytes of a scale and a zero point, for every row of a quantised weight


class SizeCosts(OfOneModel):
    """MB (10^6 bytes) of all weights and buffers that a checkpoint has, as in a safetensors file; tokens cost nothing.

    Args:
        model: with its head.
        geometry: of it.
        changes: what is done to it.
    """

    def __init__(self, model: nn.Module, geometry: Geometry, changes: tuple[Change, ...] = ()) -> None:
        self.model, self._geometry, self.changes = model, geometry, changes
        self._mb = self._count() / _MB

    def _count(self) -> float:
        total, seen = 0.0, set()
        linear = {id(m.weight): m for m in self.model.modules() if type(m) is nn.Linear}
        whole, left = whole_of(self.changes), self._left()
        for value in self.model.state_dict(keep_vars=True).values():
            if id(value) in seen:  # tied weights are stored once
                continue
            seen.add(id(value))
            layer, item = linear.get(id(value)), float(value.element_size())
            scales = 0
            numel = left.get(id(value), value.numel())
            for change in whole:
                row = PRECISIONS.entry(str(change))
                if value.is_floating_point() and (layer is not None or not row.linear):
                    item = row.bits / 8
                    scales = _SCALES * layer.out_features if row.linear and layer is not None else 0
            total += numel * item + scales * (numel > 0)
        return total

    def _left(self) -> dict[int, int]:
        """What changes of halves of blocks leave of the weights of their linear layers, in numbers."""
        halves, found = Plan(changes=self.changes).halves, dict[int, int]()
        if not halves:
            return found
        encoder = find_encoder(self.model)
        for (block, half), change in halves.items():
            module = encoder.blocks[block]
            makes: Any = CHANGES.load(change.kind)(**dict(change.params))
            parts = find_half(module, encoder.family.layout.core, half)
            for path, numel in makes.weights(module, parts).items():
                found[id(module.get_submodule(path).weight)] = numel
        return found

    @property
    def geometry(self) -> Geometry:
        """Of the model."""
        return self._geometry

    def under(self, changes: tuple[Change, ...]) -> SizeCosts:
        """Of the model with these changes."""
        return self if changes == self.changes else SizeCosts(self.model, self._geometry, changes)

    def price(self, flow: Flow) -> float:
        """The weights, whatever the tokens."""
        return self._mb

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """Nothing: see `price`."""
        return 0.0

    def mlp(self, n: int, layer: int) -> float:
        """Nothing: see `price`."""
        return 0.0

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """Nothing: see `price`."""
        return 0.0

    @property
    def stem(self) -> float:
        """All of it."""
        return self._mb

    def head(self, n: int) -> float:
        """Nothing: see `price`."""
        return 0.0
