"""Rows of the table of model families: models that read pictures in the prompt of a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunesearch.core.plans.stage import DECODER
from prunesearch.pruning.families.blocks import PreNorm
from prunesearch.pruning.families.family import Family
from prunesearch.pruning.families.in_decoder import pictures
from prunesearch.pruning.families.positions import InDecoder
from prunesearch.pruning.families.tower import TOWERS, by_grid, by_stack, deepstack, tower

# decoders whose blocks are alike: `config.model_type` of the text model
_DECODERS = ("llama", "mistral", "qwen2", "qwen3", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "gemma")
_NORMS = ("input_layernorm", "post_attention_layernorm")
_TASKS = ("image-text-to-text",)


def _decoder(config: Any) -> Mapping[str, Any]:
    """What hangs on the decoder inside."""
    text = config.text_config
    return {"layout": _layout(text.model_type), "sizes": text}


def _layout(kind: str) -> PreNorm:
    return PreNorm(kind, *_NORMS, (), (), attention="self_attn", core="self_attn")


def _why_not(config: Any) -> str | None:
    text = config.text_config
    if text.model_type not in _DECODERS:
        return f"its decoder is a '{text.model_type}', and those known are {', '.join(_DECODERS)}"
    kinds = set(getattr(text, "layer_types", None) or ())
    windows = kinds - {"full_attention"} or (not kinds and getattr(text, "sliding_window", None) is not None)
    if windows:
        return "its decoder attends within sliding windows (sliding_window=None must hold)"
    return None


def _of_clip(config: Any) -> Mapping[str, Any]:
    """Beside that: whether the tower's tokens are those of a picture, and how many of its blocks lead to them."""
    vision, layer = config.vision_config.model_type, config.vision_feature_layer
    why = ""
    known = TOWERS.get(vision)
    if known is None:
        why = f"it is a '{vision}'"
    elif (config.vision_feature_select_strategy == "default") != known[1]:
        why = "its tokens are not those of a picture: CLIP's first is none, SigLIP's is"
    elif not isinstance(layer, int) or layer in (0, -1 - config.vision_config.num_hidden_layers):
        why = "the features are not of one of its blocks"
    return {**_decoder(config), **({"whole_tower": why, "tower_at": ""} if why else {"tower_leads": layer})}


def _family(model_type: str, decoder: str = "language_model", **more: Any) -> Family:
    """A row: `decoder` is the path of the decoder from the model without its head."""
    fields: dict[str, Any] = {
        "limits": "stages at input/0 and decoder/K, tokens are dropped; searched, neither trained nor exported",
        "attachments": (pictures(decoder),),
        "by_config": _decoder,
        **more,
    }
    return Family(
        model_type,
        f"{decoder}.layers",
        _layout("llama"),
        "all but tokens of pictures",
        leading=0,
        cls=-1,
        tasks=_TASKS,
        refuses=_why_not,
        positions=InDecoder(),
        part=DECODER,
        merges=False,
        space=Path("pictures"),
        **fields,
    )


_IN_GRIDS = pictures("language_model", frames=by_grid)
_TOWER = "vision_tower"
_TILES = "its projector lays out tiles and rows of a picture, which takes the whole grid"
_SHUFFLED = "its projector joins tokens that are neighbours in the grid, which takes the whole grid"
_MERGED = "its merger joins 2 x 2 neighbours, which takes the whole grid"

VISION_LANGUAGE = (
    _family(
        "llava",
        attachments=(tower(_TOWER), pictures("language_model")),
        tower=True,
        tower_at=_TOWER,
        by_config=_of_clip,
        limits="stages at tower/K, input/0 and decoder/K, tokens are dropped in the decoder; searched, not trained",
    ),
    _family("llava_next", whole_tower=_TILES),
    _family(
        "llava_onevision",
        attachments=(pictures("language_model", frames=by_stack),),
        videos=True,
        whole_tower=_TILES,
    ),
    _family("internvl", whole_tower=_SHUFFLED),
    *(_family(name, attachments=(_IN_GRIDS,), videos=True, whole_tower=_MERGED) for name in ("qwen2_vl", "qwen2_5_vl")),
    _family("qwen3_vl", attachments=(deepstack("language_model"), _IN_GRIDS), videos=True, whole_tower=_MERGED),
    _family(
        "paligemma",
        attachments=(tower(_TOWER), pictures("language_model", makes_masks=True)),
        tower_at=_TOWER,
        limits="stages at tower/K, input/0 and decoder/K, tokens are dropped in the decoder; searched, not trained",
    ),
    _family("idefics3", "text_model", whole_tower=_SHUFFLED),
    _family("smolvlm", "text_model", whole_tower=_SHUFFLED),
)
