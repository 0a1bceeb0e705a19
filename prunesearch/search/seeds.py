"""Score and solve: a whole front of schedules from sensitivities and the cost table, by dynamic programming.

Blocks are passed in order; a state is (keep level, are sizes in play, stages used, latency bucket), its value the least
additive loss that reaches it. Exact for the additive model up to the width of a bucket.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.pareto import non_dominated
from prunesearch.core.registry import MERGES
from prunesearch.core.schedule import Schedule, parse_method
from prunesearch.search.sensitivity import Sensitivities
from prunesearch.search.space import Space

_BUCKETS = 500
T = TypeVar("T")


class Costs(Protocol):
    """What the solver asks of a table, all in the objective's unit (ms a batch, or mJ an input)."""

    def predict(self, schedule: Schedule) -> float:
        """A whole schedule."""

    def attention(self, n: int, biased: bool) -> float:
        """One block's attention half at `n` tokens; `biased` with `+ log(size)` on the keys."""

    def mlp(self, n: int) -> float:
        """One block's MLP half at `n` tokens."""

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """One stage."""

    @property
    def stem(self) -> float:
        """Everything before the first block, and the head."""

    def head(self, n: int) -> float:
        """What `n` tokens at the end cost more or less than the whole sequence."""


@dataclass(frozen=True)
class Seed:
    """A schedule proposed by the solver, with the additive loss (nats) and the cost (ms or mJ) predicted for it."""

    schedule: Schedule
    loss: float
    cost: float


State = tuple[int, bool, int]  # level, biased, stages used


def solve(space: Space, sensitivities: Sensitivities, costs: Costs, limit: float, points: int) -> list[Seed]:
    """Return up to `points` seeds spread evenly over the costs of the additive front, dearest first.

    Args:
        limit: no seed costs more than this.
    """
    solver = _Solver(space, sensitivities, costs, limit)
    found = {seed.schedule: seed for seed in solver.front()}
    seeds = [s for s in found.values() if s.cost <= limit]
    if not seeds:
        return []
    keep = non_dominated([(s.cost, s.loss) for s in seeds])
    front = sorted((s for s, k in zip(seeds, keep, strict=True) if k), key=lambda s: -s.cost)
    return spread(front, points, lambda s: s.cost)


def spread(items: list[T], points: int, value: Callable[[T], float]) -> list[T]:
    """Choose up to `points` items whose values lie most evenly between the extremes; keeps the order."""
    if len(items) <= points:
        return items
    values = np.array([value(item) for item in items])
    chosen: list[int] = []
    for target in np.linspace(values[0], values[-1], points):
        free = [i for i in range(len(items)) if i not in chosen]
        chosen.append(min(free, key=lambda i: abs(values[i] - target)))
    return [items[i] for i in sorted(chosen)]


class _Solver:
    def __init__(self, space: Space, sensitivities: Sensitivities, costs: Costs, limit: float) -> None:
        self.space, self.sens, self.costs = space, sensitivities, costs
        self.fixed = costs.stem
        top = min(limit, costs.predict(Schedule())) - self.fixed
        # every block's cost is rounded to a bucket: room for that, or what fits exactly would fall off the end
        self.width = max(top, 1e-9) / (_BUCKETS - 1 - 2 * space.depth)
        self.parts = [parse_method(m) for m in space.methods]
        self.makes_sizes = [MERGES.entry(merge).makes_sizes for _, merge in self.parts]
        start = np.full(_BUCKETS, np.inf)
        start[0] = 0.0
        self.layers: list[dict[State, NDArray[np.float64]]] = [{(0, False, 0): start}]
        # per layer and state: [bucket] -> index into `moves`, the step that reached it
        self.steps: list[dict[State, NDArray[np.int32]]] = []
        self.moves: list[list[tuple[State, int, int]]] = []  # per layer: (state before, method or -1, shift)
        for layer in range(space.depth):
            self._advance(layer)

    def _shift(self, ms: float) -> int:
        return round(ms / self.width)

    def _advance(self, layer: int) -> None:
        """Pass one block: relax every state by going on unreduced or by each stage that fits."""
        values: dict[State, NDArray[np.float64]] = {}
        steps: dict[State, NDArray[np.int32]] = {}
        moves: list[tuple[State, int, int]] = []
        for before, losses in self.layers[-1].items():
            for after, method, ms, added in self._choices(layer, before):
                shift = self._shift(ms)
                if shift >= _BUCKETS:
                    continue
                moves.append((before, method, shift))
                reached = np.full(_BUCKETS, np.inf)
                reached[shift:] = losses[: _BUCKETS - shift] + added
                if after not in values:
                    values[after] = np.full(_BUCKETS, np.inf)
                    steps[after] = np.full(_BUCKETS, -1, dtype=np.int32)
                better = reached < values[after]
                values[after][better] = reached[better]
                steps[after][better] = len(moves) - 1
        self.layers.append(values)
        self.steps.append(steps)
        self.moves.append(moves)

    def _choices(self, layer: int, before: State) -> list[tuple[State, int, float, float]]:
        """`(state after, method or -1, milliseconds, added loss)` of everything that may happen in a block."""
        level, biased, used = before
        counts, costs = self.space.counts, self.costs
        attention = costs.attention(counts[level], biased)
        out = [(before, -1, attention + costs.mlp(counts[level]), 0.0)]
        if layer not in self.space.layers or used == self.space.max_stages:
            return out
        i = self.space.layers.index(layer)
        for g in range(level + 1, len(counts)):
            mlp = costs.mlp(counts[g])
            for m, (scorer, merge) in enumerate(self.parts):
                added = max(0.0, float(self.sens.loss[i, g, m] - self.sens.loss[i, level, m]))
                ms = attention + costs.reduce(scorer, merge, counts[level], counts[g]) + mlp
                out.append(((g, biased or self.makes_sizes[m], used + 1), m, ms, added))
        return out

    def front(self) -> list[Seed]:
        """The best schedule of every bucket."""
        seeds = []
        final = self.layers[-1]
        states = list(final)
        if not states:  # the limit is below a single pass
            return []
        stacked = np.stack([final[s] for s in states])
        for bucket in range(_BUCKETS):
            best = int(stacked[:, bucket].argmin())
            loss = float(stacked[best, bucket])
            if np.isfinite(loss):
                schedule = self._trace_back(states[best], bucket)
                seeds.append(Seed(schedule, loss, self.costs.predict(schedule)))
        return seeds

    def _trace_back(self, state: State, bucket: int) -> Schedule:
        stages = []
        for layer in reversed(range(self.space.depth)):
            before, method, shift = self.moves[layer][int(self.steps[layer][state][bucket])]
            if method >= 0:
                stages.append(self.space.stage(layer, state[0], self.space.methods[method]))
            state, bucket = before, bucket - shift
        return Schedule(reversed(stages))
