"""What training gave the points that were tuned, beside both references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from prunesearch.study.front import Front
from prunesearch.study.front_items import Interval

TUNED = "tuned"


def tuned_table(front: Front) -> Table:
    """A row each tuned point: its quality before and after, the unpruned model after the same training, and how."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column(TUNED, no_wrap=True)
    for title in ("before", "after", "unpruned, same training", "change to that"):
        table.add_column(title, justify="right", overflow="fold")
    table.add_column("training", overflow="fold")
    for point in front.points:
        tuned = point.tuned
        if tuned is not None:
            qualities = (f"{100 * q.value:.1f} %" for q in (tuned.before, point.quality, tuned.equal))
            table.add_row(point.id, *qualities, _points(tuned.difference), tuned.text)
    return table


def elastic_table(judged: Sequence[Mapping[str, Any]]) -> Table:
    """A row each plan: its quality on the model's own weights and on shared ones, and the changes to all references."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("elastic", no_wrap=True)
    for title in ("speed", "before", "after", "change", "to unpruned", "to unpruned, same training"):
        table.add_column(title, justify="right", overflow="fold")
    for row in judged:
        qualities = (f"{100 * row[key]['value']:.1f} %" for key in ("before", "after"))
        changes = (
            _points(Interval.model_validate(_ends(row[key]))) for key in ("to_before", "to_unpruned", "to_equal")
        )
        table.add_row(row["point"], f"{row['speedup']:.2f}x", *qualities, *changes)
    return table


def scorers_table(judged: Sequence[Mapping[str, Any]]) -> Table:
    """A row each scorer, the best first: its divergence over the control's, in the mean and at each single stage."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("scorer", no_wrap=True)
    table.add_column("to control", justify="right")
    for stage in judged[0]["losses"]:
        table.add_column(stage, justify="right", overflow="fold")
    for row in judged:
        name = f"{row['scorer']} (learned)" if row["learned"] else row["scorer"]
        table.add_row(name, f"{row['to_control']:.2f}", *(f"{loss:.3g}" for loss in row["losses"].values()))
    return table


def _ends(difference: Mapping[str, Any]) -> dict[str, Any]:
    return {name: difference[name] for name in ("value", "low", "high")}


def _points(difference: Interval) -> str:
    ends = difference.ends
    around = "" if ends is None else f" ({100 * ends[0]:+.1f}, {100 * ends[1]:+.1f})"
    return f"{100 * difference.value:+.1f}{around}"
