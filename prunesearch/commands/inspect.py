"""`run --dry-run`: what a run would work on, as it was understood, and how long it would take; nothing is searched."""

from __future__ import annotations

import html
import itertools
import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import FREE
from prunesearch.pruning.apply import Handle, apply_
from prunesearch.search.costs.costing import free_of
from prunesearch.search.costs.half_options import kinds_to_search
from prunesearch.search.costs.precisions import variants_to_search
from prunesearch.search.space.space import SpaceFile
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.setup import Setting

ROWS = 256  # that the unpruned model is judged on
# What searches came to: evaluations of the unpruned model until the front had converged, the share of its time that the
# schedules of a front take, forwards of a candidate when it is measured again, the share of its time that a cost table
# takes, and that of the holdout rows that a candidate is read on.
_UNITS = 20.0
_SHARE = 0.6
_REMEASURED = 12
_TABLE, _READ = 0.4, 0.5
_FEWER = 0.5  # what fewer trials than it takes to converge spend, for each of them


@dataclass(frozen=True)
class Inspection:
    """What was understood.

    Attributes:
        model: how results call it; `class_name`, `family` and `depth` (blocks) are its own.
        tokens: of a row whose latency counts; `protected` of them are never reduced.
        task: kind of task; `metric`, what quality is.
        classes: names of the labels, where there are any.
        rows: used, by split.
        notes: what was inferred or decided, and rows that are left out with the reason.
        quality: of the unpruned model on `judged` calibration rows, with its 95 % interval; None for its ends where
            nothing is known of them.
        device: whose costs count; `loads`, the batches whose latency does.
        seconds: how long a run will take, by part; an estimate from the time of a few forwards.
    """

    model: str
    class_name: str
    family: str
    depth: int
    tokens: int
    protected: int
    task: str
    metric: str
    classes: list[str]
    rows: dict[str, int]
    notes: list[str]
    quality: float
    low: float | None
    high: float | None
    judged: int
    device: str
    loads: list[str]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total_s(self) -> float:
        """How long a run will take, about, in seconds."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON form."""
        return {**asdict(self), "total_s": self.total_s}

    def lines(self) -> list[tuple[str, str]]:
        """What it says, for people: a word, and what stands for it."""
        ends = "" if self.low is None or self.high is None else f" [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        splits = ", ".join(f"{n:,} {name}" for name, n in self.rows.items())
        parts = ", ".join(f"{name} {_span(s)}" for name, s in self.seconds.items())
        known = [("classes", _some(self.classes))] if self.classes else []
        return [
            ("model", f"{self.model} ({self.class_name}, family {self.family}, {self.depth} blocks)"),
            ("tokens", f"{self.tokens}, of which {self.protected} are protected"),
            ("task", f"{self.task}; quality is {self.metric}"),
            *known,
            ("rows", splits),
            ("quality", f"{100 * self.quality:.1f} %{ends} unpruned, on {self.judged} calibration rows"),
            ("device", f"{self.device}; {', '.join(self.loads)}"),
            ("time", f"about {_span(self.total_s)} ({parts}), estimated"),
            *(("note", note) for note in self.notes),
        ]

    def _repr_html_(self) -> str:
        rows = (f"<tr><th>{word}</th><td>{html.escape(text)}</td></tr>" for word, text in self.lines())
        return f"<table>{''.join(rows)}</table>"


def inspect(setting: Setting) -> Inspection:
    """Judge the unpruned model on a few rows, and say what was understood."""
    task, config = setting.task, setting.config
    split = task.calibration.take(min(ROWS, config.search_samples))
    with apply_(task.model, Schedule(), seed=config.seed) as handle:
        evaluator = Evaluator(task, handle, split)
        _check_free(setting, handle)
        unpruned, row_s = evaluator.unpruned(), _row_seconds(evaluator)
        encoder = handle.encoder
    quality, low, high = unpruned.metric.interval(unpruned.statistics)
    certain = low > float("-inf") and high < float("inf")
    return Inspection(
        model=setting.source.shown,
        class_name=type(task.model).__name__,
        family=encoder.family.model_type,
        depth=encoder.depth,
        tokens=task.tokens,
        protected=setting.geometry.protected,
        task=task.name,
        metric=task.metric,
        classes=task.label_names,
        rows={"calibration": task.calibration.n, "holdout": task.holdout.n},
        notes=setting.notes,
        quality=quality,
        low=low if certain else None,
        high=high if certain else None,
        judged=split.n,
        device=config.device,
        loads=[f"batch {load.batch_size} of {task.at_length(load.length).tokens} tokens" for load in setting.loads],
        seconds=_seconds(setting, row_s),
    )


def _check_free(setting: Setting, handle: Handle) -> None:
    """Refuse what a run would refuse: precisions, and changes of halves of blocks, that cannot be had here."""
    file = SpaceFile.load(setting.config.space_path or handle.encoder.family.space)
    free = free_of(setting.config, file)
    kinds_to_search(setting, file, free)
    if FREE[1] in free:
        variants_to_search(setting, handle)


def _row_seconds(evaluator: Evaluator) -> float:
    """Seconds of a row through the unpruned model and its metric: the median batch of a pass that has all prepared."""
    marks: list[tuple[float, int]] = [(time.perf_counter(), 0)]
    evaluator.evaluate(Schedule(), lambda rows: marks.append((time.perf_counter(), rows)))
    return statistics.median((b - a) / rows for (a, _), (b, rows) in itertools.pairwise(marks))


def _seconds(setting: Setting, row_s: float) -> dict[str, float]:
    """About how long the parts of a run take, given the seconds of a row through the unpruned model."""
    config, task, here = setting.config, setting.task, setting.target.here
    rows = min(config.search_samples, task.calibration.n)
    unit = rows * row_s
    units = _UNITS if config.trials is None else min(_UNITS, _FEWER * config.trials)
    search = units * unit
    if config.timeout_s is not None:
        search = min(search, config.timeout_s)
    candidates = config.front_points
    batches = sum(load.batch_size for load in setting.loads)
    return {
        "cost table": _TABLE * config.table_seconds * len(setting.loads) if here else 0.0,
        "one-stage losses": config.sensitivity_units * unit,
        "search": search,
        "holdout": (1 + _READ * _SHARE * candidates) * task.holdout.n * row_s,
        "re-measuring": (1 + candidates) * _REMEASURED * batches * row_s if here else 0.0,
    }


def show_inspection(found: Inspection, console: Console | None = None) -> None:
    """Print it; fits 80 columns."""
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for word, text in found.lines():
        table.add_row(word, text)
    (console or Console(highlight=False)).print(table)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _some(names: list[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit])
    return f"{len(names)}: {shown}" + (", …" if len(names) > limit else "")
