"""Rows of the table of model families: images and videos."""

from __future__ import annotations

from typing import Any

from prunesearch.pruning.families.blocks import (
    Beit,
    PreNorm,
    PreNormOutput,
)
from prunesearch.pruning.families.decoder_blocks import Detr
from prunesearch.pruning.families.decoders import between_blocks, cross_attention
from prunesearch.pruning.families.family import Family
from prunesearch.pruning.families.pooling import attention_pool, mean_head
from prunesearch.pruning.families.positions import (
    GridBias,
    Places,
    RotaryPatches,
    Rows,
)
from prunesearch.pruning.families.timm import TimmBlock, guard_timm, inside_wrapper, observe_timm, pool_timm

# names of kinds of tasks (`tasks.table`)
_IMAGE, _NO_HEAD = ("image-classification",), ("fidelity",)
_VIDEO = ("video-classification",)

VIT = PreNorm("vit", "layernorm_before", "layernorm_after", ("dropout",), ("dropout",))
_DINO = PreNorm("dinov2", "norm1", "norm2", ("layer_scale1", "drop_path"), ("layer_scale2", "drop_path"))
_DINOV3 = PreNorm("dinov3", "norm1", "norm2", ("layer_scale1", "drop_path"), ("layer_scale2", "drop_path"))
_CLIP = PreNorm("clip", "layer_norm1", "layer_norm2", (), (), attention="self_attn", core="self_attn")


def _registers(config: Any) -> int:
    return 1 + int(config.num_register_tokens)


VISION = (
    Family("vit", "layers", VIT, "CLS", tasks=_IMAGE),
    Family("deit", "layers", VIT, "CLS, distillation", leading=2, tasks=_IMAGE),
    Family(
        "beit",
        "layers",
        Beit(),
        "CLS",
        tasks=_IMAGE,
        positions=GridBias(),
        attachments=(mean_head("pooler.layernorm", source="layernorm"),),
    ),
    Family(
        "dinov2", "encoder.layer", _DINO, "CLS", tasks=_IMAGE, attachments=(mean_head("classifier", beside_cls=True),)
    ),
    Family(
        "dinov2_with_registers",
        "encoder.layer",
        _DINO,
        "CLS, registers",
        leading=_registers,
        tasks=_IMAGE,
        attachments=(mean_head("classifier", beside_cls=True),),
    ),
    Family(
        "dinov3_vit",
        "model.layer",
        _DINOV3,
        "CLS, registers",
        leading=_registers,
        tasks=_NO_HEAD,
        positions=RotaryPatches(),
    ),
    Family(
        "clip_vision_model",
        "encoder.layers",
        _CLIP,
        "CLS",
        tasks=("zero-shot-image-classification", *_IMAGE),
        attachments=(mean_head("classifier"),),
    ),
    Family(
        "siglip_vision_model",
        "encoder.layers",
        _CLIP,
        "nothing",
        leading=0,
        cls=None,
        tasks=("zero-shot-image-classification", *_IMAGE),
        attachments=(mean_head("classifier", skips=False), attention_pool("head.attention")),
    ),
    Family(
        "vit_mae",
        "layers",
        VIT,
        "CLS",
        tasks=_NO_HEAD,
        limits="the encoder alone; it masks at random unless mask_ratio=0",
    ),
    Family(
        "yolos",
        "encoder.layer",
        PreNormOutput("vit_output"),
        "CLS, detection tokens",
        tasks=("object-detection",),
        by_config=lambda config: {"trailing": int(config.num_detection_tokens)},
        positions=Places(),
        attachments=(between_blocks,),
    ),
    Family(
        "detr",
        "encoder.layers",
        Detr(),
        "nothing",
        leading=0,
        cls=None,
        tasks=("object-detection",),
        limits="the encoder is reduced, not the convolutional backbone; no segmentation",
        positions=Rows("spatial_position_embeddings"),
        attachments=(cross_attention("decoder"),),
    ),
    Family(
        "videomae",
        "encoder.layer",
        PreNormOutput("vit_output"),
        "nothing (without mean pooling: the first token)",
        cls=None,
        tasks=_VIDEO,
        by_config=lambda config: {"leading": 0 if config.use_mean_pooling else 1},
        attachments=(mean_head("fc_norm", skips=False),),
    ),
    Family("vivit", "layers", VIT, "CLS", tasks=_VIDEO),
    Family(
        "timm_wrapper",
        "timm_model.blocks",
        TimmBlock("timm"),
        "CLS, distillation, registers",
        tasks=_IMAGE,
        limits="timm's VisionTransformer (vit_*, deit_*) and Eva (eva02_*, vit_*_dinov3); needs prunesearch[timm]",
        attachments=(observe_timm, pool_timm, guard_timm),
        wraps=inside_wrapper,
    ),
)
