"""LightCompress: the `sparse` section of a configuration, with ToMe (vision tower), FastV or PyramidDrop (decoder)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from prunesearch.core.errors import CorruptFileError, did_you_mean
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import DECODER, ENCODER
from prunesearch.export.schedules.dynamicvit import BEFORE_BLOCK, kept_before_blocks, kept_ratio
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
from prunesearch.export.schedules.image_tokens import fastv_schedule, fastv_words, pyramid_schedule, pyramid_words
from prunesearch.export.schedules.parsing import integer, integers, layers, number, ratio, section, show
from prunesearch.export.schedules.tome import leaving_after, padded, removals
from prunesearch.study.folder import parse_yaml

_LAST_TOKEN = "image tokens of a decoder are scored by the last token's attention there, cls_attention here"


def _write(schedule: Schedule, shape: ModelShape, remarks: Sequence[str]) -> str:
    """Return the `sparse` section: ToMe if all stages match by similarity, else FastV (one stage) or PyramidDrop."""
    if shape.part == DECODER:
        return _section(_of_a_decoder(schedule, shape), remarks)
    flows = reducing(schedule, shape)
    image = shape.reducible
    kept = [after - shape.protected for _, _, after in flows]
    sites = [stage.layer for stage, _, _ in flows]
    special: dict[str, Any]
    if all(stage.merge == "bipartite" for stage, _, _ in flows):
        r = removals(leaving(schedule, shape), shape.tokens, 1)
        # LightCompress reads two numbers as (first, step)
        special = {"method": "ToMe", "r": [*r, 0] if len(r) == 2 else r}
    elif len(flows) == 1 and sites[0] > 0:  # FastV scores in the block before
        rate = shortest(1 - kept[0] / image, lambda x: 0 <= x < 1 and round(image * (1 - x)) == kept[0])
        special = {"method": "FastV", "pruning_loc": sites[0], "rate": rate}
    else:
        ratios = [kept_ratio(k, image) for k in kept]
        special = {"method": "PyramidDrop", "layer_list": sites, "image_token_ratio_list": ratios}
    return _section(special, remarks)


def _of_a_decoder(schedule: Schedule, shape: ModelShape) -> dict[str, Any]:
    """As tools say it that are about prompts alone: FastV for one stage, else PyramidDrop."""
    if len(reducing(schedule, shape)) == 1:
        block, rate = fastv_words(schedule, shape)
        return {"method": "FastV", "pruning_loc": block, "rate": rate}
    sites, ratios = pyramid_words(schedule, shape)
    return {"method": "PyramidDrop", "layer_list": sites, "image_token_ratio_list": ratios}


def _section(special: dict[str, Any], remarks: Sequence[str]) -> str:
    reduction = {"method": "TokenReduction", "special": special}
    sparse = {"vision": reduction} if special["method"] == "ToMe" else reduction
    body: str = yaml.safe_dump({"sparse": sparse}, sort_keys=False, default_flow_style=None, width=1000)
    return commented(body.rstrip("\n"), remarks)


def _read(text: str, shape: ModelShape | None, entry: str | None) -> Read:
    """Read a whole configuration, or its `sparse` section alone."""
    try:
        data = parse_yaml(text)
    except ValueError as error:
        raise CorruptFileError(f"not YAML: {str(error)[:120]}") from None
    sparse = section(data if isinstance(data, Mapping) else {}, "sparse", "a LightCompress configuration")
    if isinstance(sparse.get("vision"), Mapping):
        sparse = sparse["vision"]
    if sparse.get("method") != "TokenReduction":
        raise CorruptFileError("sparse.method must be TokenReduction")
    special = section(sparse, "special", "TokenReduction")
    method = special.get("method")
    if not isinstance(method, str) or method not in _METHODS:
        raise CorruptFileError(f"unknown token reduction {show(method)}: {did_you_mean(show(method), _METHODS)}")
    return _METHODS[method](special, needed(shape))


def _read_tome(special: Mapping[Any, Any], shape: ModelShape) -> Read:
    value = special.get("r", 0)
    if isinstance(value, list) and len(value) == 2:
        first, step = (number(part, "`r`") for part in value)
        r = [max(int(first + layer * step), 0) for layer in range(shape.depth)]
    elif isinstance(value, list):
        r = padded(integers(value, "`r`"), shape.depth)
    else:
        r = [integer(value, "`r`")] * shape.depth
    return Read(from_counts(leaving_after(r, shape.tokens, 1), shape, merge="bipartite"))


def _read_fastv(special: Mapping[Any, Any], shape: ModelShape) -> Read:
    if shape.part == DECODER:
        block = integer(special.get("pruning_loc"), "pruning_loc")
        return Read(fastv_schedule(block, number(special.get("rate"), "rate"), shape))
    sites = layers([special.get("pruning_loc")], shape.depth, "pruning_loc")
    rate = number(special.get("rate"), "rate")
    if not 0 <= rate < 1:
        raise CorruptFileError(f"`0 <= rate < 1` must hold, but got {rate}")
    return _read_kept(sites, [round((shape.tokens - shape.protected) * (1 - rate))], shape)


def _read_pyramiddrop(special: Mapping[Any, Any], shape: ModelShape) -> Read:
    if shape.part == DECODER:
        schedule = pyramid_schedule(special.get("layer_list"), special.get("image_token_ratio_list"), shape)
        return Read(schedule, (BEFORE_BLOCK,) if len(schedule) else ())
    sites = layers(special.get("layer_list"), shape.depth, "layer_list")
    ratios = special.get("image_token_ratio_list")
    if not isinstance(ratios, list) or len(ratios) != len(sites):
        raise CorruptFileError(f"image_token_ratio_list must be a list of {len(sites)} ratios, one for each layer")
    image = shape.tokens - shape.protected
    return _read_kept(sites, [int(image * ratio(value, "image_token_ratio_list")) for value in ratios], shape)


def _read_kept(sites: Sequence[int], kept: Sequence[int], shape: ModelShape) -> Read:
    counts = kept_before_blocks(sites, kept, shape.protected, shape)
    schedule = from_counts(counts, shape, "cls_attention", "drop")
    return Read(schedule, (_LAST_TOKEN, BEFORE_BLOCK) if len(schedule) else ())


_METHODS: dict[str, Callable[[Mapping[Any, Any], ModelShape], Read]] = {
    "ToMe": _read_tome,
    "FastV": _read_fastv,
    "PyramidDrop": _read_pyramiddrop,
}

LIGHTCOMPRESS = Format(
    name="lightcompress",
    tool="LightCompress",
    write=_write,
    read=_read,
    limits="it merges like ToMe in a vision tower, or drops image tokens before a decoder's block",
    variants=(
        "LightCompress's ToMe carries no sizes: plain means, and attention gets no + log(size)",
        "the sections base, model, eval and save: add them",
    ),
    parts=(ENCODER, DECODER),
    source="ModelTC/LightCompress: llmc/compression/token_reduction, configs/sparsification/methods",
)
