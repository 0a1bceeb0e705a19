"""What a schedule saves in multiply-adds and in memory: counted, by the closed form, and side by side with unpruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.flow import Geometry
from prunesearch.core.plans.schedule import Schedule, refuse_by_row
from prunesearch.core.plans.stage import ENCODER
from prunesearch.cost.counting.flops import closed_form_gmacs, count_macs
from prunesearch.cost.counting.memory import Memory, peak_activation_mib
from prunesearch.cost.devices.device import kind_of
from prunesearch.cost.shape import conditions_of, describe_shape, device_of
from prunesearch.pruning.apply import Handle
from prunesearch.pruning.borders import borrowed


@dataclass(frozen=True)
class ForwardCost:
    """One forward: GMACs (10^9 multiply-adds) per sample, tokens leaving each block, peak activations of the batch."""

    gmacs: float
    gmacs_closed_form: float
    tokens: tuple[int, ...]
    memory: Memory


@dataclass(frozen=True)
class FlopsReport:
    """A model without and with a schedule; `pruned` is None for the empty schedule.

    `parameters_m`: weights in millions. `tokens`: the sequence at the start, `protected` of them never reduced.
    `conditions`: `batch_size`, `dtype`, `attention`, `device` and the others of a cost table.
    """

    model: str
    family: str
    schedule: Schedule
    parameters_m: float
    tokens: int
    protected: int
    conditions: dict[str, Any]
    unpruned: ForwardCost
    pruned: ForwardCost | None

    @property
    def ratio(self) -> float:
        """GMACs with the schedule over GMACs without it."""
        return 1.0 if self.pruned is None else self.pruned.gmacs / self.unpruned.gmacs

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "model": self.model,
            "family": self.family,
            "schedule": self.schedule.to_dict(),
            "parameters_m": self.parameters_m,
            "tokens": self.tokens,
            "protected": self.protected,
            "conditions": self.conditions,
            "unpruned": _plain(self.unpruned),
            "pruned": None if self.pruned is None else _plain(self.pruned),
            "ratio": self.ratio,
        }


def flops_report(model: nn.Module, inputs: Mapping[str, Tensor], schedule: Schedule, *, name: str) -> FlopsReport:
    """Count MACs and peak memory of `model` without and with `schedule`. Weights may be random, values do not matter.

    MACs are counted on one row of `inputs`. Memory is that of the whole batch: on CUDA measured; elsewhere estimated
    from shapes alone, so that a large batch costs no time. The model is left as it was.

    Args:
        model: a supported model in eval mode, on a CPU or CUDA device (counting traces it, so not on meta).
        inputs: one batch without padding, on the model's device.
        schedule: the stages.
        name: what to call the model in the report.

    Raises:
        PruneSearchError: for a schedule that does not fit the model, a padded batch, or a model on the meta device.
        UnsupportedModelError: if the model's family is unknown.
    """
    if any(value.is_meta for value in inputs.values()):
        raise PruneSearchError("MACs are counted in a real forward, but the inputs lie on the meta device: use cpu")
    mask = inputs.get("attention_mask")
    if mask is not None and not bool(mask.all()):
        raise PruneSearchError("the batch must hold no padding to be counted, but its attention mask has zeros")
    # a mask of ones changes no number, and memory by shape cannot look into it
    batch = {key: value for key, value in inputs.items() if key != "attention_mask"}
    row = {key: value[:1] for key, value in batch.items()}
    with borrowed(model) as handle, handle.under(Schedule()):
        if handle.encoder.family.part != ENCODER:
            raise PruneSearchError(
                f"multiply-adds are counted in encoders, but a '{handle.encoder.family.model_type}' is a decoder "
                "behind a tower: prunesearch run measures its time to the first token"
            )
        schedule.check_depth(handle.encoder.depth)
        shape = describe_shape(model, handle, row)
        conditions = conditions_of(handle, batch, shape.tokens)
        unpruned = _forward_cost(model, handle, batch, row, shape.tokens)
        pruned = None
        if schedule.stages:
            with handle.under(schedule):
                pruned = _forward_cost(model, handle, batch, row, shape.tokens)
    return FlopsReport(
        model=name,
        family=shape.family,
        schedule=schedule,
        parameters_m=sum(p.numel() for p in model.parameters()) / 1e6,
        tokens=shape.tokens,
        protected=shape.protected,
        conditions=conditions,
        unpruned=unpruned,
        pruned=pruned,
    )


def _forward_cost(
    model: nn.Module, handle: Handle, batch: Mapping[str, Tensor], row: Mapping[str, Tensor], tokens: int
) -> ForwardCost:
    encoder, schedule = handle.encoder, handle.schedule
    refuse_by_row(schedule, "a count of multiply-adds")
    tells = kind_of(device_of(batch)).measures_memory
    sized = batch if tells else {key: value.to("meta") for key, value in batch.items()}
    return ForwardCost(
        gmacs=count_macs(model, row) / 1e9,
        gmacs_closed_form=closed_form_gmacs(encoder, schedule, tokens, _head_macs(model, encoder.base)),
        tokens=tuple(schedule.flow(Geometry(encoder.depth, tokens, encoder.protected)).counts),
        memory=peak_activation_mib(model, sized),
    )


def _head_macs(model: nn.Module, base: nn.Module) -> int:
    """MACs of the linear layers outside the encoder: a classification head runs once a sample."""
    inside = set(base.modules())
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m not in inside)


def _plain(cost: ForwardCost) -> dict[str, Any]:
    return {
        "gmacs": cost.gmacs,
        "gmacs_closed_form": cost.gmacs_closed_form,
        "tokens": list(cost.tokens),
        "peak_activation_mib": cost.memory.value_mib,
        "memory_status": cost.memory.status,
    }


# -- on a terminal -----------------------------------------------------------------------------------


def show_flops(report: FlopsReport, console: Console | None = None) -> None:
    """Print a report; it fits 80 columns."""
    out = console or Console()
    c = report.conditions
    title = Text.assemble((report.model, "bold"), f"  {report.family}, {report.parameters_m:.1f} M parameters")
    out.print(title)
    out.print(
        Text(f"batch {c['batch_size']}, {c['dtype']}, {c['attention']}, {report.tokens} tokens on {c['device']}", "dim")
    )
    if report.schedule.stages:
        out.print(Text(f"schedule  {report.schedule}"))
    out.print()
    out.print(_table(report))
    out.print()
    out.print(Text(f"tokens leaving each block, of {report.tokens} ({report.protected} protected)"))
    for name, cost in (("unpruned", report.unpruned), ("pruned", report.pruned)):
        if cost is not None:
            out.print(Text(f"  {name:9} {runs(cost.tokens)}"))
    out.print()
    for line in _notes(report):
        out.print(Text(line, "dim"))


def runs(tokens: tuple[int, ...]) -> str:
    """Counts with equal neighbours taken together: `197 x3, 140 x9`."""
    return ", ".join(f"{n} x{len(list(same))}" for n, same in groupby(tokens))


def _table(report: FlopsReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("unpruned", *(("pruned", "ratio") if report.pruned else ())):
        table.add_column(name, justify="right", no_wrap=True)

    status = report.unpruned.memory.status
    rows: dict[str, Callable[[ForwardCost], float]] = {
        "GMACs a sample, counted": lambda cost: cost.gmacs,
        "GMACs a sample, closed form": lambda cost: cost.gmacs_closed_form,
        f"peak activations, MiB ({status})": lambda cost: cost.memory.value_mib,
    }
    for label, value in rows.items():
        cells: list[str | Text] = [_figure(value(report.unpruned))]
        if report.pruned is not None:
            ratio = value(report.pruned) / value(report.unpruned)
            cells += [Text(_figure(value(report.pruned)), "bold"), f"{ratio:.3f}"]
        table.add_row(label, *cells)
    return table


def _notes(report: FlopsReport) -> list[str]:
    if report.unpruned.memory.status == "measured":
        memory = "Memory: the allocator's peak in a forward, weights and inputs apart."
    else:
        memory = "Memory: live tensors of a forward on a CPU; weights, inputs, workspaces apart."
    return [memory, "MACs are not time: prunesearch profile measures that."]


def _figure(value: float) -> str:
    """Four significant digits."""
    return f"{value:.{max(0, 4 - len(str(int(value))))}f}" if value >= 1 else f"{value:.4f}"
