"""The live line of a run on stderr: which step, how far, the best so far, and the time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

STEPS = 6


class Reporter:
    """Prints steps and progress bars; `quiet` prints nothing at all."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._step = 0

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, soft_wrap=True, markup=False)

    def step(self, text: str) -> None:
        """Announce the next of the run's steps."""
        self._step += 1
        self.say(f"[{self._step}/{STEPS}] {text}")

    @contextmanager
    def bar(self, label: str, total: float | None) -> Iterator[Bar]:
        """Show a bar with an estimate of the time left while the block runs; None: there is no telling."""
        columns = (
            TextColumn("      {task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[best]}"),
        )
        progress = Progress(
            *columns, console=self.console, transient=True, disable=self.quiet or not self.console.is_terminal
        )
        with progress:
            yield Bar(progress, progress.add_task(label, total=total, best=""), label)


class Bar:
    """One progress bar."""

    def __init__(self, progress: Progress, task_id: int, label: str) -> None:
        self._progress, self._task, self._label = progress, task_id, label

    def advance(self, amount: float = 1) -> None:
        """Move on."""
        self._progress.advance(self._task, amount)  # type: ignore[arg-type]

    def best(self, text: str) -> None:
        """Show the best result so far beside the bar."""
        self._progress.update(self._task, best=text)  # type: ignore[arg-type]
