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
from prunesearch.pruning.families.tower import by_grid, by_stack, deepstack, tower

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


def _family(model_type: str, decoder: str = "language_model", **more: Any) -> Family:
    """A row: `decoder` is the path of the decoder from the model without its head."""
    fields: dict[str, Any] = {
        "limits": "stages at input/0 and decoder/K, tokens are dropped; searched, neither trained nor exported",
        "attachments": (pictures(decoder),),
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
        by_config=_decoder,
        refuses=_why_not,
        positions=InDecoder(),
        part=DECODER,
        merges=False,
        space=Path("pictures"),
        **fields,
    )


_IN_GRIDS = pictures("language_model", frames=by_grid)
VISION_LANGUAGE = (
    _family("llava", attachments=(tower("vision_tower"), pictures("language_model")), tower=True),
    _family("llava_next"),
    _family("llava_onevision", attachments=(pictures("language_model", frames=by_stack),), videos=True),
    _family("internvl"),
    *(_family(name, attachments=(_IN_GRIDS,), videos=True) for name in ("qwen2_vl", "qwen2_5_vl")),
    _family("qwen3_vl", attachments=(deepstack("language_model"), _IN_GRIDS), videos=True),
    _family("paligemma", attachments=(pictures("language_model", makes_masks=True),)),
    _family("idefics3", "text_model"),
    _family("smolvlm", "text_model"),
)
