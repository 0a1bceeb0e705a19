"""The border of the command line: who listens, what an error looks like, and what an interrupt says."""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import typer

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import Event, Listener, listening, silent
from prunesearch.training.processes import begin, is_first

BAD_INPUT, INTERRUPTED = 2, 130
_ON_NO_MEMORY = "take a smaller --batch-size, or a smaller model"


class StoppedError(Exception):
    """Ctrl-C in a command that keeps what it has done; the message says what."""


class Lazy:
    """A listener that is made when the first event comes: rich costs time that `--help` need not spend."""

    def __init__(self, make: Callable[[], Listener]) -> None:
        self._make = make
        self._made: Listener | None = None

    def __call__(self, event: Event) -> None:
        """Pass the event on."""
        if self._made is None:
            self._made = self._make()
        self._made(event)


def live() -> Listener:
    """The live display on stderr."""
    from prunesearch.cli.live import Live

    return Live()


@contextlib.contextmanager
def quietly(quiet: bool) -> Iterator[None]:
    """Within the block, nothing of what goes on is shown if `quiet`."""
    with listening(silent) if quiet else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def interruptible(kept: str) -> Iterator[None]:
    """Within the block, Ctrl-C is told with what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(kept) from None


def answer(app: Callable[..., Any], args: list[str]) -> int:
    """Run a command and return its exit code; whatever goes wrong is one line on stderr.

    0: done; 2: bad input, or anything else that went wrong; 130: interrupted. `--debug`, anywhere among `args`, prints
    the traceback too.
    """
    for stream in (sys.stdout, sys.stderr):  # a console's code page may lack "≥"
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    debug = "--debug" in args
    try:
        begin(args)
        with listening(Lazy(live)), _first_prints():
            code = app([a for a in args if a != "--debug"], prog_name="prunesearch", standalone_mode=False)
        if code == INTERRUPTED:  # typer has caught it
            _say("interrupted")
        return int(code or 0)
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        return INTERRUPTED
    except StoppedError as error:
        _say(f"interrupted; {error}, and the same command resumes")
        return INTERRUPTED
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # an option that is not understood
            error.show()
            return int(error.exit_code)
        if debug:
            traceback.print_exc()
        _say(line_of(error))
        return BAD_INPUT


def _first_prints() -> contextlib.AbstractContextManager[Any]:
    """Within the block, of several processes that train together the first alone prints results."""
    return contextlib.nullcontext() if is_first() else contextlib.redirect_stdout(io.StringIO())


def line_of(error: BaseException) -> str:
    """What is said about an error, in one line."""
    if isinstance(error, PruneSearchError):
        return str(error)
    text = " ".join(str(error).split())
    name = type(error).__name__
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return f"out of memory: {_ON_NO_MEMORY}"
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f": {error.filename}"
        return f"{error.strerror}{place}"
    return f"{name}: {text[:300] or 'no reason given'} (unexpected; --debug shows where)"


def _say(line: str) -> None:
    typer.echo(f"prunesearch: {line}", err=True)
