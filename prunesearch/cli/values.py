"""Options that take several values in one go: `--batch-size 1 8 32`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand


class SeveralValues(TyperCommand):
    """A command whose repeatable options also take their values in a row, up to the next option.

    `--batch-size 1 8 32` is read as `--batch-size 1 --batch-size 8 --batch-size 32`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write the values out one by one, then parse as usual."""
        flags = {flag for param in self.params if getattr(param, "multiple", False) for flag in param.opts}
        return super().parse_args(ctx, list(written_out(args, flags)))


def written_out(args: list[str], flags: set[str]) -> Iterator[str]:
    """Repeat each of `flags` before every one of its values."""
    current, first = "", False
    for arg in args:
        if arg in flags:
            current, first = arg, True
            yield arg
        elif arg.startswith("-") or not current:
            current = ""
            yield arg
        else:
            if not first:
                yield current
            first = False
            yield arg
