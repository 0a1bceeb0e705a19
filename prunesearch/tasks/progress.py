"""Progress of slow preparation on stderr, and quiet for libraries that draw their own."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import datasets.utils as datasets_bars
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers.utils import logging as transformers_logging

T = TypeVar("T")
PATIENCE_S = 2.0  # a bar for less than this only flickers


def track(items: Iterable[T], total: int, label: str, *, quiet: bool = False) -> Iterator[T]:
    """Yield from `items`; show a bar on a terminal (stderr) once it has taken more than `PATIENCE_S` seconds."""
    start = time.monotonic()
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    hidden = quiet or not console.is_terminal
    progress = Progress(*columns, console=console, transient=True, disable=hidden)
    bar = progress.add_task(label, total=total)
    try:
        for item in items:
            yield item
            progress.advance(bar)
            if time.monotonic() - start > PATIENCE_S and not progress.live.is_started:
                progress.start()
    finally:
        if progress.live.is_started:
            progress.stop()


@contextmanager
def quiet_libraries(*, progress: bool = False) -> Iterator[None]:
    """Silence the warnings and (unless `progress`) the bars of transformers and datasets; restore."""
    hub: Any = transformers_logging  # both libraries leave these switches untyped
    data: Any = datasets_bars
    verbosity, bars = hub.get_verbosity(), hub.is_progress_bar_enabled()
    data_bars = not data.are_progress_bars_disabled()
    hub.set_verbosity_error()
    if not progress:
        hub.disable_progress_bar()
        data.disable_progress_bars()
    try:
        yield
    finally:
        hub.set_verbosity(verbosity)
        if bars:
            hub.enable_progress_bar()
        if data_bars:
            data.enable_progress_bars()
