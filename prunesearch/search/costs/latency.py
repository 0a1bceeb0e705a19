"""The latency that counts: the median or a percentile, under one load or over several."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prunesearch.core.plans.amount import kept_count
from prunesearch.core.plans.flow import Flow, Geometry
from prunesearch.core.plans.plan import Change, whole_of
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import ACROSS
from prunesearch.cost.costs import Costs, OfOneModel
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.percentile import Tail


@dataclass(frozen=True)
class Scaled(OfOneModel):
    """Costs times a factor."""

    costs: Costs
    factor: float

    @property
    def geometry(self) -> Geometry:
        """Of the model that is priced."""
        return self.costs.geometry

    @property
    def in_tower(self) -> Scaled | None:
        """Of a tower."""
        return None if self.costs.in_tower is None else Scaled(self.costs.in_tower, self.factor)

    def under(self, changes: tuple[Change, ...]) -> Scaled:
        """Those of the model with these changes."""
        return Scaled(self.costs.under(changes), self.factor)

    def price(self, flow: Flow) -> float:
        """A whole forward."""
        return self.factor * self.costs.price(flow)

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """The attention half of block `layer` at `n` tokens; `sized` with `+ log(size)` on the keys."""
        return self.factor * self.costs.attention(n, sized, layer)

    def mlp(self, n: int, layer: int) -> float:
        """The MLP half of block `layer` at `n` tokens."""
        return self.factor * self.costs.mlp(n, layer)

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """One stage."""
        return self.factor * self.costs.reduce(scorer, merge, n_in, n_out)

    @property
    def stem(self) -> float:
        """Everything before the first block, and the head."""
        return self.factor * self.costs.stem

    def head(self, n: int) -> float:
        """What `n` tokens at the end cost more or less than the whole sequence."""
        return self.factor * self.costs.head(n)


@dataclass(frozen=True)
class ByMacs(Scaled):
    """Multiply-adds in the unit of a latency; a precision's are as much faster as the table says of the unpruned model.

    Attributes:
        table: of the model in every precision.
    """

    table: CostTable = field(kw_only=True)

    def under(self, changes: tuple[Change, ...]) -> Scaled:
        """Those of the model with these changes."""
        unpruned = Schedule().flow(self.geometry)
        share = self.table.under(whole_of(changes)).price(unpruned) / self.table.price(unpruned)
        return Scaled(self.costs.under(changes), self.factor * share)


@dataclass(frozen=True)
class Summed(OfOneModel):
    """Several costs of one tower, each times its factor, together."""

    parts: tuple[Scaled, ...]

    @property
    def geometry(self) -> Geometry:
        """Of the tower."""
        return self.parts[0].geometry

    def price(self, flow: Flow) -> float:
        """A whole forward."""
        return sum(part.price(flow) for part in self.parts)

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """The attention half of block `layer` at `n` tokens; `sized` with `+ log(size)` on the keys."""
        return sum(part.attention(n, sized, layer) for part in self.parts)

    def mlp(self, n: int, layer: int) -> float:
        """The MLP half of block `layer` at `n` tokens."""
        return sum(part.mlp(n, layer) for part in self.parts)

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """One stage."""
        return sum(part.reduce(scorer, merge, n_in, n_out) for part in self.parts)

    @property
    def stem(self) -> float:
        """Everything before the first block."""
        return sum(part.stem for part in self.parts)

    def head(self, n: int) -> float:
        """What follows `n` tokens at the end."""
        return sum(part.head(n) for part in self.parts)


@dataclass(frozen=True)
class LoadCosts:
    """A load with the table of its latencies, ms.

    Attributes:
        batch_size: rows of a batch.
        tokens: of a row at the start.
        weight: in a mean over loads.
        table: medians.
        tail: from the median to the percentile that counts; None where the median does.
        macs: multiply-adds, where the table's error is not what was promised.
    """

    batch_size: int
    tokens: int
    weight: float
    table: CostTable
    tail: Tail | None = None
    macs: Costs | None = None

    @property
    def name(self) -> str:
        """`b8-n65`: 8 rows of 65 tokens."""
        return f"b{self.batch_size}-n{self.tokens}"

    @property
    def costs(self) -> Costs:
        """What forwards take, at the percentile that counts.

        By a table that breaks its promise nothing is ranked: then it is the unpruned model's latency in each precision
        times the share of multiply-adds, which are known exactly.
        """
        median: Costs = self.table
        if self.macs is not None:
            median = ByMacs(self.macs, self._unpruned_ms / self.macs.predict(Schedule()), table=self.table)
        return median if self.tail is None else Scaled(median, self.tail.factor)

    @property
    def _unpruned_ms(self) -> float:
        """Of the whole model, as it was timed."""
        checked = self.table.validation
        return checked.measured_ms[0] if checked is not None and checked.measured_ms else self.table.predict(Schedule())


def together(values: Sequence[float], unpruned: Sequence[float], weights: Sequence[float], across: str) -> float:
    """What a cost under every load comes to, in the unit of the first: of shares of `unpruned`, by a row of `ACROSS`.

    One load's is its own.
    """
    if len(values) == 1:
        return values[0]
    shares = [mine / whole for mine, whole in zip(values, unpruned, strict=True)]
    return unpruned[0] * float(ACROSS[across](shares, weights))


def weighted_mean(shares: Sequence[float], weights: Sequence[float]) -> float:
    """The mean of the loads' shares of the unpruned latency."""
    return sum(w * share for w, share in zip(weights, shares, strict=True)) / sum(weights)


