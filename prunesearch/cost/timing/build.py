"""Measure a model's cost table on the device that its weights lie on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import HALVES, Change, Options
from prunesearch.core.plans.stage import parse_method
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.cost.devices.device import clock_for, describe_device
from prunesearch.cost.devices.kind import Clock
from prunesearch.cost.shape import Shape, conditions_of, describe_shape, device_of
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.smooth import smooth, smooth_form
from prunesearch.cost.tables.table_records import AttentionCell, Cell, Cells, CountCell, NoiseRecord, ReduceCell
from prunesearch.cost.timing.loop import Sitting
from prunesearch.cost.timing.modes import runner_for
from prunesearch.cost.timing.prompt_walks import in_parts, plan_prompt_walks, tower_counts
from prunesearch.cost.timing.samples import Noise, Samples
from prunesearch.cost.timing.walk import (
    OF_TOWER,
    Piece,
    Walker,
    Walks,
    in_turns,
    plain_piece,
    take_walks,
    variant_of_piece,
)
from prunesearch.pruning.borders import borrowed

_OUTLIERS = 0.05  # of the walks, at either end, are left out of the means
_PASSES = 3
_REACHES = (4, 16)  # walks to either side that may tell the pace of the one in their middle
_MEDIAN_ERROR = 0.005  # a cell is known well enough when its median is
_STAGES_EACH = 100  # stages that every scorer and merge needs before walking may stop early
Forms = Mapping[tuple[str, str], str]  # see `forms_of`


def build_table(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    counts: Iterable[int],
    methods: Sequence[str],
    time_budget_s: float = 45.0,
    min_walks: int = 40,
    between: Callable[[int], None] | None = None,
    spoiled: Callable[[], bool] = lambda: False,
    seed: int = 0,
    clock: Clock | None = None,
    mode: str = "eager",
    concurrency: int = 1,
    label: str = "measuring cost table",
    taken: Callable[[Walks], None] = lambda walks: None,
    enough: Callable[[Walks], bool] | None = None,
    go_on: Callable[[Walks], bool] = lambda walks: False,
    variants: Sequence[tuple[Change, ...]] = ((),),
    sitting: Sitting | None = None,
    in_tower: Sequence[str] = (),
    options: Options | None = None,
) -> CostTable:
    """Measure what every piece of `model` costs on a batch, at every token count and with every method given.

    The model is timed as it is (dtype, device, attention), inside whole forwards of random schedules; it is left as it
    was, and may already carry a schedule.

    Args:
        model: a supported model, or a module around one.
        inputs: a batch without padding, on the model's device.
        counts: tokens after a stage that schedules may ask for, protected ones included; the widths between the least
            of them and the full sequence are interpolated.
        methods: `scorer+merge`, or a merge that needs no scorer.
        time_budget_s: wall time in seconds; stops earlier when there is `enough`.
        min_walks: forwards in any case.
        between: called after each timed forward with its number, for work that is to be interleaved.
        spoiled: says after each forward whether it must not count, as when the GPU throttles.
        seed: of the order of things.
        clock: None for the one that suits the device.
        mode: how forwards are executed, a name in `RUNTIMES`.
        concurrency: stated in the conditions; the caller sees to the load (`concurrency.background_load`).
        label: of the progress bar.
        taken: is given the walks when all are taken.
        enough: asked now and then; None: when every median is known to 0.5 %.
        go_on: asked when the time is up, and at times after that; at most `LONGEST` budgets.
        variants: changes that the model is measured with too, in turns; the first is none.
        sitting: what others have walked of the same table, and where walks are kept.
        options: of halves of its blocks, some in most forwards.
        in_tower: methods of stages in the tower before a decoder.

    Raises:
        PruneSearchError: for a count or a method that cannot be, or an unsupported device.
        UnsupportedModelError: if the model's family is unknown.
    """
    device = device_of(inputs)
    for method in methods:
        parse_method(method)
    with borrowed(model) as handle:
        shape = describe_shape(model, handle, inputs)
        grid = check_counts(counts, shape)
        plan = in_turns(lambda s: plan_prompt_walks(shape, grid, methods, in_tower, s), variants, seed, options)
        walker = Walker(runner_for(mode, model, handle, inputs), shape, clock or clock_for(device))
        walks = take_walks(
            walker,
            plan,
            time_budget_s=time_budget_s,
            min_walks=min_walks,
            enough=enough or _enough,
            between=between,
            spoiled=spoiled,
            alone=concurrency == 1,
            label=label,
            go_on=go_on,
            lacking=lambda walks: not spans(walks, shape, grid, methods, options, in_tower),
            sitting=sitting,
        )
        conditions = conditions_of(handle, inputs, shape.tokens, mode, concurrency)
    taken(walks)
    cells = all_cells(walks, typical_ms(walks), forms_of(shape, options or {}))
    return CostTable(
        status="measured",
        shape=shape,
        conditions=conditions,
        device=describe_device(device),
        **in_parts(cells),
        noise=noise_record(walks.noise).model_copy(update={"thrown_away": walks.thrown_away}),
        seconds=walks.seconds,
        walks=len(walks.steps),
    )


def noise_record(noise: Noise | None) -> NoiseRecord:
    """`Noise` as it is stored."""
    if noise is None:
        return NoiseRecord(spread=None, drift=None, others=None, noisy=True, why="not judged")
    return NoiseRecord(
        spread=_finite(noise.spread), drift=_finite(noise.drift), others=noise.others, noisy=noise.noisy, why=noise.why
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def check_counts(counts: Iterable[int], shape: Shape) -> list[int]:
    """The widths after a stage in order, without the full one; raises `PruneSearchError` for one that cannot be."""
    grid = sorted(set(counts) - {shape.tokens})
    for n in grid:
        if not shape.protected < n < shape.tokens:
            raise PruneSearchError(
                f"`{shape.protected} < tokens < {shape.tokens}` must hold for a width after a stage, but got {n}"
            )
    return grid


def spans(
    walks: Walks,
    shape: Shape,
    grid: Sequence[int],
    methods: Sequence[str],
    options: Options | None = None,
    in_tower: Sequence[str] = (),
) -> bool:
    """Whether every schedule within the grid can be priced: a table does not extrapolate.

    The least and the greatest width were met by every kind of attention and MLP that a stage can come before, and every
    scorer and merge was met. Those halves of blocks that plans make are to be met at all tokens too.
    """
    if not grid or not methods:
        return True
    wanted = {False: _wanted(shape, grid, methods, options or {})}
    if shape.tower is not None and in_tower:
        wanted[True] = _wanted(shape.tower, tower_counts(shape, grid), in_tower, {})
    met: dict[str, set[Piece]] = {}
    for piece in walks.pieces:
        plain = plain_piece(piece)
        mine = met.setdefault(variant_of_piece(piece), set())
        mine |= {("scorer", plain[1]), ("merge", plain[2])} if len(plain) == 5 else {plain}
    return bool(met) and all(mine >= wanted.get(name.startswith(OF_TOWER), set()) for name, mine in met.items())


def _wanted(shape: Shape, grid: Sequence[int], methods: Sequence[str], options: Options) -> set[Piece]:
    """The pieces that `spans` asks for."""
    pairs = [parse_method(method) for method in methods]
    sized = {MERGES.entry(merge).makes_sizes for _, merge in pairs}

    def at(n: int, half: str, name: str) -> list[Piece]:
        return [(half, n, s, name) for s in sized] if half == HALVES[0] else [(half, n, name)]

    ends, wanted = {grid[0], grid[-1]}, set[Piece]()
    for block, variant in enumerate(shape.blocks):
        for half in HALVES[0 if block else 1 :]:  # no stage comes before the first block's attention
            wanted |= {piece for n in ends for piece in at(n, half, getattr(variant, half))}
    for (block, half), known in options.items():
        for change in known:
            own = getattr(shape.under({(block, half): change}).blocks[block], half)
            wanted.add((half, shape.tokens, *((False, own) if half == HALVES[0] else (own,))))
            if block or half != HALVES[0]:
                wanted |= set(at(grid[0], half, own))
    names = {("merge", merge) for _, merge in pairs}
    names |= {("scorer", scorer) for scorer, merge in pairs if MERGES.entry(merge).uses_scores}
    return wanted | names


def _enough(walks: Walks) -> bool:
    """True when every attention and MLP cell is known well, and every scorer and merge has been seen often."""
    stages: dict[tuple[str, str], int] = {}
    for piece, samples in walks.pieces.items():
        if piece[0] in ("attention", "mlp", "stem") and samples.median_error() > _MEDIAN_ERROR:
            return False
        variant = variant_of_piece(piece)
        if len(plain_piece(piece)) == 5:
            for key in ((f"scorer{variant}", piece[1]), (f"merge{variant}", piece[2])):
                stages[key] = stages.get(key, 0) + len(samples)
    return all(seen >= _STAGES_EACH for seen in stages.values())


@dataclass(frozen=True)
class Typical:
    """What each piece contributes to the median forward, its standard error, and the machine's pace at each walk.

    Both are milliseconds; a pace of 1 is as usual.
    """

    ms: dict[Piece, float]
    error_ms: dict[Piece, float]
    pace: NDArray[np.float64]


def typical_ms(walks: Walks) -> Typical:
    """What each piece contributes to the MEDIAN forward.

    Medians of pieces do not add up to the median of the whole: a piece is disturbed rarely and then badly, a forward of
    dozens of pieces nearly always a little, so that the sum of medians comes out low (by 30 % under a background load,
    where means were off by 1 %). Means do add up, but one long hiccup spoils them. So: means over the forwards that are
    no outliers for their schedule, times the one factor that puts the median forward where it was. What a forward took
    is divided by the pace of those around it, since a machine's speed wanders by tenths within minutes.
    """
    guess = {piece: s.median_ms for piece, s in walks.pieces.items()}
    totals = np.array([sum(ms for _, ms in steps) for steps in walks.steps])
    pace, heap = np.ones(len(totals)), dict[Piece, list[float]]()
    for _ in range(_PASSES):
        ratio = totals / [sum(guess[piece] for piece, _ in steps) for steps in walks.steps]
        pace = pace_of(ratio)
        rest = ratio / pace
        low, high = np.quantile(rest, [_OUTLIERS, 1 - _OUTLIERS])
        heap = {}
        for steps, r, speed in zip(walks.steps, rest, pace, strict=True):
            if low <= r <= high:
                for piece, ms in steps:
                    heap.setdefault(piece, []).append(ms / speed)
        guess.update({piece: float(np.mean(ms)) for piece, ms in heap.items()})
    factor = float(np.median(totals / [sum(guess[piece] for piece, _ in steps) for steps in walks.steps]))
    error = _standard_errors(guess, {piece: heap.get(piece) or walks.pieces[piece].ms for piece in guess})
    return Typical({p: ms * factor for p, ms in guess.items()}, {p: ms * factor for p, ms in error.items()}, pace)


def _standard_errors(means: Mapping[Piece, float], heap: Mapping[Piece, Sequence[float]]) -> dict[Piece, float]:
    """Standard error of each mean; what a single timing is off by is taken from all others of its kind."""
    spread: dict[str, list[float]] = {}
    for piece, ms in heap.items():
        if len(ms) > 1 and means[piece] > 0:
            spread.setdefault(piece[0], []).append(float(np.std(ms, ddof=1)) / means[piece])
    usual = {kind: float(np.median(found)) for kind, found in spread.items()}
    return {piece: usual.get(piece[0], 0.0) * means[piece] / math.sqrt(len(ms)) for piece, ms in heap.items()}


def pace_of(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """The machine's pace at each walk, from how long each took for its schedule.

    The median of the walks around it, as many of them as best foretell the one in their middle: few where the machine's
    speed wanders, all where each walk is disturbed by itself, since a median of few would add its own noise.
    """
    tried = [_rolling_median(ratio, reach) for reach in _REACHES if 2 * reach < len(ratio)]
    tried.append((np.ones(len(ratio)), np.full(len(ratio), float(np.median(ratio)))))
    return min(tried, key=lambda one: float(np.mean(np.abs(np.log(ratio / one[1])))))[0]


def _rolling_median(ratio: NDArray[np.float64], reach: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Medians of `reach` values to either side, relative to that of all: with the one in the middle, and without it."""
    with_it, without = np.empty(len(ratio)), np.empty(len(ratio))
    for i in range(len(ratio)):
        around = ratio[max(i - reach, 0) : i + reach + 1]
        with_it[i] = np.median(around)
        without[i] = np.median(np.delete(around, min(i, reach)))
    return with_it / float(np.median(ratio)), without


