"""The one error a user is meant to read, and the help that goes into its message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from unicodedata import category


class PruneSearchError(ValueError):
    """Bad input. The message is one line: the rule, the value that broke it, and the way out.

    The command line prints it without a traceback and exits with code 2. What it quotes may hold anything: line breaks
    become blanks, and other characters that cannot be printed are escaped, so that it is one line wherever it goes.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(str(message)))


class UnsupportedModelError(PruneSearchError):
    """The model is of no known family, or of one that cannot be reduced."""


class CorruptFileError(PruneSearchError):
    """A file that prunesearch wrote (or a user edited) cannot be read back."""


def printable(text: str) -> str:
    """`text` on one line, without what a terminal would obey rather than show.

    >>> printable("a\\nb\\x1b[2J")
    'a b\\\\x1b[2J'
    """
    line = " ".join(part.strip() for part in text.splitlines()) if len(text.splitlines()) > 1 else text
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or category(c) == "Zs" else repr(c)[1:-1] for c in line)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the tail of a message that lists `known` and names the nearest of them.

    `name` is what somebody wrote, which in a file may be a number, a list or nothing.

    >>> did_you_mean("fusee", ["drop", "fuse"])
    "did you mean 'fuse'? Known: drop, fuse"
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(names)}"
