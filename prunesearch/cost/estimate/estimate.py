"""Cost tables of devices that nobody here can touch: the model's own kernels, priced one by one.

The same walks that measure a table are taken with the model on the `meta` device and a clock that prices every kernel
it hears of, so that any scorer, merge and model family is priced by what it really executes. Every number is an
estimate; its error on devices that were not fitted is stored in `hw_profiles/estimator.json` and goes into the table.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.files import data_folder, load_json
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import parse_method
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.cost.estimate.ops import inputs_to_meta, record, to_meta
from prunesearch.cost.estimate.roofline import Efficiency, Roofline, RooflineClock
from prunesearch.cost.shape import Shape, conditions_of, describe_shape
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.specs import DTYPES, DeviceSpec, Dtype, validate
from prunesearch.cost.tables.table_records import Cell, Cells, NoiseRecord, Validation
from prunesearch.cost.timing.build import cells_of, check_counts
from prunesearch.cost.timing.modes import Eager
from prunesearch.cost.timing.walk import Piece, Walker, Walks, plan_walks
from prunesearch.pruning.apply import Handle, handle_of
from prunesearch.pruning.borders import borrowed
from prunesearch.pruning.families.find import find_encoder

ESTIMATOR = data_folder("hw_profiles") / "estimator.json"
_ATTENTION = ("sdpa", "eager")
_STAGES_EACH = 16  # stages of every scorer and merge: a fitted surface has up to nine coefficients
_MOST_WALKS = 400


class Errors(BaseModel):
    """Estimates against public measurements of `n` forwards, by parameters fitted without them.

    `mape`, `worst` and `bias` are relative to the measured latency; ranks are compared within devices.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(ge=1)
    mape: float = Field(ge=0)
    median: float = Field(ge=0)
    worst: float = Field(ge=0)
    worst_row: str
    bias: float
    rank_correlation: float | None
    batches: tuple[int, ...] = ()


