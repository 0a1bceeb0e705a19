"""What training gave the points that were tuned, beside both references."""

from __future__ import annotations

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


def _points(difference: Interval) -> str:
    ends = difference.ends
    around = "" if ends is None else f" ({100 * ends[0]:+.1f}, {100 * ends[1]:+.1f})"
    return f"{100 * difference.value:+.1f}{around}"
