"""EViT (Liang et al. 2022): blocks that shrink, one keep rate for all of them, and whether the rest is fused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from prunesearch.core.errors import CorruptFileError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.export.schedules.format import (
    Format,
    ModelShape,
    Read,
    commented,
    from_counts,
    leaving,
    needed,
    reducing,
    shortest,
)
from prunesearch.export.schedules.parsing import layers, parse_flags, parse_literal, ratio

_DEFAULTS = {"base_keep_rate": "0.7", "drop_loc": "(3, 6, 9)"}  # of EViT's main.py
_GRID = 1000  # rates that are tried where no rate fits all sites


def _leaving(rate: float, sites: Iterable[int], fuse: bool, shape: ModelShape) -> list[int]:
    """Tokens leaving each block: `ceil(rate n)` of the `n` next to CLS, and the fused one, in EViT's arithmetic."""
    counts, n, shrinks = [], shape.tokens - 1, set(sites)
    for layer in range(shape.depth):
        kept = math.ceil(rate * n) if layer in shrinks else n
        n = kept + 1 if fuse and kept < n else kept
        counts.append(n + 1)
    return counts


def _rate(schedule: Schedule, sites: list[int], fuse: bool, shape: ModelShape) -> float:
    """The rate that fits all sites, with the fewest decimals; else the one that is off by the fewest tokens."""
    goal = leaving(schedule, shape)
    flows = reducing(schedule, shape)
    kept = [(after - 1 - fuse, before - 1) for _, before, after in flows]
    lowest, highest = max(((k - 1) / n for k, n in kept), default=1.0), min((k / n for k, n in kept), default=1.0)
    exact = (lowest + highest) / 2
    if 0 < exact <= 1 and _leaving(exact, sites, fuse, shape) == goal:
        return shortest(exact, lambda rate: 0 < rate <= 1 and _leaving(rate, sites, fuse, shape) == goal)

    def error(rate: float) -> int:
        return sum(abs(a - b) for a, b in zip(_leaving(rate, sites, fuse, shape), goal, strict=True))

    rates = (step / _GRID for step in range(1, _GRID + 1))
    return min((rate for rate in rates if _leaving(rate, sites, fuse, shape)[-1] > shape.protected), key=error)


def _write(schedule: Schedule, shape: ModelShape, remarks: Sequence[str]) -> str:
    stages = [stage for stage, _, _ in reducing(schedule, shape)]
    sites = [stage.layer for stage in stages]
    fuse = any(stage.merge != "drop" for stage in stages)
    flags = f'--base_keep_rate {_rate(schedule, sites, fuse, shape)} --drop_loc "{tuple(sites)}"'
    return commented(f"{flags} --fuse_token" if fuse else flags, remarks)


def _read(text: str, shape: ModelShape | None, entry: str | None) -> Read:
    """Read EViT's flags, alone or within a command line; a flag that is missing has EViT's default."""
    flags = parse_flags(text)
    if not {*_DEFAULTS, "fuse_token"} & set(flags):
        raise CorruptFileError('must hold EViT\'s flags, as in --base_keep_rate 0.7 --drop_loc "(3, 6, 9)"')
    shape = needed(shape)
    notes = [f"--{name} is not in the file: EViT's default {value}" for name, value in _DEFAULTS.items()]
    notes = [note for note, name in zip(notes, _DEFAULTS, strict=True) if name not in flags]
    flags = {**_DEFAULTS, **flags}
    rate = ratio(parse_literal(flags["base_keep_rate"], "base_keep_rate"), "base_keep_rate")
    sites = layers(parse_literal(flags["drop_loc"], "drop_loc"), shape.depth, "drop_loc")
    fuse = "fuse_token" in flags
    counts = _leaving(rate, sites, fuse, shape)
    return Read(from_counts(counts, shape, "cls_attention", "fuse" if fuse else "drop"), tuple(notes))


EVIT = Format(
    name="evit",
    tool="EViT",
    write=_write,
    read=_read,
    limits="it has one keep rate for all sites, scores by CLS attention, and fuses at all sites or at none",
    variants=("EViT's fused token is an attention-weighted sum, not a mean, and attention gets no + log(size)",),
    source="youweiliang/evit: main.py, evit.py",
)
