"""`prunesearch verify`: the front of a study measured again on the device at hand, predicted against measured."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from torch import nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.files import write_text_atomic
from prunesearch.core.pareto import non_dominated
from prunesearch.core.schedule import Schedule
from prunesearch.cost.devices.device import at_hand, describe_device, is_device
from prunesearch.cost.shape import conditions_of
from prunesearch.cost.timing.validate import measure_schedules
from prunesearch.pruning.apply import apply_
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front, Point, Unpruned, cost_of, digits, trust
from prunesearch.tasks.base import Task
from prunesearch.tasks.loading import check_device

_FILE = "verify.json"


class VerifiedPoint(BaseModel):
    """A point: what the cost table predicted, what the study measured (if it did), and what was measured now, in ms."""

    model_config = ConfigDict(extra="forbid")

    id: str
    text: str
    predicted_ms: float
    study_ms: float | None
    median_ms: float
    p10_ms: float
    p90_ms: float
    speedup: float

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted_ms / self.median_ms - 1


class Verification(BaseModel):
    """A front against a measurement; `same_device`: the study's costs are of a device of the same name and conditions.

    `mape` and `worst` are relative errors of the predictions; `rank_correlation` is Spearman's (1 for under 3 points);
    `lost`: points that another one dominates in the study's objectives, with the latencies of now (energies are the
    study's: they are not measured again).
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal["prunesearch.verification"] = "prunesearch.verification"
    version: Literal[1] = 1
    study: str
    device: dict[str, Any]
    conditions: dict[str, Any]
    same_device: bool
    differences: list[str]
    points: list[VerifiedPoint] = Field(min_length=1)
    mape: float
    worst: float
    rank_correlation: float
    lost: list[str]


def verify(
    folder: StudyFolder,
    front: Front,
    *,
    device: str | None = None,
    seconds: float = 25.0,
    task: Task | None = None,
    model: nn.Module | None = None,
) -> Verification:
    """Measure every point of a front, and the unpruned model, interleaved; written to `verify.json` of the study.

    Args:
        folder: of the study.
        front: its front.
        device: torch device to measure on; None: that of the study, or what of its kind is at hand.
        seconds: wall time; every point is measured ten times in any case.
        task: of a study of a caller's own model: the model with its data again, on that device.
        model: the same, with the data that the study names.

    Raises:
        PruneSearchError: if the front has no point, the device is not here, or model or data cannot be loaded.
    """
    device = _at_hand(front) if device is None else device
    check_device(device)
    facts = describe_device(device)
    if not front.points:
        raise PruneSearchError(f"the front of study '{front.study}' has no point to verify: {front.verdict.text}")
    from prunesearch.study.config import RunConfig
    from prunesearch.study.setup import make_setting

    config = RunConfig.build(**{**front.config, "device": device})
    task = make_setting(config, task=task, model=model).task
    inputs = task.timing_inputs(config.batch_size)
    schedules = [Schedule(), *(p.to_schedule() for p in front.points)]
    with apply_(task.model, Schedule()) as handle:
        conditions = conditions_of(handle, inputs, task.tokens, config.mode, config.concurrency)
        samples = measure_schedules(
            task.model,
            inputs,
            schedules,
            time_budget_s=seconds,
            label="verifying",
            mode=config.mode,
            concurrency=config.concurrency,
        )
    base = samples[0].median_ms
    rows = [("unpruned", "unpruned", front.unpruned.latency), *((p.id, p.text, p.latency) for p in front.points)]
    points = [
        VerifiedPoint(
            id=name,
            text=text,
            predicted_ms=latency.predicted_ms,
            study_ms=latency.median_ms,
            median_ms=s.median_ms,
            p10_ms=s.p10_ms,
            p90_ms=s.p90_ms,
            speedup=base / s.median_ms,
        )
        for (name, text, latency), s in zip(rows, samples, strict=True)
    ]
    found = judge(front, facts, conditions, points)
    write_text_atomic(folder.path / _FILE, found.model_dump_json(indent=1) + "\n")
    return found


def _at_hand(front: Front) -> str:
    """The torch device that a study was run on, or the one at hand for a study of a named device."""
    named = str(front.config.get("device", ""))
    if is_device(named):
        return named
    local = at_hand()
    return local.first if front.device.kind == local.name else "cpu"


def judge(
    front: Front, device: dict[str, Any], conditions: dict[str, Any], points: list[VerifiedPoint]
) -> Verification:
    """What `points`, measured again, say of a front; `device` and `conditions` are those of now."""
    stated = front.conditions.model_dump()
    differences = [
        f"{name} {stated[name]} in the study, {value} now"
        for name, value in conditions.items()
        if stated.get(name) not in (None, value)
    ]
    if front.device.name != device["name"]:
        differences.insert(0, f"device {front.device.name} in the study, {device['name']} now")
    errors = [abs(p.error) for p in points]
    rank = 1.0
    if len(points) > 2:
        rank = float(np.nan_to_num(spearmanr([p.predicted_ms for p in points], [p.median_ms for p in points])[0]))
    values = []
    items: list[Unpruned | Point] = [front.unpruned, *front.points]
    for item, p in zip(items, points, strict=True):
        costs = [p.median_ms if name == "latency" else cost_of(item, "mJ") for name in front.objectives]
        values.append((*costs, -item.quality.value))
    lost = [p.id for p, stands in zip(points, non_dominated(values), strict=True) if not stands]
    return Verification(
        study=front.study,
        device=device,
        conditions=conditions,
        same_device=not differences,
        differences=differences,
        points=points,
        mape=sum(errors) / len(errors),
        worst=max(errors),
        rank_correlation=rank,
        lost=[name for name in lost if name != "unpruned"],
    )


def show_verification(found: Verification, front: Front, console: Console | None = None) -> None:
    """Print predicted against measured, point by point; fits 80 columns."""
    out = console or Console()
    out.print(f"{found.study}: predictions ({trust(front.cost_table)}) against {found.device['name']}", markup=False)
    for difference in found.differences:
        out.print(f"not the study's conditions: {difference}", style="yellow", markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("", "predicted", "measured (p10–p90)", "error", "speed", "in the study"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for p in found.points:
        study = "" if p.study_ms is None else f"{digits(p.study_ms)} ms"
        measured = f"{digits(p.median_ms)} ms ({digits(p.p10_ms)}–{digits(p.p90_ms)})"
        mark = f"{p.id} !" if p.id in found.lost else p.id
        table.add_row(mark, f"{digits(p.predicted_ms)} ms", measured, f"{p.error:+.1%}", f"{p.speedup:.2f}×", study)
    out.print(table)
    out.print(
        f"error of the predictions: mean {found.mape:.1%}, worst {found.worst:.1%}, rank correlation "
        f"{found.rank_correlation:.3f}",
        markup=False,
    )
    if found.lost:
        out.print(f"! dominated as measured now: {', '.join(found.lost)}", style="yellow", markup=False)