def worst(shares: Sequence[float], weights: Sequence[float]) -> float:
    """The greatest of the loads' shares."""
    return max(shares)


class Across(OfOneModel):
    """One latency for several loads: the mean or the worst of their shares of the unpruned latency.

    It is given in ms of the first load: the share times what the unpruned model takes there. What is no mean does not
    add up over blocks; its pieces are those of the mean, which is never more, so that what is solved for the mean and
    priced by `price` misses nothing below a limit.

    Args:
        loads: the first is the one with the most tokens; counts of tokens are its own.
        across: a name in `ACROSS`.
    """

    def __init__(self, loads: Sequence[LoadCosts], across: str = "mean") -> None:
        self.across = across
        self._parts = [load.costs for load in loads]
        self._tokens = [load.tokens for load in loads]
        self._unpruned = [part.predict(Schedule()) for part in self._parts]
        total = sum(load.weight for load in loads)
        self._weights = [load.weight / total for load in loads]

    @property
    def geometry(self) -> Geometry:
        """Of the model under the first load."""
        return self._parts[0].geometry

    def under(self, changes: tuple[Change, ...]) -> Across:
        """Those of the model with these changes, in shares of the model as it is."""
        if not changes:
            return self
        found = copy.copy(self)
        found._parts = [part.under(changes) for part in self._parts]
        return found

    def combine(self, ms: Sequence[float], unpruned_ms: Sequence[float]) -> float:
        """The one latency for those of every load, given those of the unpruned model."""
        return together(ms, unpruned_ms, self._weights, self.across)

    def price(self, flow: Flow) -> float:
        """A whole forward, at the lengths of all loads."""
        return self.combine([part.price(flow.on(part.geometry)) for part in self._parts], self._unpruned)

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """The attention half of block `layer` at `n` tokens; `sized` with `+ log(size)` on the keys."""
        return self._mean(lambda k, part: part.attention(self._at(k, n), sized, layer))

    def mlp(self, n: int, layer: int) -> float:
        """The MLP half of block `layer` at `n` tokens."""
        return self._mean(lambda k, part: part.mlp(self._at(k, n), layer))

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """One stage."""
        return self._mean(lambda k, part: part.reduce(scorer, merge, self._at(k, n_in), self._at(k, n_out)))

    @property
    def in_tower(self) -> Summed | None:
        """Of a tower, whose pictures have as many tokens under every load."""
        towers = [part.in_tower for part in self._parts]
        shares = [self._unpruned[0] * w / whole for w, whole in zip(self._weights, self._unpruned, strict=True)]
        known = tuple(Scaled(one, share) for one, share in zip(towers, shares, strict=True) if one is not None)
        return Summed(known) if len(known) == len(towers) else None

    @property
    def stem(self) -> float:
        """Everything before the first block, and the head."""
        return self._mean(lambda k, part: part.stem)

    def head(self, n: int) -> float:
        """What `n` tokens at the end cost more or less than the whole sequence."""
        return self._mean(lambda k, part: part.head(self._at(k, n)))

    def _mean(self, piece: Callable[[int, Costs], float]) -> float:
        parts = zip(self._weights, self._parts, self._unpruned, strict=True)
        return self._unpruned[0] * sum(w * piece(k, part) / whole for k, (w, part, whole) in enumerate(parts))

    def _at(self, k: int, n: int) -> int:
        """The count of load `k` for the keep that leaves `n` tokens of the first load."""
        if n == self._tokens[0]:
            return self._tokens[k]
        protected = self.geometry.protected
        keep = (n - protected) / (self._tokens[0] - protected)
        return protected + kept_count(keep, self._tokens[k] - protected)