def cells_of(walks: Walks, variant: str = "") -> Cells:
    """All cells of a table, from the walks; those of the model with the changes `variant`."""
    return _cells(walks, typical_ms(walks), variant, {})


def all_cells(walks: Walks, typical: Typical, forms: Forms | None = None) -> dict[str, Cells]:
    """The cells of the model as it is, by the name "", and with every change that was walked with, by its name."""
    names = dict.fromkeys(["", *map(str, map(variant_of_piece, walks.pieces))])
    return {name: _cells(walks, typical, name, forms or {}) for name in names}


def forms_of(shape: Shape, options: Options) -> Forms:
    """What smaller halves are called, by half and name, and the whole halves that they are of."""
    found: dict[tuple[str, str], str] = {}
    for (block, half), known in options.items():
        for change in known:
            name = getattr(shape.under({(block, half): change}).blocks[block], half)
            found[half, name] = getattr(shape.blocks[block], half)
    return found


def _cells(walks: Walks, typical_of_all: Typical, variant: str, forms: Forms) -> Cells:
    found = _of_variant(typical_of_all, variant)
    samples = {plain_piece(piece): s for piece, s in walks.pieces.items() if variant_of_piece(piece) == variant}
    typical = dict(found.ms)
    # a block without a stage passes through the gap in which a stage would be: part of its MLP half
    gap = typical.pop(("reduce",), 0.0)
    kinds: dict[str, list[Piece]] = {}
    for piece in sorted(typical, key=str):
        kinds.setdefault(piece[0], []).append(piece)
    for half in HALVES:
        typical |= _leaning([piece for piece in kinds.get(half, []) if (half, piece[-1]) not in forms], found)
        typical |= _shares(half, kinds.get(half, []), forms, found, typical)

    def cell(piece: Piece, extra: float = 0.0) -> dict[str, Any]:
        return {**_statistics(samples[piece]), "ms": typical[piece] + extra}

    return Cells(
        stem=Cell(**cell(("stem",))),
        head=[CountCell(n=p[1], **cell(p)) for p in kinds["head"]],
        attention=[AttentionCell(n=p[1], biased=p[2], variant=p[3], **cell(p)) for p in kinds["attention"]],
        mlp=[CountCell(n=p[1], variant=p[2], **cell(p, gap)) for p in kinds["mlp"]],
        reduce=[ReduceCell(scorer=p[1], merge=p[2], n_in=p[3], n_out=p[4], **cell(p)) for p in kinds.get("reduce", [])],
    )


