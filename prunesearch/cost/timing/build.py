"""Measure a model's cost table on the device that its weights lie on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.stage import parse_method
from prunesearch.cost.devices.device import clock_for, describe_device
from prunesearch.cost.devices.kind import Clock
from prunesearch.cost.shape import Shape, conditions_of, describe_shape, device_of
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.table_records import AttentionCell, Cell, Cells, CountCell, NoiseRecord, ReduceCell
from prunesearch.cost.timing.modes import runner_for
from prunesearch.cost.timing.samples import Noise, Samples
from prunesearch.cost.timing.walk import Piece, Walker, Walks, plan_walks, take_walks
from prunesearch.pruning.borders import borrowed

_OUTLIERS = 0.05  # of the walks, at either end, are left out of the means
_PASSES = 3
_NEIGHBOURS = 9  # walks that tell the pace of the one in their middle
_MEDIAN_ERROR = 0.005  # a cell is known well enough when its median is
_STAGES_EACH = 100  # stages that every scorer and merge needs before walking may stop early


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
        time_budget_s: wall time in seconds; stops earlier when every median is known to 0.5 %.
        min_walks: forwards in any case.
        between: called after each timed forward with its number, for work that is to be interleaved.
        spoiled: says after each forward whether it must not count, as when the GPU throttles.
        seed: of the order of things.
        clock: None for the one that suits the device.
        mode: how forwards are executed, a name in `RUNTIMES`.
        concurrency: stated in the conditions; the caller sees to the load (`concurrency.background_load`).
        label: of the progress bar.
        taken: is given the walks when all are taken.

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
        plan = plan_walks(shape.depth, shape.tokens, shape.protected, grid, methods, seed)
        walker = Walker(runner_for(mode, model, handle, inputs), shape, clock or clock_for(device))
        walks = take_walks(
            walker,
            plan,
            time_budget_s=time_budget_s,
            min_walks=min_walks,
            enough=_enough,
            between=between,
            spoiled=spoiled,
            alone=concurrency == 1,
            label=label,
        )
        conditions = conditions_of(handle, inputs, shape.tokens, mode, concurrency)
    taken(walks)
    return CostTable(
        status="measured",
        shape=shape,
        conditions=conditions,
        device=describe_device(device),
        cells=cells_of(walks),
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


def _enough(walks: Walks) -> bool:
    """True when every attention and MLP cell is known well, and every scorer and merge has been seen often."""
    stages: dict[tuple[str, str], int] = {}
    for piece, samples in walks.pieces.items():
        if piece[0] in ("attention", "mlp", "stem") and samples.median_error() > _MEDIAN_ERROR:
            return False
        if len(piece) == 5:
            for key in (("scorer", piece[1]), ("merge", piece[2])):
                stages[key] = stages.get(key, 0) + len(samples)
    return all(seen >= _STAGES_EACH for seen in stages.values())


def typical_ms(walks: Walks) -> tuple[dict[Piece, float], NDArray[np.float64]]:
    """What each piece contributes to the MEDIAN forward, in ms, and the machine's pace at each walk (1: as usual).

    Medians of pieces do not add up to the median of the whole: a piece is disturbed rarely and then badly, a forward of
    dozens of pieces nearly always a little, so that the sum of medians comes out low (by 30 % under a background load,
    where means were off by 1 %). Means do add up, but one long hiccup spoils them. So: means over the forwards that are
    no outliers for their schedule, times the one factor that puts the median forward where it was. What a forward took
    is divided by the pace of those around it, since a machine's speed wanders by tenths within minutes.
    """
    guess = {piece: s.median_ms for piece, s in walks.pieces.items()}
    totals = np.array([sum(ms for _, ms in steps) for steps in walks.steps])
    pace = np.ones(len(totals))
    for _ in range(_PASSES):
        ratio = totals / [sum(guess[piece] for piece, _ in steps) for steps in walks.steps]
        pace = _rolling_median(ratio)
        rest = ratio / pace
        low, high = np.quantile(rest, [_OUTLIERS, 1 - _OUTLIERS])
        heap: dict[Piece, list[float]] = {}
        for steps, r, speed in zip(walks.steps, rest, pace, strict=True):
            if low <= r <= high:
                for piece, ms in steps:
                    heap.setdefault(piece, []).append(ms / speed)
        guess.update({piece: float(np.mean(ms)) for piece, ms in heap.items()})
    factor = float(np.median(totals / [sum(guess[piece] for piece, _ in steps) for steps in walks.steps]))
    return {piece: ms * factor for piece, ms in guess.items()}, pace


def _rolling_median(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median of the `_NEIGHBOURS` values around each one, relative to the median of all."""
    reach = _NEIGHBOURS // 2
    around = [float(np.median(ratio[max(i - reach, 0) : i + reach + 1])) for i in range(len(ratio))]
    return np.array(around) / float(np.median(ratio))


def cells_of(walks: Walks) -> Cells:
    """All cells of a table, from the walks."""
    typical, _ = typical_ms(walks)
    # a block without a stage passes through the gap in which a stage would be: part of its MLP half
    gap = typical.pop(("reduce",), 0.0)
    kinds: dict[str, list[Piece]] = {}
    for piece in sorted(typical, key=str):
        kinds.setdefault(piece[0], []).append(piece)

    def cell(piece: Piece, extra: float = 0.0) -> dict[str, Any]:
        return {**_statistics(walks.pieces[piece]), "ms": typical[piece] + extra}

    return Cells(
        stem=Cell(**cell(("stem",))),
        head=[CountCell(n=p[1], **cell(p)) for p in kinds["head"]],
        attention=[AttentionCell(n=p[1], biased=p[2], variant=p[3], **cell(p)) for p in kinds["attention"]],
        mlp=[CountCell(n=p[1], variant=p[2], **cell(p, gap)) for p in kinds["mlp"]],
        reduce=[ReduceCell(scorer=p[1], merge=p[2], n_in=p[3], n_out=p[4], **cell(p)) for p in kinds.get("reduce", [])],
    )


def _statistics(samples: Samples) -> dict[str, Any]:
    return {
        "median_ms": samples.median_ms,
        "p10_ms": samples.p10_ms,
        "p90_ms": samples.p90_ms,
        "samples": len(samples),
        "samples_us": [round(ms * 1e3, 1) for ms in samples.ms],
    }
