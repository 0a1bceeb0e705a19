"""Fronts and trials as flat rows, as data frames and spreadsheets take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunesearch.core.costs import find_cost
from prunesearch.study.front import Front
from prunesearch.study.front_compared import ComparedMethod
from prunesearch.study.front_items import FrontItem, Point
from prunesearch.study.trials import TrialRecord

UNPRUNED = "unpruned"


def front_rows(front: Front) -> list[dict[str, Any]]:
    """One row a point, the unpruned model first.

    Columns: `id`, `speedup`, the metric with `_low` and `_high` (95 %), the paired `difference` to the unpruned model
    with the same, each cost by its name and unit (`latency_ms`: as measured, or predicted where nothing was), with
    `_predicted`, `agreement`, `kl`, `tokens` (leaving the last block) and `schedule`; where points are tuned, the
    metric with `_before` (the same plan on the model's own weights) and `_equal` (the unpruned model after the same
    training), and `tuned`, how.
    """
    first: dict[str, Any] = {"id": UNPRUNED, "speedup": 1.0, **_measures(front, front.unpruned)}
    first |= {"agreement": 1.0, "kl": 0.0, "tokens": front.unpruned.tokens[-1], "schedule": UNPRUNED}
    return [first, *(_point(front, point) for point in front.points)]


def _point(front: Front, point: Point) -> dict[str, Any]:
    row: dict[str, Any] = {"id": point.id, "speedup": point.speedup, **_measures(front, point)}
    fidelity = point.fidelity
    return row | {
        "agreement": fidelity.agreement,
        "kl": fidelity.kl,
        "tokens": point.tokens[-1],
        "schedule": point.text,
        **_tuned(front, point),
    }


def _tuned(front: Front, point: Point) -> dict[str, Any]:
    """Of a front that has tuned points: what a point was before, and the unpruned model after the same training."""
    if not any(other.tuned for other in front.points):
        return {}
    metric, tuned = front.task.metric, point.tuned
    return {
        f"{metric}_before": None if tuned is None else tuned.before.value,
        f"{metric}_equal": None if tuned is None else tuned.equal.value,
        "tuned": "" if tuned is None else tuned.text,
    }


def _measures(front: Front, item: FrontItem) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, quality in item.qualities.items():
        shown = front.task.metric if quality is item.quality else name
        row |= {shown: quality.value, f"{shown}_low": quality.low, f"{shown}_high": quality.high}
    difference = item.quality.difference
    row["difference"] = 0.0 if difference is None else difference.value
    row["difference_low"] = 0.0 if difference is None else difference.low
    row["difference_high"] = 0.0 if difference is None else difference.high
    for name, amount in item.costs.items():
        column = f"{name}_{find_cost(name).unit}"
        row |= {column: amount.value, f"{column}_predicted": amount.predicted}
    return row


def trial_rows(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """One row a finished trial: what was tried, what it lost on calibration rows, what it is predicted to cost."""
    return [
        {
            "trial": record.number,
            "source": record.source,
            "quality": record.quality,
            "loss": record.loss,
            "latency_ms": record.predicted_ms,
            "energy_mJ": record.predicted_mj,
            "seconds": record.seconds,
            "raced": record.rows is not None,
            "schedule": str(record.plan),
        }
        for record in records
    ]


def compared_rows(front: Front) -> list[dict[str, Any]]:
    """One row a method of `prunesearch compare`, the best first; none where nobody asked.

    Columns: `method`, the metric with `_low` and `_high` (95 %), the paired `difference` to the unpruned model and to
    the search's stages (`to_ours`) with the same, `speedup` and `latency_ms` as measured, `macs_GMACs`, `seconds` and
    `rows` to find or train it, `stages`, `kernels` a stage, `varies`, `spread` (95th percentile of latency over its
    mean; nothing where it is the same for every input), a column for the change in each view, one for each of the
    survey's (`3/4`: of four methods that it ranks higher or lower, our figures have three so), and `schedule`.
    """
    found = front.compared
    return [] if found is None else [_compared(front, one) for one in found.methods]


def _compared(front: Front, one: ComparedMethod) -> dict[str, Any]:
    metric, quality = front.task.metric, one.quality
    row: dict[str, Any] = {"method": one.name, metric: quality.value}
    row |= {f"{metric}_low": quality.low, f"{metric}_high": quality.high}
    for name, change in (("difference", quality.difference), ("to_ours", one.to_ours)):
        known = (None, None, None) if change is None else (change.value, change.low, change.high)
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), known, strict=True))
    row |= {"speedup": one.speedup, "latency_ms": one.latency.middle, "macs_GMACs": one.macs}
    row |= {name: getattr(one, name) for name in ("seconds", "rows", "stages", "kernels", "varies")}
    row["spread"] = None if one.by_row is None else one.by_row.p95 / one.by_row.mean
    row |= {f"in_{view}": change.value for view, change in one.views.items()}
    row |= {f"survey_{cell.column}": f"{cell.agree}/{cell.pairs}" for cell in one.survey}
    return {**row, "schedule": one.text}
