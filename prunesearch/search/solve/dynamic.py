"""Score and solve: a whole front of schedules from one-stage losses and the cost table, by dynamic programming.

Blocks are passed in order; a state is (keep level, are sizes in play, stages used, cost bucket), its value the least
additive loss that reaches it. Exact for the additive model up to the width of a bucket.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import parse_method
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.cost.costs import Costs
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.seed import Seed, spread
from prunesearch.search.space.space import Space

_BUCKETS = 500
State = tuple[int, bool]  # keep level, are token sizes in play


class _Move(NamedTuple):
    """A step through one block: where it came from, by which method (-1: none), how many buckets it costs."""

    before: State
    method: int
    shift: int


class Solver:
    """Solves for fronts of one space and cost; the costs of all steps are looked up once, block by block.

    Args:
        space: free stages.
        costs: of one objective.
        limit: no seed costs more than this.
    """

    def __init__(self, space: Space, costs: Costs, limit: float) -> None:
        self.space, self.costs, self.limit = space, costs, limit
        counts, parts = space.counts, [parse_method(m) for m in space.methods]
        self.makes_sizes = np.array([MERGES.entry(merge).makes_sizes for _, merge in parts])
        top = min(limit, costs.price(Schedule().flow(costs.geometry))) - costs.stem
        # every block's cost is rounded to a bucket: room for that, or what fits exactly would fall off the end
        self.width = max(top, 1e-9) / (_BUCKETS - 1 - 2 * space.depth)
        self._halves: dict[tuple[int, int, bool], float] = {}
        self._mlps: dict[tuple[int, int], float] = {}
        self.reduce = np.zeros((len(counts), len(counts), len(parts)))
        for before in range(len(counts)):
            for after in range(before + 1, len(counts)):
                self.reduce[before, after] = [costs.reduce(*part, counts[before], counts[after]) for part in parts]

    def attention(self, layer: int, level: int, sized: bool) -> float:
        """The attention half of a block at a keep level."""
        key = (layer, level, sized)
        if key not in self._halves:
            self._halves[key] = self.costs.attention(self.space.counts[level], sized, layer)
        return self._halves[key]

    def mlp(self, layer: int, level: int) -> float:
        """The MLP half of a block at a keep level."""
        key = (layer, level)
        if key not in self._mlps:
            self._mlps[key] = self.costs.mlp(self.space.counts[level], layer)
        return self._mlps[key]

    def solve(self, sensitivities: Sensitivities, points: int) -> list[Seed]:
        """Up to `points` seeds spread evenly over the front's costs, dearest first."""
        seeds = [s for s in _Pass(self, sensitivities).front() if s.cost <= self.limit]
        if not seeds:
            return []
        keep = non_dominated([(s.cost, s.loss) for s in seeds])
        front = sorted((s for s, k in zip(seeds, keep, strict=True) if k), key=lambda s: -s.cost)
        return spread(front, points, lambda s: s.cost)

    def useful(self, before: int, after: int, added: NDArray[np.float64], biased: bool) -> list[int]:
        """Of all methods between two levels, those that none beats in cost and added loss `[methods]`.

        Where sizes are not in play yet, the methods that bring them in are compared among themselves.
        """
        groups = [np.arange(len(added))] if biased else [np.flatnonzero(self.makes_sizes == s) for s in (False, True)]
        found: list[int] = []
        for group in groups:
            cheapest_first = group[np.lexsort((added[group], self.reduce[before, after, group]))]
            losses = added[cheapest_first]
            best_so_far = np.minimum.accumulate(np.concatenate([[np.inf], losses[:-1]]))
            found += cheapest_first[losses < best_so_far].tolist()
        return found


class _Pass:
    """One run of the dynamic programme, with what tracing back needs."""

    def __init__(self, solver: Solver, sensitivities: Sensitivities) -> None:
        self.solver, self.space, self.sensitivities = solver, solver.space, sensitivities
        self.width = self.space.max_stages + 1  # of the axis `stages used`
        start = np.full((self.width, _BUCKETS), np.inf)
        start[0, 0] = 0.0
        self.values: dict[State, NDArray[np.float64]] = {(0, False): start}
        self.moves: list[list[_Move]] = []
        # per block and state: `[stages used, bucket]` -> index into `moves`, the step that reached it
        self.steps: list[dict[State, NDArray[np.int32]]] = []
        for layer in range(self.space.depth):
            self._advance(layer)

    def _advance(self, layer: int) -> None:
        """Pass one block: relax every state by going on unreduced or by each stage that fits."""
        before, self.values = self.values, {}
        self.moves.append([])
        self.steps.append({})
        site = self.space.layers.index(layer) if layer in self.space.layers else None
        for state, losses in before.items():
            level, biased = state
            attention = self.solver.attention(layer, level, biased)
            self._relax(_Move(state, -1, self._shift(attention + self.solver.mlp(layer, level))), state, losses)
            if site is None:
                continue
            for after in range(level + 1, len(self.space.counts)):
                added = self.sensitivities.added(site, level, after)
                for m in self.solver.useful(level, after, added, biased):
                    cost = attention + self.solver.reduce[level, after, m] + self.solver.mlp(layer, after)
                    reached = (after, biased or bool(self.solver.makes_sizes[m]))
                    self._relax(_Move(state, m, self._shift(cost)), reached, losses[:-1] + added[m])

    def _shift(self, cost: float) -> int:
        return round(cost / self.solver.width)

    def _relax(self, move: _Move, after: State, losses: NDArray[np.float64]) -> None:
        """Offer `losses` (`[stages used before, bucket]`; a stage uses one more) to the state `after`."""
        if move.shift >= _BUCKETS:
            return
        if after not in self.values:
            self.values[after] = np.full((self.width, _BUCKETS), np.inf)
            self.steps[-1][after] = np.full((self.width, _BUCKETS), -1, dtype=np.int32)
        rows = slice(0 if move.method < 0 else 1, None)
        values = self.values[after][rows, move.shift :]
        steps = self.steps[-1][after][rows, move.shift :]
        offered = losses[:, : _BUCKETS - move.shift]
        better = offered < values
        np.copyto(values, offered, where=better)  # twice as fast as an index of booleans
        np.copyto(steps, len(self.moves[-1]), where=better)
        self.moves[-1].append(move)

    def front(self) -> list[Seed]:
        """The best schedule of every bucket."""
        states = list(self.values)
        if not states:  # the limit is below a single pass
            return []
        stacked = np.stack([self.values[s] for s in states])
        seeds: dict[Schedule, Seed] = {}
        for bucket in range(_BUCKETS):
            best, used = np.unravel_index(int(stacked[:, :, bucket].argmin()), stacked.shape[:2])
            loss = float(stacked[best, used, bucket])
            if np.isfinite(loss):
                schedule = self._trace_back(states[best], int(used), bucket)
                seeds.setdefault(
                    schedule,
                    Seed(Plan(schedule), loss, self.solver.costs.price(schedule.flow(self.solver.costs.geometry))),
                )
        return list(seeds.values())

    def _trace_back(self, state: State, used: int, bucket: int) -> Schedule:
        stages = []
        for layer in reversed(range(self.space.depth)):
            move = self.moves[layer][int(self.steps[layer][state][used, bucket])]
            if move.method >= 0:
                stages.append(self.space.stage(layer, state[0], self.space.methods[move.method]))
                used -= 1
            state, bucket = move.before, bucket - move.shift
        return Schedule(reversed(stages))
