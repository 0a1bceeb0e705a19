"""Tools that drop tokens of pictures in the prompt of a decoder: FastV, PyramidDrop, VisionZip, OpenVINO GenAI.

Each takes them in one way: before a block of the decoder by the attention of the prompt's last token, or before its
first block. What a site before block K comes to is worked out where it is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from prunesearch.core.errors import CorruptFileError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import DECODER, INPUT, TOP_K, Place, Stage
from prunesearch.export.schedules.dynamicvit import BEFORE_BLOCK, kept_before_blocks, kept_ratio
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
from prunesearch.export.schedules.parsing import (
    integer,
    layers,
    number,
    parse_assignments,
    parse_flags,
    parse_literal,
    ratio,
    show,
)

LAST_TOKEN = "text_attention"  # what FastV and PyramidDrop score by: the attention of the prompt's last token
_RATE = "video-pruning-rate"
_MEANS = "contextual"  # the merge that is VisionZip's
_ONE = "it drops tokens of pictures once"


def kept_of(schedule: Schedule, shape: ModelShape) -> list[tuple[Stage, int]]:
    """The stages that take tokens away, each with the tokens of pictures that are left."""
    return [(stage, after - shape.protected) for stage, _, after in reducing(schedule, shape)]


# -- before a block of the decoder ------------------------------------------------------------------------------------


def fastv_words(schedule: Schedule, shape: ModelShape) -> tuple[int, float]:
    """FastV's K and R for the first stage that takes tokens away: they leave before block K, scored in block K - 1.

    That is a stage in block K - 1 here: what leaves it is not seen by its MLP either, but for tokens that are gone
    nothing comes of that.
    """
    found = kept_of(schedule, shape)
    if not found:
        return 1, 0.0
    stage, kept = found[0]
    block = 0 if stage.place.part == INPUT else stage.layer
    images = shape.reducible
    return max(1, min(block + 1, shape.depth - 1)), shortest(
        1 - kept / images, lambda r: 0 <= r < 1 and round(images * (1 - r)) == kept
    )


def fastv_schedule(k: int, r: float, shape: ModelShape) -> Schedule:
    """The stage that FastV's K and R come to (see `fastv_words`)."""
    if not 1 <= k < shape.depth:
        raise CorruptFileError(f"FastV's K must be a block number from 1 to {shape.depth - 1}, but got {k}")
    if not 0 <= r < 1:
        raise CorruptFileError(f"FastV's R, the share that is dropped, must be in [0, 1), but got {r}")
    kept = round(shape.reducible * (1 - r))
    if not kept:
        raise CorruptFileError(f"R = {r} drops all {shape.reducible} tokens of pictures: a stage leaves at least one")
    counts = kept_before_blocks([k - 1], [kept], shape.protected, shape)
    return from_counts(counts, shape, LAST_TOKEN, "drop")


def pyramid_words(schedule: Schedule, shape: ModelShape) -> tuple[list[int], list[float]]:
    """PyramidDrop's blocks, and the share of the initial tokens that is left before each."""
    found = kept_of(schedule, shape)
    sites = [0 if stage.place.part == INPUT else stage.layer for stage, _ in found]
    return sites, [kept_ratio(kept, shape.reducible) for _, kept in found]


def pyramid_schedule(sites: Any, ratios: Any, shape: ModelShape) -> Schedule:
    """The stages that PyramidDrop's two lists come to: in the blocks before which tokens leave there."""
    found = layers(list(sites) if isinstance(sites, tuple) else sites, shape.depth, "layer_list")
    if not isinstance(ratios, (list, tuple)) or len(ratios) != len(found):
        raise CorruptFileError(f"image_token_ratio_list must be a list of {len(found)} ratios, one for each layer")
    kept = [int(shape.reducible * ratio(value, "image_token_ratio_list")) for value in ratios]
    if 0 in kept:
        raise CorruptFileError("image_token_ratio_list drops all tokens of pictures: a stage leaves at least one")
    return from_counts(kept_before_blocks(found, kept, shape.protected, shape), shape, LAST_TOKEN, "drop")


