"""Score and solve: a whole front of schedules from one-stage losses and the cost table, by dynamic programming.

Blocks are passed in order; a state is (keep level, are sizes in play, stages used, cost bucket), its value the least
additive loss that reaches it. Exact for the additive model up to the width of a bucket. A block with options for its
halves is passed in three steps, attention, stage and MLP, each with its own costs and losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.amount import kept_count
from prunesearch.core.plans.plan import HALVES, Change, Options, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import BEFORE, IN_TOWER, parse_method
from prunesearch.core.tables.registry import CHANGES
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.cost.costs import Costs
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.seed import Seed, spread
from prunesearch.search.space.space import Space

_BUCKETS = 500
_FINE = 1000  # buckets where blocks are passed in three steps, each of which is rounded
State = tuple[int, bool, bool]  # keep level, are token sizes in play, is the block's attention left out


class _Move(NamedTuple):
    """A step through a block: where it came from, by which method (-1: none), how many buckets it costs, and what was
    done to half the block."""

    before: State
    method: int
    shift: int
    change: Change | None = None


class Solver:
    """Solves for fronts of one space and cost; the costs of all steps are looked up once, block by block.

    Args:
        space: free stages.
        costs: of one objective.
        limit: no seed costs more than this.
        options: what may be done to halves of blocks.
        whole: what is done to all of the model in `costs`.
        unchanged: the costs without that, which those of forms are asked of.
    """

    def __init__(
        self,
        space: Space,
        costs: Costs,
        limit: float,
        options: Options | None = None,
        whole: tuple[Change, ...] = (),
        unchanged: Costs | None = None,
    ) -> None:
        self.space, self.costs, self.limit = space, costs, limit
        self.options, self.whole, self.unchanged = options or {}, whole, unchanged or costs
        self.buckets = _FINE if self.options else _BUCKETS
        counts, parts = space.counts, [parse_method(m) for m in space.methods]
        self.makes_sizes = np.array([MERGES.entry(merge).makes_sizes for _, merge in parts])
        top = min(limit, costs.price(Schedule().flow(costs.geometry))) - costs.stem
        # every block's cost is rounded to a bucket: room for that, or what fits exactly would fall off the end
        rounded = (6 if self.options else 2) * space.depth + (BEFORE in space.layers)
        rounded += 0 if space.tower is None else 2 * space.tower.depth + 1
        self.width = max(top, 1e-9) / (self.buckets - 1 - rounded)
        self._halves: dict[tuple[int, int, bool], float] = {}
        self._mlps: dict[tuple[int, int], float] = {}
        self.reduce = _reduces(costs, counts, parts, [method in space.in_blocks for method in space.methods])
        # of a tower whose pieces are known: its costs, its tokens at each keep level, its stages
        self.in_tower = None if space.tower is None else costs.in_tower
        self.tower_counts: list[int] = []
        if space.tower is not None:
            never = space.tower.protected
            self.tower_counts = [never + kept_count(keep, space.tower.tokens - never) for keep in space.keeps]
        own = [method in space.in_tower for method in space.methods]
        self.tower_reduce = _reduces(self.in_tower, self.tower_counts or counts, parts, own)

    def attention(self, layer: int, level: int, sized: bool) -> float:
        """The attention half of a block at a keep level."""
        key = (layer, level, sized)
        if key not in self._halves:
            costs, number, n = self._at(layer, level)
            self._halves[key] = 0.0 if costs is None else costs.attention(n, sized, number)
        return self._halves[key]

    def mlp(self, layer: int, level: int) -> float:
        """The MLP half of a block at a keep level."""
        key = (layer, level)
        if key not in self._mlps:
            costs, number, n = self._at(layer, level)
            self._mlps[key] = 0.0 if costs is None else costs.mlp(n, number)
        return self._mlps[key]

    def _at(self, layer: int, level: int) -> tuple[Costs | None, int, int]:
        """What prices a block, by which number, and its tokens at a keep level; nothing does of a fixed tower."""
        if layer < BEFORE:
            return self.in_tower, layer - IN_TOWER, self.tower_counts[level]
        return self.costs, layer, self.space.counts[level]

    def stages(self, layer: int) -> NDArray[np.float64]:
        """What stages at a site cost, `[level before, level after, method]`; endless where a method cannot be."""
        return self.tower_reduce if layer < BEFORE else self.reduce

    @cached_property
    def changed(self) -> dict[tuple[int, str], list[tuple[Change | None, Costs]]]:
        """What may be done to each half of a block, nothing first, with the costs of the model where it is."""
        return {
            key: [(None, self.costs), *((c, self.unchanged.under((*self.whole, c))) for c in known)]
            for key, known in self.options.items()
        }

    def halves_of(self, layer: int, half: str) -> list[tuple[Change | None, Costs]]:
        """Of one half."""
        return self.changed.get((layer, half), [(None, self.costs)])

    def solve(self, sensitivities: Sensitivities, points: int) -> list[Seed]:
        """Up to `points` seeds spread evenly over the front's costs, dearest first."""
        seeds = [s for s in _Pass(self, sensitivities).front() if s.cost <= self.limit]
        if not seeds:
            return []
        keep = non_dominated([(s.cost, s.loss) for s in seeds])
        front = sorted((s for s, k in zip(seeds, keep, strict=True) if k), key=lambda s: -s.cost)
        return spread(front, points, lambda s: s.cost)

    def useful(self, layer: int, before: int, after: int, added: NDArray[np.float64], biased: bool) -> list[int]:
        """Of all methods between two levels at a site, those that none beats in cost and added loss `[methods]`.

        Where sizes are not in play yet, the methods that bring them in are compared among themselves.
        """
        groups = [np.arange(len(added))] if biased else [np.flatnonzero(self.makes_sizes == s) for s in (False, True)]
        found: list[int] = []
        for group in groups:
            cheapest_first = group[np.lexsort((added[group], self.stages(layer)[before, after, group]))]
            losses = added[cheapest_first]
            best_so_far = np.minimum.accumulate(np.concatenate([[np.inf], losses[:-1]]))
            found += cheapest_first[losses < best_so_far].tolist()
        return found


