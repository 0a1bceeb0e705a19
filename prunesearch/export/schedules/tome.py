"""ToMe (Bolya et al. 2023): `model.r`, the number of tokens that each block merges away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from prunesearch.core.errors import CorruptFileError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.export.schedules.format import Format, ModelShape, Read, commented, from_counts, leaving, needed
from prunesearch.export.schedules.parsing import integer, integers, number, parse_assignments, show


def removals(targets: Iterable[int], tokens: int, protected: int) -> list[int]:
    """Tokens that each block removes to come to `targets` under ToMe's cap, later blocks catching up on it.

    Args:
        targets: tokens that should leave each block.
        tokens: tokens that enter the first.
        protected: of them, never merged; at most half of the others leave in one block.
    """
    removed, current = [], tokens
    for target in targets:
        removed.append(min(current - target, (current - protected) // 2))
        current -= removed[-1]
    return removed


def leaving_after(removed: Iterable[int], tokens: int, protected: int) -> list[int]:
    """Tokens that leave each block of a model where ToMe is asked to remove `removed`; the cap holds."""
    counts, current = [], tokens
    for r in removed:
        current -= min(r, (current - protected) // 2)
        counts.append(current)
    return counts


def spread(r: int, inflection: float, depth: int) -> list[int]:
    """Removals that fall (inflection -1), stay (0) or rise (1) linearly over the blocks, as ToMe's `(r, inflection)`.

    They start at `int(r (1 - inflection))` and end as far on the other side of `r`.
    """
    first = int(r * (1.0 - inflection))
    step = 2 * (r - first) / max(depth - 1, 1)
    return [int(first + step * layer) for layer in range(depth)]


def padded(removed: list[int], depth: int) -> list[int]:
    """A list of removals brought to `depth` entries, as the tools do; removals beyond the last block are refused."""
    if any(removed[depth:]):
        raise CorruptFileError(f"`r` has {len(removed)} entries for a model of {depth} blocks: is it another model's?")
    return removed[:depth] + [0] * (depth - len(removed))


def _write(schedule: Schedule, shape: ModelShape, remarks: Sequence[str]) -> str:
    r = removals(leaving(schedule, shape), shape.tokens, _protected(shape))
    return commented(f"model.r = {r}", remarks)


def _read(text: str, shape: ModelShape | None, entry: str | None) -> Read:
    """Read `model.r = [...]`, `r = 13`, `(13, -1.0)`, or the value alone."""
    values = parse_assignments(text)
    if len(values) != 1 or not {"r", ""} >= set(values):
        raise CorruptFileError(f"must hold one line model.r = VALUE, but it holds {show(', '.join(values))}")
    shape = needed(shape)
    r = per_block(next(iter(values.values())), shape.depth)
    counts = leaving_after(r, shape.tokens, _protected(shape))
    return Read(from_counts(counts, shape, merge="bipartite"))


def per_block(value: Any, depth: int) -> list[int]:
    """Read a number, a list, or a pair `(r, inflection)` as the removals of each block."""
    if isinstance(value, list):
        return padded(integers(value, "`r`"), depth)
    if isinstance(value, tuple) and len(value) == 2:
        inflection = number(value[1], "the inflection of `r`")
        if not -1 <= inflection <= 1:
            raise CorruptFileError(f"`-1 <= inflection <= 1` must hold, but got {show(value[1])}")
        return spread(integer(value[0], "`r`"), inflection, depth)
    return [integer(value, "`r`")] * depth


def _protected(shape: ModelShape) -> int:
    return min(shape.protected, TOME.protects or 0)


TOME = Format(
    name="tome",
    tool="ToMe",
    write=_write,
    read=_read,
    limits="it merges by bipartite matching, at most half of the unprotected tokens a block",
    protects=2,
    source="facebookresearch/ToMe: tome/utils.py (parse_r), tome/patch/timm.py",
)
