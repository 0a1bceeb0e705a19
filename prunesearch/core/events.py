"""What goes on, told while it does: domain code emits events, and whoever listens shows them.

    with listening(print):
        run(config)

Nobody listens unless asked, but in a notebook, where a plain line says how far things are. A listener holds within its
block, in the thread (or asyncio task) that opened it: other threads and worker processes are silent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
EVERY_S = 0.5  # between two lines about time that passes: what is being measured is left alone


@dataclass(frozen=True)
class Planned:
    """A job of so many steps is begun."""

    steps: int


@dataclass(frozen=True)
class StepBegun:
    """The next of them is begun."""

    text: str


@dataclass(frozen=True)
class Note:
    """A line about what was found, assumed or decided; `warning`: something is not as it should be."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Progress:
    """How far something is, told when it begins, as it moves on, and when it is `over`.

    Attributes:
        label: what it is.
        done: of `total`; None: there is no telling.
        timed: both are seconds.
        best: the best result so far, in words.
    """

    label: str
    done: float
    total: float | None
    timed: bool = False
    best: str = ""
    over: bool = False


@dataclass(frozen=True)
class SoFar:
    """A plan of the front so far: its speed-up by the cost table, quality and loss on the rows of the search."""

    plan: str
    speedup: float
    quality: float
    loss: float


@dataclass(frozen=True)
class FrontGrew:
    """The front of a search as it is now, slowest first.

    Attributes:
        points: of it.
        metric: what quality is called.
        unpruned: the unpruned model's.
    """

    points: tuple[SoFar, ...]
    metric: str
    unpruned: float


Event = Planned | StepBegun | Note | Progress | FrontGrew
Listener = Callable[[Event], object]


def silent(event: Event) -> None:
    """The listener that shows nothing."""


class PlainLine:
    """A listener for notebooks: steps and notes as lines, progress as one line that is written over.

    Args:
        out: where to; None: the cell's output.
    """

    def __init__(self, out: Any = None) -> None:
        self._out = out
        self._shown = 0.0

    def __call__(self, event: Event) -> None:
        """Show an event."""
        out = self._out or sys.stdout
        if isinstance(event, StepBegun | Note):
            out.write(f"{event.text}\n")
        elif isinstance(event, Progress):
            now = time.monotonic()
            if event.over:
                out.write("\r" + 79 * " " + "\r")
            elif now - self._shown >= EVERY_S:
                self._shown = now
                out.write("\r" + _line(event).ljust(79)[:79])


def _line(event: Progress) -> str:
    if event.total is None:
        far = f"{event.done:.0f}"
    elif event.timed:
        far = f"{event.done:.0f} of {event.total:.0f} s"
    else:
        far = f"{100 * event.done / max(event.total, 1e-9):.0f} %"
    return f"{event.label}: {far} {event.best}".rstrip()


_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within the block, tell `listener` of every event; `silent` to hear nothing."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def listener() -> Listener:
    """Whoever listens here."""
    return _LISTENER.get() or (PlainLine() if _in_notebook() else silent)


def heard() -> bool:
    """Whether anybody listens."""
    return listener() is not silent


def _in_notebook() -> bool:
    """Whether this is a cell of a notebook: IPython with a kernel behind it."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def plan(steps: int) -> None:
    """Begin a job of so many steps."""
    listener()(Planned(steps))


def tell(event: Event) -> None:
    """Tell whoever listens of an event."""
    listener()(event)


def step(text: str) -> None:
    """Begin the next step."""
    listener()(StepBegun(text))


def say(text: str) -> None:
    """Tell one line."""
    listener()(Note(text))


def warn(text: str) -> None:
    """Tell one line that should not be missed."""
    listener()(Note(text, warning=True))


class Moving:
    """Something that moves on; whoever listened when it began is told."""

    def __init__(self, label: str, total: float | None, *, timed: bool = False) -> None:
        self._label, self._total, self._timed = label, total, timed
        self._listener, self._done, self._best = listener(), 0.0, ""

    def tell(self, *, over: bool = False) -> None:
        """Tell how far it is."""
        self._listener(Progress(self._label, self._done, self._total, self._timed, self._best, over))

    def advance(self, amount: float = 1) -> None:
        """Move on."""
        self.reach(self._done + amount)

    def reach(self, done: float) -> None:
        """Move on to there."""
        self._done = done
        self.tell()

    def expect(self, total: float) -> None:
        """Move to there, as far as can be told by now."""
        self._total = total

    def best(self, text: str) -> None:
        """Tell the best result so far beside it."""
        self._best = text
        self.tell()


@contextmanager
def moving(label: str, total: float | None, *, timed: bool = False) -> Iterator[Moving]:
    """Tell of something that moves on while the block runs; see `Progress`."""
    found = Moving(label, total, timed=timed)
    found.tell()
    try:
        yield found
    finally:
        found.tell(over=True)


def track(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield from `items`, and tell how many of `total` are done."""
    with moving(label, total) as progress:
        for item in items:
            yield item
            progress.advance()


@contextmanager
def passing(label: str, budget_s: float, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[], None]]:
    """Yield a function to call now and then: it tells how much of `budget_s` seconds has passed.

    It tells at most twice a second, and nothing runs beside the block: what is timed between two calls is left alone.
    """
    start = told = clock()
    with moving(label, budget_s, timed=True) as progress:

        def tick() -> None:
            nonlocal told
            now = clock()
            if now - told >= EVERY_S:
                told = now
                progress.reach(min(now - start, budget_s))

        yield tick
