"""Timing the pieces of a model where they are at work: inside real forwards of random schedules.

A piece timed alone, over and over, finds its inputs, its weights and its code in other caches than in a forward, and
the wrapping Python is left out. So nothing is timed alone here. Every *walk* is one whole forward of a random schedule
with a mark at each border between pieces; the pieces of one walk add up to its time exactly. Random schedules put all
pieces in random order, spread them over all blocks, and let each weight get as cold as it gets in use.
"""

from __future__ import annotations

import gc
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from prunesearch.core.events import passing
from prunesearch.core.plans.flow import Flow
from prunesearch.core.plans.plan import HALVES, Change, Options, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage, parse_method, read_method
from prunesearch.core.tables.registry import CHANGES
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.cost.devices.kind import Clock
from prunesearch.cost.shape import Shape
from prunesearch.cost.timing.loop import Sitting, undisturbed
from prunesearch.cost.timing.modes import Eager
from prunesearch.cost.timing.samples import Noise, Samples, judge_noise
from prunesearch.pruning.borders import watched

# ("stem",), ("head", n), ("attention", n, sized, variant), ("mlp", n, variant), ("reduce", scorer, merge, n_in, n_out);
# of a model with changes one more, `Within`
Piece = tuple[Any, ...]


class Within(str):
    """What is done to the model that a piece is of, beside its tokens: `Plan.variant`; of a tower behind `OF_TOWER`."""


OF_TOWER = "tower|"


def variant_of_piece(piece: Piece) -> str:
    """Empty for the model as it is."""
    return piece[-1] if isinstance(piece[-1], Within) else ""


def is_unchanged(piece: Piece) -> bool:
    """Whether it is of the model as it is, its tower's too."""
    return variant_of_piece(piece) in ("", OF_TOWER)


def plain_piece(piece: Piece) -> Piece:
    """The same of the model as it is."""
    return piece[:-1] if isinstance(piece[-1], Within) else piece


_UNPRUNED_EVERY = 25  # walks
_MOST_STAGES = 6  # a walk with more has too few blocks left for each width
_PATIENCE = 3.0  # times the budget, with a device that throttles
LONGEST = 4.0  # times the budget, for a table whose error is not yet what was promised
_FARTHEST = 20  # times the least number of walks, for a piece that no walk met
_AGAIN = 1.25  # times the time so far, until it is looked at again
_LOOKS = 20  # for whether there is enough, within the budget
_COLLECT_EVERY = 100  # walks between two garbage collections, which are off while timing
_WARM_AGAIN = 3  # walks that do not count where another process has begun


@dataclass
class Walks:
    """What the walks left: each walk's pieces in order with their ms, and the samples of every piece over all walks.

    `thrown_away` counts walks that the device spoiled by throttling.
    """

    steps: list[list[tuple[Piece, float]]] = field(default_factory=list)
    pieces: dict[Piece, Samples] = field(default_factory=lambda: defaultdict(Samples))
    noise: Noise | None = None
    seconds: float = 0.0
    thrown_away: int = 0

    def add(self, steps: list[tuple[Piece, float]]) -> None:
        """Note one walk."""
        self.steps.append(steps)
        for piece, took in steps:
            self.pieces[piece].ms.append(took)


class Walker:
    """Runs one plan at a time and takes its forward apart.

    Args:
        runner: of the model.
        shape: of the model.
        clock: of its device.
    """

    def __init__(self, runner: Eager, shape: Shape, clock: Clock) -> None:
        self.runner, self.handle, self.shape, self.clock = runner, runner.handle, shape, clock
        self._marks: list[Any] = []

    @contextmanager
    def marking(self) -> Iterator[None]:
        """Within the block, the model's blocks leave marks."""
        marks, mark = self._marks, self.clock.mark

        def note() -> None:
            marks.append(mark())

        with watched(self.handle, note, note):
            yield

    def walk(self, plan: Plan | Schedule) -> list[tuple[Piece, float]]:
        """Run one forward; returns its pieces in order, in ms. They add up to the whole forward."""
        self.runner.walk(plan, self._marks, self.clock.mark)
        steps, tower = self.clock.between_ms(self._marks), self.shape.tower
        folded = _fold(steps, self.shape.depth) if tower is None else _fold_both(steps, tower.depth, self.shape.depth)
        return self.named(plan, folded)

    def named(self, plan: Plan | Schedule, ms: Sequence[float]) -> list[tuple[Piece, float]]:
        """What the pieces of a plan's forward took, in order."""
        whole, flow, tower = Plan.of(plan), plan.flow(self.shape.geometry), self.shape.tower
        names = piece_names(flow, self.shape.under(whole.halves), whole.variant)
        if tower is not None and flow.in_tower is not None:
            names = [*piece_names(flow.in_tower, tower, OF_TOWER + whole.variant), *names]
        return list(zip(names, ms, strict=True))


