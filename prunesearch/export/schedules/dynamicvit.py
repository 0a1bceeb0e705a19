"""DynamicViT (Rao et al. 2021): the share of the initial patches that is kept before some blocks."""

from __future__ import annotations

from collections.abc import Sequence

from prunesearch.core.errors import CorruptFileError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.export.schedules.format import (
    Format,
    ModelShape,
    Read,
    commented,
    from_counts,
    needed,
    reducing,
    shortest,
)
from prunesearch.export.schedules.parsing import layers, parse_assignments, ratio

BEFORE_BLOCK = "tokens leave before the block there, between its attention and its MLP here"
_GATE = "a trained gate scores the tokens there, cls_attention here"


def kept_ratio(kept: int, initial: int) -> float:
    """The shortest ratio with `int(initial x ratio) == kept`, the rounding of DynamicViT and PyramidDrop."""
    return shortest((kept + 0.5) / initial, lambda r: 0 < r <= 1 and int(initial * r) == kept)


def kept_before_blocks(sites: Sequence[int], kept: Sequence[int], fixed: int, shape: ModelShape) -> list[int]:
    """Tokens leaving each block if `kept` of the others than the `fixed` tokens stay from the blocks `sites` on."""
    at, current, counts = dict(zip(sites, kept, strict=True)), shape.tokens, []
    for layer in range(shape.depth):
        current = min(current, fixed + at.get(layer, current))
        counts.append(current)
    return counts


def _write(schedule: Schedule, shape: ModelShape, remarks: Sequence[str]) -> str:
    flows = reducing(schedule, shape)
    sites = [stage.layer for stage, _, _ in flows]
    ratios = [kept_ratio(after - 1, shape.tokens - 1) for _, _, after in flows]
    return commented(f"pruning_loc = {sites}\ntoken_ratio = {ratios}", remarks)


def _read(text: str, shape: ModelShape | None, entry: str | None) -> Read:
    """Read `pruning_loc = [...]` and `token_ratio = [...]`, the arguments of DynamicViT's models."""
    values = parse_assignments(text)
    missing = {"pruning_loc", "token_ratio"} - set(values)
    if missing:
        raise CorruptFileError(f"must hold the lines pruning_loc = [...] and token_ratio = [...]: no {sorted(missing)}")
    shape = needed(shape)
    sites = layers(values["pruning_loc"], shape.depth, "pruning_loc")
    ratios = values["token_ratio"]
    if not isinstance(ratios, (list, tuple)) or len(ratios) != len(sites):
        raise CorruptFileError(f"token_ratio must be a list of {len(sites)} ratios, one for each of pruning_loc")
    patches = shape.tokens - 1
    kept = [int(patches * ratio(value, "token_ratio")) for value in ratios]
    schedule = from_counts(kept_before_blocks(sites, kept, 1, shape), shape, "cls_attention", "drop")
    return Read(schedule, (_GATE, BEFORE_BLOCK) if len(schedule) else ())


DYNAMIC_VIT = Format(
    name="dynamicvit",
    tool="DynamicViT",
    write=_write,
    read=_read,
    limits="it drops tokens before a block, by a gate that it trains",
    variants=("DynamicViT's vit.py counts the kept tokens of 196 patches, whatever the image",),
    source="raoyongming/DynamicViT: vit.py, main.py",
)
