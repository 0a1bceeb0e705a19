"""Options that take several values in one go: `--batch-size 1 8 32`, and what they mean to `run`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand

from prunesearch.core.errors import PruneSearchError

_BUCKETS = "buckets"


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


def parse_loads(batch_sizes: list[str] | None, lengths: list[str] | None) -> dict[str, Any]:
    """Read `--batch-size` and `--length` as settings of a run: `8`, or several with or without weights (`1:0.7 8:0.3`).

    Several of both mean every combination; its weight is the product. `--length buckets`: lengths from the data.

    Raises:
        PruneSearchError: for what is no number, or where some have a weight and some have none.
    """
    rows = _weighted("--batch-size", batch_sizes or [])
    if lengths and _BUCKETS in lengths:
        if len(lengths) > 1 or len(rows) > 1:
            raise PruneSearchError("--length buckets stands alone, beside one --batch-size: leave the others out")
        return {"length_buckets": True} | ({"batch_size": rows[0][0]} if rows else {})
    tokens = _weighted("--length", lengths or [])
    if len(rows) < 2 and len(tokens) < 2:
        return {name: values[0][0] for name, values in (("batch_size", rows), ("length", tokens)) if values}
    if not rows:
        raise PruneSearchError("several --length need a --batch-size beside them, as in --batch-size 8 --length 32 128")
    texts: list[tuple[int | None, float]] = [*tokens] or [(None, 1.0)]
    return {
        "loads": [
            {"batch_size": batch_size, "length": length, "weight": one * other}
            for batch_size, one in rows
            for length, other in texts
        ]
    }


def _weighted(option: str, values: list[str]) -> list[tuple[int, float]]:
    """Read `VALUE` or `VALUE:WEIGHT`; without weights all have 1."""
    found = []
    for text in values:
        value, colon, weight = text.partition(":")
        try:
            found.append((int(value), float(weight) if colon else 1.0))
        except ValueError:
            raise PruneSearchError(f"{option} takes whole numbers, or 1:0.7 with a weight, but got '{text}'") from None
    if len({":" in text for text in values}) > 1:
        raise PruneSearchError(f"{option}: all values have a weight, or none has, but got {' '.join(values)}")
    return found
