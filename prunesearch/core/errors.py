"""The one error a user is meant to read, and the help that goes into its message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PruneSearchError(ValueError):
    """Bad input. The message is one line: the rule, the value that broke it, and the way out.

    The command line prints it without a traceback and exits with code 2.
    """


class UnsupportedModelError(PruneSearchError):
    """The model is of no known family, or of one that cannot be reduced."""


class CorruptFileError(PruneSearchError):
    """A file that prunesearch wrote (or a user edited) cannot be read back."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the tail of a message that lists `known` and names the nearest of them.

    >>> did_you_mean("fusee", ["drop", "fuse"])
    "did you mean 'fuse'? Known: drop, fuse"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(names)}"
