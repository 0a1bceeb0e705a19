"""The one live display: steps, notes and progress of whatever a command does, on stderr."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rich import box
from rich.console import Console, Group
from rich.live import Live as Area
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from prunesearch.core.events import EVERY_S, Event, FrontGrew, Note, Planned, Progress, SoFar, StepBegun

PATIENCE_S = 2.0  # a bar for less than this only flickers
_MOST_ROWS = 12  # of the front
_INDENT, _PROGRAM = " " * 6, "prunesearch: "  # before what is said in a step, and before a warning outside of one


class Live:
    """A listener that prints steps with their numbers, notes, and on a terminal a bar for what takes over two seconds.

    A bar is drawn when an event comes, never by a thread of its own, which would run beside what is being timed.

    Args:
        console: where to; None: stderr.
        patience_s: how long something must take before it gets a bar.
        clock: seconds.
    """

    def __init__(
        self,
        console: Console | None = None,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._patience_s, self._clock = patience_s, clock
        self._steps = self._step = 0
        self._began: dict[str, float] = {}
        self._shown_at = -math.inf
        self._bar: Bar | None = None
        self._area: Area | None = None
        self._front: FrontGrew | None = None
        self._task = TaskID(0)
        self._label = ""

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Planned):
            self._steps, self._step = event.steps, 0
        elif isinstance(event, StepBegun):
            self._step += 1
            self._print(f"[{self._step}/{self._steps}] {event.text}" if self._steps else event.text)
        elif isinstance(event, Note):
            before = _INDENT if self._step else _PROGRAM if event.warning else ""
            self._print(before + event.text, "yellow" if event.warning else "")
        elif isinstance(event, FrontGrew):
            self._front = event  # drawn with the next move
        else:
            self._move(event)

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(text, soft_wrap=True, markup=False, style=style)

    def _move(self, event: Progress) -> None:
        now = self._clock()
        began = self._began.setdefault(event.label, now)
        if event.over:
            del self._began[event.label]
            self._end(event.label)
            return
        shown = self._console.is_terminal and now - began >= self._patience_s
        if shown and (now - self._shown_at >= EVERY_S or self._label != event.label):
            self._shown_at = now
            self._draw(event, now - began)

    def _draw(self, event: Progress, spent_s: float) -> None:
        if self._bar is None:
            self._label = event.label
            columns = (
                TextColumn(_INDENT + "{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[far]}"),
            )
            self._bar = Bar(*columns, console=self._console, auto_refresh=False)
            self._task = self._bar.add_task("", total=None, far="")
            self._area = Area(console=self._console, transient=True, auto_refresh=False)
            self._area.start()
        self._bar.update(
            self._task,
            description=event.label,
            total=event.total,
            completed=event.done,
            far=" ".join(part for part in (far_of(event, spent_s), event.best) if part),
        )
        if self._area is not None:
            shown = [] if self._front is None else [front_table(self._front)]
            self._area.update(Group(*shown, self._bar), refresh=True)

    def _end(self, label: str) -> None:
        if self._area is not None and self._label == label:
            self._area.stop()
            self._area, self._bar, self._front, self._label = None, None, None, ""


def front_table(front: FrontGrew) -> Table:
    """A front that is still sought, a dozen of its plans at most, evenly over it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for title in ("speed, predicted", f"{front.metric}, %", "change"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("plan", no_wrap=True, overflow="ellipsis")
    for point in _spread(front.points):
        change = f"{100 * (point.quality - front.unpruned):+.1f}"
        table.add_row(f"{point.speedup:.2f}x", f"{100 * point.quality:.1f}", change, point.plan)
    return table


def _spread(points: tuple[SoFar, ...]) -> list[SoFar]:
    if len(points) <= _MOST_ROWS:
        return list(points)
    step = (len(points) - 1) / (_MOST_ROWS - 1)
    return [points[round(k * step)] for k in range(_MOST_ROWS)]


def far_of(event: Progress, spent_s: float) -> str:
    """How far, in words: `12 of 50 s`; `40 %, 1:20 left`; a count where the end is not known."""
    if event.timed:
        return f"{event.done:.0f} s" if event.total is None else f"{event.done:.0f} of {event.total:.0f} s"
    if event.total is None:
        return f"{event.done:g}"
    share = min(1.0, event.done / event.total) if event.total > 0 else 1.0
    left = f", {_time(spent_s * (1 - share) / share)} left" if 0 < share < 1 else ""
    return f"{share:.0%}{left}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
