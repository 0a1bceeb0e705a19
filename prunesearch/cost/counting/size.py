"""The size of a model's weights on disk as a cost: counted, by what a plan's changes leave of every weight."""

from __future__ import annotations

import copy

from torch import nn

from prunesearch.compress.halves import left_of, names_of
from prunesearch.core.errors import UnsupportedModelError
from prunesearch.core.plans.flow import Flow, Geometry
from prunesearch.core.plans.plan import HALVES, Change, Plan, whole_of
from prunesearch.core.tables.registry import PRECISIONS
from prunesearch.cost.costs import OfOneModel
from prunesearch.pruning.families.find import find_encoder

_MB = 1e6
_SCALES = 8  # bytes of a scale and a zero point, for every row of a quantised weight


class SizeCosts(OfOneModel):
    """MB (10^6 bytes) of all weights and buffers that a checkpoint has, as in a safetensors file; tokens cost nothing.

    Its pieces are the linear layers of the halves of blocks, so that a solver sees what a smaller half saves; a block
    that serves several passes is in none of them, for its weights are stored once.

    Args:
        model: with its head.
        geometry: of it.
        changes: what is done to it.
    """

    def __init__(self, model: nn.Module, geometry: Geometry, changes: tuple[Change, ...] = ()) -> None:
        self.model, self._geometry, self.changes = model, geometry, changes
        self._pieces = dict[tuple[int, str], float]()
        self._mb = self._count() / _MB
        self._known: dict[tuple[Change, ...], SizeCosts] = {changes: self}

    def _count(self) -> float:
        total, seen = 0.0, set()
        linear = {id(m.weight): m for m in self.model.modules() if type(m) is nn.Linear}
        whole, (left, owners, beside) = whole_of(self.changes), self._halves()
        halves = Plan(changes=self.changes).kept
        kept = {linear[weight] for weight in left if weight in linear and owners[weight] in halves}
        spared = {str(change): PRECISIONS.load(str(change)).spared(self.model) for change in whole}
        for value in self.model.state_dict(keep_vars=True).values():
            if id(value) in seen:  # tied weights are stored once
                continue
            seen.add(id(value))
            layer, item = linear.get(id(value)), float(value.element_size())
            scales = 0
            numel = left.get(id(value), value.numel()) + beside.get(id(value), 0)
            for change in whole:
                row = PRECISIONS.entry(str(change))
                as_it_is = row.linear and (layer is None or layer in kept or layer is spared[str(change)])
                if value.is_floating_point() and not as_it_is:
                    item = row.bits / 8
                    scales = _SCALES * layer.out_features if row.linear and layer is not None else 0
            size = numel * item + scales * (numel > 0)
            owner = owners.get(id(value))
            if owner is not None:
                self._pieces[owner] = self._pieces.get(owner, 0.0) + size / _MB
            total += size
        return total

    def _halves(self) -> tuple[dict[int, int], dict[int, tuple[int, str]], dict[int, int]]:
        """Of the weights of linear layers in blocks, by their identity: how many numbers changes leave, whose half they
        are, and how many stand beside them, where other passes need them whole."""
        left, owners, beside = dict[int, int](), dict[int, tuple[int, str]](), dict[int, int]()
        try:
            encoder = find_encoder(self.model)
        except UnsupportedModelError:
            return left, owners, beside
        core, halves = encoder.family.layout.core, Plan(changes=self.changes).halves
        for index, block in enumerate(encoder.blocks):
            shared = sum(other is block for other in encoder.blocks) > 1
            for half in HALVES:
                for path in names_of(block, core, half) if not shared else ():
                    owners[id(block.get_submodule(path).weight)] = index, half
                change = halves.get((index, half))
                for path, numel in left_of(block, core, change).weights.items() if change is not None else ():
                    weight = id(block.get_submodule(path).weight)
                    if shared:
                        beside[weight] = beside.get(weight, 0) + numel
                    else:
                        left[weight] = numel
        return left, owners, beside

    @property
    def geometry(self) -> Geometry:
        """Of the model."""
        return self._geometry

    def under(self, changes: tuple[Change, ...]) -> SizeCosts:
        """Of the model with these changes."""
        whole, halves = whole_of(changes), Plan(changes=changes).halves
        base = self._counted(whole)
        if not halves:
            return base
        found = copy.copy(base)
        found.changes, found._pieces = changes, dict(base._pieces)
        for key, change in halves.items():
            one = self._counted((*whole, change))
            found._mb += one._mb - base._mb
            found._pieces[key] = one._pieces.get(key, 0.0)
        return found

    def _counted(self, changes: tuple[Change, ...]) -> SizeCosts:
        """Counted once: of a plan's changes of halves, each by itself."""
        if changes not in self._known:
            self._known[changes] = found = SizeCosts(self.model, self._geometry, changes)
            found._known = self._known
        return self._known[changes]

    def price(self, flow: Flow) -> float:
        """The weights, whatever the tokens."""
        return self._mb

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """The linear layers of a block's attention half."""
        return self._pieces.get((layer, HALVES[0]), 0.0)

    def mlp(self, n: int, layer: int) -> float:
        """Those of its MLP half."""
        return self._pieces.get((layer, HALVES[1]), 0.0)

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """Nothing: see `price`."""
        return 0.0

    @property
    def stem(self) -> float:
        """All that is in no half."""
        return self._mb - sum(self._pieces.values())

    def head(self, n: int) -> float:
        """Nothing: see `price`."""
        return 0.0
