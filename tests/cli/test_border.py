"""Whatever goes wrong in a command ends in one line and the right code."""

from __future__ import annotations

import errno
import io
from contextlib import redirect_stdout

import pytest
import torch
import typer

from prunesearch.cli.border import answer, interruptible, quietly
from prunesearch.core import events
from prunesearch.core.errors import PruneSearchError


def run(capsys: pytest.CaptureFixture[str], call, *args: str) -> tuple[int, str, str]:
    """A command line of one command that does `call`: exit code, stdout, stderr."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(call)
    capsys.readouterr()
    code = answer(app, list(args))
    return (code, *capsys.readouterr())


def raising(error: BaseException):
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PruneSearchError("`a >= 1` must hold, but got 0"), "`a >= 1` must hold, but got 0"),
        (OSError(errno.ENOSPC, "No space left on device", "/d/front.json"), "No space left on device: /d/front.json"),
        (PermissionError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (MemoryError(), "out of memory: take a smaller"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory: take a smaller"),
        (KeyError("x"), "KeyError: 'x' (unexpected; --debug shows where)"),
        (RuntimeError("a\nb"), "RuntimeError: a b (unexpected"),
        (AssertionError(), "AssertionError: no reason given"),
    ],
)
def test_an_error_is_one_line_and_code_2(capsys, error, said):
    code, out, err = run(capsys, raising(error))
    assert (code, out) == (2, "")
    assert err.startswith(f"prunesearch: {said}")
    assert err.count("\n") == 1


def test_debug_goes_anywhere_and_shows_where(capsys):
    code, _, err = run(capsys, raising(KeyError("x")), "--debug")
    assert code == 2
    assert "Traceback" in err
    assert "in call" in err
    assert err.splitlines()[-1].startswith("prunesearch: KeyError")


def test_an_unknown_option_is_told_with_the_usage(capsys):
    code, _, err = run(capsys, lambda: None, "--nothing")
    assert code == 2
    assert "No such option: --nothing" in err


def test_an_interrupt_says_what_is_kept(capsys):
    def call() -> None:
        with interruptible("finished trials are kept"):
            raise KeyboardInterrupt

    code, _, err = run(capsys, call)
    assert (code, err) == (130, "prunesearch: interrupted; finished trials are kept, and the same command resumes\n")
    assert run(capsys, raising(KeyboardInterrupt()))[::2] == (130, "prunesearch: interrupted\n")


def test_a_command_that_ends_itself_has_its_own_code(capsys):
    assert run(capsys, raising(typer.Exit(3)))[0] == 3
    assert run(capsys, lambda: None)[0] == 0


def test_a_console_without_a_character_shows_another_in_its_place():
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    app = typer.Typer()
    app.command()(lambda: typer.echo("quality ≥ 0.9"))
    with redirect_stdout(out):
        assert answer(app, []) == 0
    out.flush()
    assert out.buffer.getvalue().split() == [b"quality", b"?", b"0.9"]


@pytest.mark.parametrize("quiet", [True, False])
def test_what_goes_on_is_told_on_stderr_unless_quiet(capsys, quiet):
    def call() -> None:
        with quietly(quiet):
            events.say("a note")

    assert run(capsys, call) == (0, "", "" if quiet else "a note\n")