def _write_fastv(schedule: Schedule, shape: ModelShape, remarks: Sequence[str]) -> str:
    k, r = fastv_words(schedule, shape)
    return commented(f"fastv_k = {k}\nfastv_r = {r}", remarks)


def _read_fastv(text: str, shape: ModelShape | None, entry: str | None) -> Read:
    """Read `fastv_k = 3` and `fastv_r = 0.75`, or the dictionary `fastv_config` that holds both."""
    values = parse_assignments(text)
    given = next((value for value in values.values() if isinstance(value, Mapping)), values)
    k, r = (_one_of(given, name) for name in ("fastv_k", "fastv_r"))
    if given.get("use_fastv") is False:
        return Read(Schedule())
    return Read(fastv_schedule(integer(k, "fastv_k"), number(r, "fastv_r"), needed(shape)))


def _write_pyramid(schedule: Schedule, shape: ModelShape, remarks: Sequence[str]) -> str:
    sites, ratios = pyramid_words(schedule, shape)
    return commented(f'--layer_list "{sites}" --image_token_ratio_list "{ratios}"', remarks)


def _read_pyramid(text: str, shape: ModelShape | None, entry: str | None) -> Read:
    """Read `--layer_list "[8,16,24]" --image_token_ratio_list "[0.5,0.25,0.125]"`, alone or in a command line."""
    flags = parse_flags(text)
    sites, ratios = (
        parse_literal(_one_of(flags, name), f"--{name}") for name in ("layer_list", "image_token_ratio_list")
    )
    schedule = pyramid_schedule(sites, ratios, needed(shape))
    return Read(schedule, (BEFORE_BLOCK,) if len(schedule) else ())


# -- before the first block -------------------------------------------------------------------------------------------


def _at_input(
    kept: int,
    shape: ModelShape,
    scorer: str,
    selection: str = TOP_K,
    merge: str = "drop",
    params: Mapping[str, float] | None = None,
) -> Schedule:
    if kept >= shape.reducible:
        return Schedule()
    return Schedule([Stage(Place(INPUT, 0), kept / shape.reducible, scorer, merge, selection, params or {})])


def _left(schedule: Schedule, shape: ModelShape) -> int:
    """Tokens of pictures that are left by the first stage."""
    return next((kept for _, kept in kept_of(schedule, shape)), shape.reducible)


def _write_visionzip(schedule: Schedule, shape: ModelShape, remarks: Sequence[str]) -> str:
    left, merged = _left(schedule, shape), 0
    first = next((stage for stage, _ in kept_of(schedule, shape)), None)
    if first is not None and first.merge == _MEANS:
        merged = min(max(1, math.floor(left * first.merge_params["targets"] + 0.5)), left)
    return commented(f"dominant = {left - merged}\ncontextual = {merged}", remarks)


def _read_visionzip(text: str, shape: ModelShape | None, entry: str | None) -> Read:
    """Read `dominant = 54` and `contextual = 10`, the arguments of `visionzip(model, ...)`."""
    values, shape = parse_assignments(text), needed(shape)
    dominant, contextual = (integer(_one_of(values, name), name) for name in ("dominant", "contextual"))
    if not dominant:
        raise CorruptFileError("dominant must be a whole number >= 1: those are the tokens that stay as they are")
    kept, scorer = dominant + contextual, "tower_cls_attention"
    if not contextual:
        return Read(_at_input(kept, shape, scorer))
    return Read(_at_input(kept, shape, scorer, merge=_MEANS, params={"targets": contextual / kept}))


def _write_genai(schedule: Schedule, shape: ModelShape, remarks: Sequence[str]) -> str:
    left, images = _left(schedule, shape), shape.reducible
    percent = min(range(100), key=lambda p: (abs(_kept_by_genai(p, images) - left), p))
    return commented(f"pruning_ratio = {percent}\nrelevance_weight = 0.5", remarks)


def _read_genai(text: str, shape: ModelShape | None, entry: str | None) -> Read:
    """Read `pruning_ratio = 50` of a GenerationConfig, the percentage that is removed."""
    values, shape = parse_assignments(text), needed(shape)
    percent = integer(_one_of(values, "pruning_ratio"), "pruning_ratio")
    if percent > 99:
        raise CorruptFileError(f"`0 <= pruning_ratio <= 99` must hold, but got {percent}")
    schedule = _at_input(_kept_by_genai(percent, shape.reducible), shape, "key_norm", "dpp")
    note = "relevance to the text weighs tokens there, key_norm here"
    return Read(schedule, (note,) if len(schedule) else ())