def _fold(steps: Sequence[float], depth: int) -> list[float]:
    """Turn the times between marks into stem, then (attention, reduce, mlp) of each block, then head.

    What passes between two blocks (Python, the mask of the tokens left) belongs to the attention that follows.
    """
    # marks: start | attend in, attend out, feed in, feed out | … | end
    out = [steps[0]]
    for block in range(depth):
        between, attend, reduce, feed = steps[4 * block : 4 * block + 4]
        out += [attend if block == 0 else between + attend, reduce, feed]
    return [*out, steps[4 * depth]]


def _fold_both(steps: Sequence[float], in_front: int, depth: int) -> list[float]:
    """As `_fold`, of a tower of `in_front` blocks, and then of the decoder behind it.

    What is between them: projector and what puts features in their places, the tower's; the prompt with its pictures,
    the decoder's; and taking from it what left in the tower, the tower's again.
    """
    # marks: the tower's | features made, prompt made | the decoder's
    between = 4 * in_front
    front = _fold(steps[: between + 1], in_front)
    prompt, *behind = steps[between + 1], *_fold(steps[between + 2 :], depth)
    front[-1] += behind[0]
    return [*front, prompt, *behind[1:]]


def piece_names(flow: Flow, shape: Shape, changed: str = "") -> list[Piece]:
    """The pieces of a forward in order: stem, then attention, reduce, mlp of each block, then head.

    A block without a stage has the piece `("reduce",)`, which is next to nothing. `changed`: see `Within`.
    """
    names: list[Piece] = [("stem",)]
    for step, variant in zip(flow, shape.blocks, strict=True):
        names.append(("attention", step.n_in, step.sized, variant.attention))
        stage = step.stage
        names.append(("reduce",) if stage is None else ("reduce", stage.scoring, stage.merge, step.n_in, step.n_out))
        names.append(("mlp", step.n_out, variant.mlp))
    names.append(("head", flow.n_out))
    return [(*name, Within(changed)) for name in names] if changed else names


def plan_walks(
    depth: int, tokens: int, protected: int, counts: Sequence[int], methods: Sequence[str], seed: int
) -> Iterator[Schedule]:
    """Random schedules without end, over which all pieces are visited about equally often.

    One stage at the first block has all blocks at one width: with the least and the greatest width, sized and not, such
    schedules come first, so that few walks of a slow model already span the grid.

    Args:
        depth: blocks of the model.
        tokens: sequence length at the start.
        protected: of them, never reduced.
        counts: widths after a stage, each with `protected < n < tokens`.
        methods: as `parse_method` reads them.
        seed: same seed, same schedules.
    """
    rng = random.Random(seed)
    by_merge: dict[str, list[str]] = defaultdict(list)
    for method in methods:
        by_merge[parse_method(method)[1]].append(method)
    plain = [merge for merge in by_merge if not MERGES.entry(merge).makes_sizes]
    mixed = len(plain) < len(by_merge)
    kinds = [plain, [merge for merge in by_merge if merge not in plain]]
    ends = [(width, kind) for width in sorted({min(counts), max(counts)}) for kind in kinds if kind] if counts else []
    deck: list[int] = []

    def stage(layer: int, width: int, merges: Sequence[str]) -> Stage:
        merge = rng.choice(merges)
        return Stage(layer, (width - protected) / (tokens - protected), *read_method(rng.choice(by_merge[merge])))

    for number in itertools.count():
        if not ends or number % _UNPRUNED_EVERY == 0:
            yield Schedule()
            continue
        if number <= len(ends):
            yield Schedule([stage(0, *ends[number - 1])])
            continue
        # only schedules of plain merges have attention without sizes at a reduced width
        merges = plain if plain and mixed and rng.random() < 0.4 else list(by_merge)
        widths = set()
        for _ in range(rng.randint(1, min(depth, len(counts), _MOST_STAGES))):
            if not deck:
                deck = rng.sample(list(counts), len(counts))
            widths.add(deck.pop())
        layers = sorted(rng.sample(range(depth), len(widths)))
        if rng.random() < 0.5:  # the full width has samples enough from every other walk
            layers = [layer - layers[0] for layer in layers]
        wide_first = zip(layers, sorted(widths, reverse=True), strict=True)
        yield Schedule([stage(layer, width, merges) for layer, width in wide_first])