class Estimator(BaseModel):
    """The fitted parameters, where they come from, and how far off they are.

    `pooled` is the error over forwards that the device bounds, `devices` the same by device, each estimated by
    parameters fitted on the others; `datasheet_only` is that of devices whose large products were not measured either,
    `host_bound` the error where launching kernels takes longer than running them. `unvalidated`: what no public
    measurement was found for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["prunesearch.estimator"] = "prunesearch.estimator"
    version: Literal[1] = 1
    date: str
    efficiency: Efficiency
    data: str
    left_out: str
    pooled: Errors
    datasheet_only: Errors
    devices: dict[str, Errors]
    host_bound: Errors
    unvalidated: tuple[str, ...]


@cache
def shipped_estimator() -> Estimator:
    """The estimator that is shipped.

    Raises:
        PruneSearchError, CorruptFileError: if its file is missing or broken.
    """
    return validate(Estimator, load_json(ESTIMATOR, "estimator"), f"estimator {ESTIMATOR}")


def estimate_table(
    spec: DeviceSpec,
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    counts: Iterable[int],
    methods: Sequence[str],
    dtype: Dtype = "float16",
    attention: str = "sdpa",
    mode: str = "eager",
    seed: int = 0,
    estimator: Estimator | None = None,
) -> CostTable:
    """Estimate what every piece of `model` costs on a batch on the device `spec`; as `build_table`, without the device.

    Deterministic, in a few seconds. The model is neither run nor changed; it may carry a schedule.

    Args:
        spec: the device.
        model: a supported model, or a module around one, on any device.
        inputs: a batch without padding; only its shapes count.
        counts: tokens after a stage that schedules may ask for, protected ones included.
        methods: `scorer+merge`, or a merge that needs no scorer.
        dtype: of weights and activations on the device.
        attention: implementation, `sdpa` or `eager`.
        mode: how forwards are executed, see `RooflineClock`.
        seed: of the schedules that are walked.
        estimator: fitted parameters and their errors; None for the shipped ones.

    Raises:
        PruneSearchError: for a count, method, dtype, attention or mode that cannot be.
        UnsupportedModelError: if the model's family is unknown.
    """
    fitted, start = estimator or shipped_estimator(), time.monotonic()
    find_encoder(model)  # how many tokens of a prompt may leave is in its values, which nothing looks at here
    for method in methods:
        parse_method(method)
    with _on_meta(spec, model, inputs, dtype, attention, mode, fitted) as (clone, handle, batch, clock):
        shape = describe_shape(clone, handle, batch)
        grid = check_counts(counts, shape)
        walker = Walker(Eager(clone, handle, batch), shape, clock)
        walks, host_bound = _walk(walker, clock, shape, grid, methods, seed)
        conditions = {**conditions_of(handle, batch, shape.tokens, mode), "threads": None, "cores": None}
    conditions["device"] = spec.kind
    errors, validation = _validation(fitted, spec, host_bound)
    return CostTable(
        status="estimated",
        source=f"estimated for '{spec.name}'",
        shape=shape,
        conditions=conditions,
        device={"kind": spec.kind, "name": spec.name, "estimator": fitted.date, "sources": list(spec.sources)},
        cells=_without_samples(cells_of(walks)),
        noise=NoiseRecord(spread=None, drift=None, others=None, noisy=False, why="estimated"),
        seconds=time.monotonic() - start,
        walks=len(walks.steps),
        validation=validation,
        notes=_notes(errors, conditions, methods, host_bound),
    )


def estimate_latency_ms(
    spec: DeviceSpec,
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    dtype: Dtype = "float16",
    attention: str = "sdpa",
    mode: str = "eager",
    schedule: Schedule | None = None,
    estimator: Estimator | None = None,
) -> float:
    """Estimate the latency of one whole forward in ms; unpruned without a `schedule`, else as `estimate_table`."""
    fitted = estimator or shipped_estimator()
    with _on_meta(spec, model, inputs, dtype, attention, mode, fitted) as (clone, handle, batch, clock):
        walker = Walker(Eager(clone, handle, batch), describe_shape(clone, handle, batch), clock)
        with torch.inference_mode(), record(clock.hear), walker.marking():
            return sum(ms for _, ms in walker.walk(schedule or Schedule()))


@contextmanager
def _on_meta(
    spec: DeviceSpec,
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    dtype: str,
    attention: str,
    mode: str,
    fitted: Estimator,
) -> Iterator[tuple[nn.Module, Handle, dict[str, Tensor], RooflineClock]]:
    """Yield a copy of `model` without weights, its handle, the batch and a clock of the device."""
    if dtype not in DTYPES:
        raise PruneSearchError(f"dtype must be one of {', '.join(DTYPES)}, but got '{dtype}'")
    if attention not in _ATTENTION:
        raise PruneSearchError(f"estimates know attention {' and '.join(_ATTENTION)}, but got '{attention}'")
    stored = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
    roofline = Roofline(spec, fitted.efficiency, tf32=dtype == "tf32")
    roofline.ceiling(stored)  # refuses a dtype that the device has no units for, before anything is done
    clock = RooflineClock(roofline, mode)
    clone = to_meta(model, stored).eval()
    carried = handle_of(clone)
    if carried is not None:  # the copy's is not the one that is priced
        carried.remove()
    for part in clone.modules():
        if hasattr(part, "config") and hasattr(part.config, "_attn_implementation"):
            part.config._attn_implementation = attention
    with borrowed(clone) as handle:
        try:
            yield clone, handle, inputs_to_meta(inputs, stored), clock
        except RuntimeError as error:
            if "meta tensors" not in str(error):
                raise
            raise PruneSearchError(
                f"{type(model).__name__} looks into the values of its tensors, so that it cannot be priced by their "
                "shapes: measure it on the device (prunesearch profile)"
            ) from error


def _walk(
    walker: Walker, clock: RooflineClock, shape: Shape, grid: Sequence[int], methods: Sequence[str], seed: int
) -> tuple[Walks, bool]:
    """Walk until every width, scorer and merge was met often enough to be priced anywhere in the grid.

    Returns:
        The walks, and whether the unpruned forward, the first of them, was bound by its host.
    """
    walks, plan = Walks(), plan_walks(shape.depth, shape.tokens, shape.protected, grid, methods, seed)
    with torch.inference_mode(), record(clock.hear), walker.marking():
        walks.add(walker.walk(next(plan)))
        host_bound = clock.host_bound
        while len(walks.steps) < _MOST_WALKS and not covers(walks, shape, grid, methods):
            walks.add(walker.walk(next(plan)))
    return walks, host_bound


def covers(walks: Walks, shape: Shape, grid: Sequence[int], methods: Sequence[str]) -> bool:
    """Whether walks met every piece of a table at every width of `grid`, and every method often enough."""
    if not grid or not methods:
        return True
    merges = {parse_method(method)[1] for method in methods}
    kinds = {MERGES.entry(merge).makes_sizes for merge in merges}
    wanted: set[Piece] = {("mlp", n, block.mlp) for n in grid for block in shape.blocks}
    behind = shape.blocks[1:]  # no stage comes before the first block's attention
    wanted |= {("attention", n, sized, block.attention) for n in grid for sized in kinds for block in behind}
    stages: dict[str, int] = {}
    for piece, samples in walks.pieces.items():
        wanted.discard(piece)
        if len(piece) == 5:
            for name in (f"scorer {piece[1]}", f"merge {piece[2]}"):
                stages[name] = stages.get(name, 0) + len(samples)
    scorers = {s for s, merge in map(parse_method, methods) if MERGES.entry(merge).uses_scores}
    names = [f"scorer {s}" for s in scorers] + [f"merge {merge}" for merge in merges]
    return not wanted and all(stages.get(name, 0) >= _STAGES_EACH for name in names)


def _without_samples(cells: Cells) -> Cells:
    """What a simulated walk took is no timing: an estimated cell has none, and its quantiles are its value."""

    def bare(cell: Cell) -> Any:
        ms = cell.ms
        return cell.model_copy(update={"median_ms": ms, "p10_ms": ms, "p90_ms": ms, "samples": 0, "samples_us": []})

    parts = {name: getattr(cells, name) for name in type(cells).model_fields}
    return Cells(
        **{name: [bare(c) for c in part] if isinstance(part, list) else bare(part) for name, part in parts.items()}
    )


def _validation(fitted: Estimator, spec: DeviceSpec, host_bound: bool) -> tuple[Errors, Validation]:
    """The errors that say how far an estimate for a device can be trusted, and the record of them."""
    elsewhere = f"{len(fitted.devices)} other devices, none of this one"
    if host_bound:
        errors, against = fitted.host_bound, f"whose host was the limit, on {elsewhere}"
    elif spec.name in fitted.devices:
        errors, against = fitted.devices[spec.name], "on this device, fitted without them"
    elif spec.gemm_tflops:
        errors, against = fitted.pooled, f"on {elsewhere}"
    else:
        errors, against = fitted.datasheet_only, f"on {elsewhere}, priced from datasheets"
    return errors, Validation(
        mape=errors.mape,
        worst=errors.worst,
        bias=errors.bias,
        rank_correlation=errors.rank_correlation if errors.rank_correlation is not None else 0.0,
        unseen=errors.n,
        against=f"public measurements {against}",
    )


def _notes(errors: Errors, conditions: Mapping[str, Any], methods: Sequence[str], host_bound: bool) -> list[str]:
    """What of the conditions no public measurement was compared with."""
    notes, batch = [], conditions["batch_size"]
    if errors.batches and not errors.batches[0] <= batch <= errors.batches[-1]:
        notes.append(
            f"no public measurement at batch {batch}: batches {errors.batches[0]} to {errors.batches[-1]} were compared"
        )
    if host_bound:
        notes.append("launching kernels takes longer than running them: latencies depend on the host's processor")
    if not RUNTIMES.entry(conditions["mode"]).launches:
        notes.append("no public measurement validates estimates of CUDA graphs")
    sized = [method for method in methods if MERGES.entry(parse_method(method)[1]).makes_sizes]
    if sized and conditions["attention"] == "sdpa":
        notes.append("attention with token sizes is priced like attention without: no public measurement was found")
    return notes