def _kept_by_genai(percent: int, images: int) -> int:
    """What OpenVINO GenAI leaves of the tokens of a picture: rounded half up, then up to an even number."""
    kept = math.floor(images * (1 - percent / 100) + 0.5)
    return min(kept + kept % 2, images)


def _write_vllm(schedule: Schedule, shape: ModelShape, remarks: Sequence[str]) -> str:
    left, total = _left(schedule, shape), shape.reducible
    rate = shortest(1 - left / total, lambda q: 0 <= q < 1 and int(total * (1 - q)) == left) if left < total else 0.0
    return commented(f"--video-pruning-rate {rate:g}", remarks)


def _read_vllm(text: str, shape: ModelShape | None, entry: str | None) -> Read:
    """Read `--video-pruning-rate 0.5`, the share that is removed."""
    shape = needed(shape)
    rate = number(parse_literal(_one_of(parse_flags(text), _RATE), f"--{_RATE}"), f"--{_RATE}")
    if not 0 <= rate < 1:
        raise CorruptFileError(f"`0 <= {_RATE} < 1` must hold, but got {rate}")
    kept = int(shape.reducible * (1 - rate))
    if not kept:
        raise CorruptFileError(
            f"--{_RATE} {rate} drops all {shape.reducible} tokens of a video: a stage leaves at least one"
        )
    return Read(_at_input(kept, shape, "random", "frame_change"))


def _one_of(values: Mapping[Any, Any], name: str) -> Any:
    if name not in values:
        raise CorruptFileError(f"must say {name}, but it has {show(', '.join(map(str, values)))}")
    return values[name]


_COMMON: dict[str, Any] = {"protects": None, "parts": (DECODER,)}

FASTV = Format(
    name="fastv",
    tool="FastV",
    write=_write_fastv,
    read=_read_fastv,
    limits=f"{_ONE}, before a block, by the attention of the prompt's last token in the block before",
    variants=("FastV needs attention eager (output_attentions) in the block that scores",),
    source="pkunlp-icler/FastV: src/FastV/inference, transformers/models/llama/modeling_llama.py",
    **_COMMON,
)

PYRAMIDDROP = Format(
    name="pyramiddrop",
    tool="PyramidDrop",
    write=_write_pyramid,
    read=_read_pyramid,
    limits="it drops tokens of pictures before blocks, by the attention of the prompt's last token there",
    source="Cooperx521/PyramidDrop: scripts/v1_5/pdrop_eval, llava/model/language_model/modeling_llama_pdrop.py",
    **_COMMON,
)

VISIONZIP = Format(
    name="visionzip",
    tool="VisionZip",
    write=_write_visionzip,
    read=_read_visionzip,
    limits=f"{_ONE}, before the decoder, by the attention of the tower's CLS token, and merges the others into a few",
    variants=(
        "VisionZip counts the tower's CLS token among the dominant ones, and merges by the tower's keys, not features",
    ),
    source="dvlab-research/VisionZip: visionzip/main.py",
    **_COMMON,
)

OPENVINO_GENAI = Format(
    name="openvino-genai",
    tool="OpenVINO GenAI",
    write=_write_genai,
    read=_read_genai,
    limits=f"{_ONE}, before the decoder, as CDPruner does, in whole per cent",
    variants=("OpenVINO GenAI leaves an even number of tokens of each picture",),
    source="openvinotoolkit/openvino.genai: src/cpp/src/visual_language/cdpruner",
    **_COMMON,
)

VLLM = Format(
    name="vllm",
    tool="vLLM",
    write=_write_vllm,
    read=_read_vllm,
    limits=f"{_ONE}, before the decoder, and those of videos alone (EVS)",
    variants=("vLLM prunes each video of a prompt by itself, never below the tokens of one frame, and no pictures",),
    source="vllm-project/vllm: vllm/multimodal/evs.py",
    **_COMMON,
)