def in_turns(
    schedules: Callable[[int], Iterator[Schedule]],
    variants: Sequence[tuple[Change, ...]],
    seed: int,
    options: Options | None = None,
) -> Iterator[Plan]:
    """Schedules with changes of the model, each of the `variants` as often as any other, in random order.

    Args:
        schedules: makes an endless row of them from a seed; each variant has one of its own, which visits all pieces.
        options: of halves of blocks; some of them are in most plans.
    """
    rng = random.Random(seed)
    rows = [schedules(seed + place) for place in range(len(variants))]
    while True:
        for place in rng.sample(range(len(variants)), len(variants)):
            schedule = next(rows[place])
            yield Plan(schedule, (*variants[place], *some_halves(options or {}, schedule, rng)))


def some_halves(options: Options, schedule: Schedule, rng: random.Random) -> list[Change]:
    """Random changes of halves of blocks, of none of them to nearly all; a stage keeps the attention of its block."""
    found, share = [], rng.random() if options else 0.0
    staged = {stage.layer for stage in schedule}
    for (block, half), known in options.items():
        fit = [c for c in known if not (block in staged and half == HALVES[0] and CHANGES.entry(c.kind).removes)]
        if fit and rng.random() < share:
            found.append(rng.choice(fit))
    return found


def take_walks(
    walker: Walker,
    plan: Iterator[Plan | Schedule],
    *,
    time_budget_s: float,
    min_walks: int,
    enough: Callable[[Walks], bool],
    between: Callable[[int], None] | None = None,
    spoiled: Callable[[], bool] = lambda: False,
    alone: bool = True,
    label: str = "measuring cost table",
    go_on: Callable[[Walks], bool] = lambda walks: False,
    lacking: Callable[[Walks], bool] = lambda walks: False,
    sitting: Sitting | None = None,
) -> Walks:
    """Walk until the budget (seconds, warm-up included) is spent or `enough` says so; at least `min_walks` times.

    Whether there is enough is asked a score of times within the budget, since to ask takes a while.

    `between` is called with the number of each walk that counted, outside the marking. A walk after which `spoiled`
    says so does not count, unless three times the budget have gone by. If not meant to be `alone`, the share of others
    in the cores is no noise. When the budget is spent, `go_on` may ask for more, up to `LONGEST` budgets. It goes on
    in any case while something is `lacking`, up to `_FARTHEST` times as many walks. What another `sitting` has noted
    of the same plan counts, and is not walked again.
    """
    sitting = sitting or Sitting()
    walks, look_at, ask_at = Walks(), time_budget_s, 0.0
    rest = enumerate(plan)
    _walked_before(walks, walker, rest, sitting)
    number = len(walks.steps)
    warm_up = _WARM_AGAIN if sitting.again else max(_WARM_AGAIN, min_walks // 5)
    with undisturbed(), sitting, passing(label, time_budget_s) as tick:
        for place, schedule in rest:
            with walker.marking():
                steps = walker.walk(schedule)
            tick()
            if warm_up:
                warm_up -= 1
                continue
            if spoiled() and sitting.seconds < _PATIENCE * time_budget_s:
                walks.thrown_away += 1
                continue
            number += 1
            walks.add(steps)
            sitting.note("walk", place, [ms for _, ms in steps])
            if between is not None:
                between(number)
            if number % _COLLECT_EVERY == 0:
                gc.collect()
            if number < min_walks or (number < _FARTHEST * min_walks and lacking(walks)):
                continue
            spent = sitting.seconds
            if spent > time_budget_s:
                if spent < look_at:
                    continue
                if spent > LONGEST * time_budget_s or not go_on(walks):
                    break
                look_at = _AGAIN * spent
            elif spent >= ask_at:
                ask_at = spent + time_budget_s / _LOOKS
                if enough(walks) and not go_on(walks):
                    break
    # the first block's attention: the same work in every walk
    sentinel = [steps[1][1] for steps in walks.steps if is_unchanged(steps[1][0])]
    walks.noise, walks.seconds = judge_noise(sentinel, sitting.others if alone else None), sitting.seconds
    return walks


def _walked_before(walks: Walks, walker: Walker, plan: Iterator[tuple[int, Plan | Schedule]], sitting: Sitting) -> None:
    """Take what other sittings noted, and bring the plan to where they were in it."""
    taken = -1
    for wanted, ms in sitting.of("walk"):
        if wanted > taken:  # else of two processes at a time
            taken = wanted
            walks.add(walker.named(next(schedule for place, schedule in plan if place == wanted), ms))