def _of_variant(found: Typical, variant: str) -> Typical:
    """Of the pieces of the model with those changes, by what they are called without."""
    ms, error = (
        {plain_piece(piece): value for piece, value in of_all.items() if variant_of_piece(piece) == variant}
        for of_all in (found.ms, found.error_ms)
    )
    return Typical(ms, error, found.pace)


def _leaning(pieces: Sequence[Piece], found: Typical) -> dict[Piece, float]:
    """Pieces that differ in their tokens alone, smoothed together."""
    alike: dict[Piece, dict[int, tuple[float, float]]] = {}
    for piece in pieces:
        alike.setdefault((piece[0], *piece[2:]), {})[piece[1]] = (found.ms[piece], found.error_ms[piece])
    return {(kind, n, *rest): ms for (kind, *rest), points in alike.items() for n, ms in smooth(points).items()}


def _shares(
    half: str, pieces: Sequence[Piece], forms: Forms, found: Typical, whole: Mapping[Piece, float]
) -> dict[Piece, float]:
    """Pieces that are smaller halves, each form smoothed as a share of the `whole` half."""
    alike: dict[str, list[Piece]] = {}
    for piece in pieces:
        if (half, piece[-1]) in forms:
            alike.setdefault(piece[-1], []).append(piece)
    near: dict[Piece, float] = {}
    for name, mine in alike.items():
        own = {piece: (*piece[:-1], forms[half, name]) for piece in mine}
        known = {piece: whole[own[piece]] for piece in mine if own[piece] in whole}
        near |= smooth_form({piece: (found.ms[piece], found.error_ms[piece]) for piece in mine}, known)
    return near


def _statistics(samples: Samples) -> dict[str, Any]:
    return {
        "median_ms": samples.median_ms,
        "p10_ms": samples.p10_ms,
        "p90_ms": samples.p90_ms,
        "samples": len(samples),
        "samples_us": [round(ms * 1e3, 1) for ms in samples.ms],
    }