def _reduces(
    costs: Costs | None, counts: Sequence[int], parts: Sequence[tuple[str, str]], known: Sequence[bool]
) -> NDArray[np.float64]:
    """Costs of stages between all levels, by the methods that are `known` there; endless of the others."""
    found = np.zeros((len(counts), len(counts), len(parts)))
    found[..., ~np.array(known, dtype=bool)] = np.inf
    for before in range(len(counts) if costs is not None else 0):
        for after in range(before + 1, len(counts)):
            for place, (part, here) in enumerate(zip(parts, known, strict=True)):
                if here and costs is not None:
                    found[before, after, place] = costs.reduce(*part, counts[before], counts[after])
    return found


class _Pass:
    """One run of the dynamic programme, with what tracing back needs."""

    def __init__(self, solver: Solver, sensitivities: Sensitivities) -> None:
        self.solver, self.space, self.sensitivities = solver, solver.space, sensitivities
        self.width = self.space.max_stages + 1  # of the axis `stages used`
        self.buckets = solver.buckets
        start = np.full((self.width, self.buckets), np.inf)
        start[0, 0] = 0.0
        self.values: dict[State, NDArray[np.float64]] = {(0, False, False): start}
        self.moves: list[list[_Move]] = []
        # per step and state: `[stages used, bucket]` -> index into `moves`, the step that reached it
        self.steps: list[dict[State, NDArray[np.int32]]] = []
        self.layers: list[int] = []  # the site of each step
        for block in range(0 if self.space.tower is None else self.space.tower.depth):
            where = IN_TOWER + block
            self._advance(where, self.space.layers.index(where) if where in self.space.layers else None)
        if self.space.tower is not None:
            self._leave_tower()
        if BEFORE in self.space.layers:
            self._reduce(BEFORE, self.space.layers.index(BEFORE))
        for layer in range(self.space.depth):
            site = self.space.layers.index(layer) if layer in self.space.layers else None
            if any((layer, half) in solver.options for half in HALVES):
                self._attend(layer)
                self._reduce(layer, site)
                self._feed(layer)
            else:
                self._advance(layer, site)

    def _begin(self, layer: int) -> dict[State, NDArray[np.float64]]:
        """A step begins; returns what the one before reached."""
        before, self.values = self.values, {}
        self.moves.append([])
        self.steps.append({})
        self.layers.append(layer)
        return before

    def _leave_tower(self) -> None:
        """What follows the tower; the decoder is told nothing of sizes."""
        tower, counts = self.solver.in_tower, self.solver.tower_counts
        for state, losses in self._begin(BEFORE).items():
            cost = 0.0 if tower is None else tower.head(counts[state[0]])
            self._relax(_Move(state, -1, self._shift(cost)), (state[0], False, False), losses)

    def _attend(self, layer: int) -> None:
        """The attention of a block, in each of its forms that none beats."""
        for state, losses in self._begin(layer).items():
            level, biased, _ = state
            n = self.space.counts[level]
            prices = [costs.attention(n, biased, layer) for _, costs in self.solver.halves_of(layer, HALVES[0])]
            for change, cost, added in self._worthwhile(layer, HALVES[0], prices):
                bare = change is not None and CHANGES.entry(change.kind).removes
                self._relax(_Move(state, -1, self._shift(cost), change), (level, biased, bare), losses + added)

    def _reduce(self, layer: int, site: int | None) -> None:
        """Its stage, or none; one whose attention is left out has none."""
        for state, losses in self._begin(layer).items():
            level, biased, bare = state
            self._relax(_Move(state, -1, 0), (level, biased, False), losses)
            for after in range(level + 1, len(self.space.counts)) if site is not None and not bare else ():
                added = self.sensitivities.added(site or 0, level, after)
                for m in self.solver.useful(layer, level, after, self._possible(site or 0, added), biased):
                    reached = (after, biased or bool(self.solver.makes_sizes[m]), False)
                    shift = self._shift(self.solver.reduce[level, after, m])
                    self._relax(_Move(state, m, shift), reached, losses[:-1] + added[m])

    def _possible(self, site: int, added: NDArray[np.float64]) -> NDArray[np.float64]:
        """Losses `[methods]` at a site, endless of those that cannot be there."""
        takes = [self.space.takes(site, method) for method in range(len(added))]
        return added if all(takes) else np.where(takes, added, np.inf)

    def _feed(self, layer: int) -> None:
        """Its MLP, in each of its forms that none beats."""
        for state, losses in self._begin(layer).items():
            n = self.space.counts[state[0]]
            prices = [costs.mlp(n, layer) for _, costs in self.solver.halves_of(layer, HALVES[1])]
            for change, cost, added in self._worthwhile(layer, HALVES[1], prices):
                self._relax(_Move(state, -1, self._shift(cost), change), state, losses + added)

    def _worthwhile(self, layer: int, half: str, prices: Sequence[float]) -> list[tuple[Change | None, float, float]]:
        """The forms of half a block that lose less than every cheaper one: change, cost, added loss.

        Args:
            prices: of every form.
        """
        halves = self.sensitivities.halves
        every = [
            (change, price, 0.0 if change is None else halves.get(str(change), math.inf))
            for (change, _), price in zip(self.solver.halves_of(layer, half), prices, strict=True)
        ]
        found, least = [], math.inf
        for one in sorted(every, key=lambda one: (one[1], one[2])):
            if one[2] < least:
                found.append(one)
                least = one[2]
        return found

    def _advance(self, layer: int, site: int | None) -> None:
        """Pass one block: relax every state by going on unreduced or by each stage that fits."""
        for state, losses in self._begin(layer).items():
            level, biased, _ = state
            attention = self.solver.attention(layer, level, biased)
            self._relax(_Move(state, -1, self._shift(attention + self.solver.mlp(layer, level))), state, losses)
            if site is None:
                continue
            for after in range(level + 1, len(self.space.counts)):
                added = self._possible(site, self.sensitivities.added(site, level, after))
                for m in self.solver.useful(layer, level, after, added, biased):
                    cost = attention + self.solver.stages(layer)[level, after, m] + self.solver.mlp(layer, after)
                    reached = (after, biased or bool(self.solver.makes_sizes[m]), False)
                    self._relax(_Move(state, m, self._shift(cost)), reached, losses[:-1] + added[m])

    def _shift(self, cost: float) -> int:
        return round(cost / self.solver.width)

    def _relax(self, move: _Move, after: State, losses: NDArray[np.float64]) -> None:
        """Offer `losses` (`[stages used before, bucket]`; a stage uses one more) to the state `after`."""
        if move.shift >= self.buckets:
            return
        if after not in self.values:
            self.values[after] = np.full((self.width, self.buckets), np.inf)
            self.steps[-1][after] = np.full((self.width, self.buckets), -1, dtype=np.int32)
        rows = slice(0 if move.method < 0 else 1, None)
        values = self.values[after][rows, move.shift :]
        steps = self.steps[-1][after][rows, move.shift :]
        offered = losses[:, : self.buckets - move.shift]
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
        seeds: dict[Plan, Seed] = {}
        for bucket in range(self.buckets):
            best, used = np.unravel_index(int(stacked[:, :, bucket].argmin()), stacked.shape[:2])
            loss = float(stacked[best, used, bucket])
            if np.isfinite(loss):
                plan = self._trace_back(states[best], int(used), bucket)
                if plan not in seeds:
                    seeds[plan] = Seed(plan, loss, self._price(plan))
        return list(seeds.values())

    def _price(self, plan: Plan) -> float:
        costs, changes = self.solver.costs, plan.changes
        return (self.solver.unchanged.under((*self.solver.whole, *changes)) if changes else costs).price(
            plan.flow(costs.geometry)
        )

    def _trace_back(self, state: State, used: int, bucket: int) -> Plan:
        stages, changes = [], dict[tuple[int, str], Change]()
        for step in reversed(range(len(self.moves))):
            move, layer = self.moves[step][int(self.steps[step][state][used, bucket])], self.layers[step]
            if move.method >= 0:
                stages.append(self.space.stage(layer, state[0], self.space.methods[move.method]))
                used -= 1
            if move.change is not None:
                changes[layer, move.change.half] = move.change
            state, bucket = move.before, bucket - move.shift
        return Plan(Schedule(reversed(stages)), [changes[key] for key in self.solver.options if key in changes])
