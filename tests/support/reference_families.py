"""What a block of each family computes and where its weights are, for the slow encoders of `reference_models`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.support.reference_models import (
    Maths,
    beit_bias,
    causal,
    deberta_bias,
    detr_beside,
    dinov3_turn,
    eva_turn,
    modernbert_turn,
    mpnet_bias,
    t5_bias,
    timm_dinov3_turn,
    wavlm_bias,
    window,
    yolos_between,
)

_PROJ = ("q_proj", "k_proj", "v_proj")


def _of(prefix: str, names: tuple[str, ...]) -> Any:
    return tuple(f"{prefix}.{name}" for name in names)


_VIT = Maths(
    _of("attention", _PROJ), "attention.o_proj", ("layernorm_before", "layernorm_after"), ("mlp.fc1", "mlp.fc2"),
    pre_norm=True, eps=1e-12,
)  # fmt: skip
_DINO = replace(_VIT, norms=("norm1", "norm2"), scales=("layer_scale1.lambda1", "layer_scale2.lambda1"), eps=1e-6)
_CLIP = replace(
    _VIT, qkv=_of("self_attn", _PROJ), out="self_attn.out_proj", norms=("layer_norm1", "layer_norm2"),
    act="quick_gelu", eps=1e-5,
)  # fmt: skip
_VIDEOMAE = replace(
    _VIT, qkv=_of("attention.attention", ("query", "key", "value")), out="attention.output.dense",
    mlp=("intermediate.dense", "output.dense"),
)  # fmt: skip
_BERT = Maths(
    _of("attention.self", ("query", "key", "value")), "attention.output.dense",
    ("attention.output.LayerNorm", "output.LayerNorm"), ("intermediate.dense", "output.dense"),
    pre_norm=False, eps=1e-12, trailing=1,
)  # fmt: skip
_BART = Maths(
    _of("self_attn", _PROJ), "self_attn.out_proj", ("self_attn_layer_norm", "final_layer_norm"), ("fc1", "fc2"),
    pre_norm=False, trailing=1, cls=None,
)  # fmt: skip
_SPEECH = Maths(
    _of("attention", _PROJ), "attention.out_proj", ("layer_norm", "final_layer_norm"),
    ("feed_forward.intermediate_dense", "feed_forward.output_dense"), pre_norm=False, leading=0, cls=None,
)  # fmt: skip
_DEBERTA = replace(
    _BERT, qkv=_of("attention.self", ("query_proj", "key_proj", "value_proj")), eps=1e-7,
    scaling=(3 * 16) ** -0.5, bias=deberta_bias,
)  # fmt: skip
_MODERNBERT = Maths(
    ("Wqkv:attn.Wqkv",) * 3, "attn.Wo", ("attn_norm", "mlp_norm"), ("mlp.Wi", "mlp.Wo"), pre_norm=True, trailing=1,
    gated=True, bias=window, turn=modernbert_turn,
)  # fmt: skip
_BEIT = replace(_VIT, scales=("lambda_1", "lambda_2"), bias=beit_bias)
_SIGLIP = replace(_CLIP, act="gelu_tanh", eps=1e-6, leading=0, cls=None)

_TIMM = Maths(
    ("Wqkv:attn.qkv",) * 3, "attn.proj", ("norm1", "norm2"), ("mlp.fc1", "mlp.fc2"), pre_norm=True, eps=1e-6,
    scales=("ls1.gamma", "ls2.gamma"), head_norms=("attn.q_norm", "attn.k_norm"),
)  # fmt: skip

MATHS: dict[str, Maths] = {
    "vit": _VIT,
    "deit": replace(_VIT, leading=2),
    "deit-teacher": replace(_VIT, leading=2),
    "beit": _BEIT,
    "beit-shared": _BEIT,
    "dinov2": _DINO,
    "dinov2-registers": replace(_DINO, leading=5),
    "dinov3": replace(_DINO, mlp=("mlp.up_proj", "mlp.down_proj"), eps=1e-5, leading=4, turn=dinov3_turn),
    "clip": _CLIP,
    "siglip": _SIGLIP,
    "siglip-pool": _SIGLIP,
    "vit-mae": _VIT,
    "yolos": replace(_VIDEOMAE, trailing=3, between=yolos_between),
    "detr": replace(
        _BART, out="self_attn.o_proj", mlp=("mlp.fc1", "mlp.fc2"), act="relu", leading=0, trailing=0, beside=detr_beside
    ),
    "videomae": replace(_VIDEOMAE, leading=0, cls=None),
    "vivit": replace(_VIT, act="gelu_fast", eps=1e-6),
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "distilbert": replace(
        _BERT, qkv=_of("attention", ("q_lin", "k_lin", "v_lin")), out="attention.out_lin",
        norms=("sa_layer_norm", "output_layer_norm"), mlp=("ffn.lin1", "ffn.lin2"),
    ),
    "albert": replace(
        _BERT, qkv=_of("attention", ("query", "key", "value")), out="attention.dense",
        norms=("attention.LayerNorm", "full_layer_layer_norm"), mlp=("ffn", "ffn_output"), act="gelu_tanh",
    ),
    "mpnet": replace(
        _BERT, qkv=_of("attention.attn", ("q", "k", "v")), out="attention.attn.o",
        norms=("attention.LayerNorm", "output.LayerNorm"), bias=mpnet_bias,
    ),
    "deberta": _DEBERTA,
    "deberta-unshared": _DEBERTA,
    "modernbert": _MODERNBERT,
    "modernbert-cls": _MODERNBERT,
    "clip-text": replace(_CLIP, trailing=1, cls=-1, bias=causal),
    "t5": Maths(
        _of("layer.0.SelfAttention", ("q", "k", "v")), "layer.0.SelfAttention.o",
        ("layer.0.layer_norm", "layer.1.layer_norm"), ("layer.1.DenseReluDense.wi", "layer.1.DenseReluDense.wo"),
        pre_norm=True, act="relu", eps=1e-6, leading=0, trailing=1, cls=None, scaling=1.0, rms=True, bias=t5_bias,
    ),
    "bart": _BART,
    "marian": replace(_BART, leading=0),
    "wav2vec2": _SPEECH,
    "wav2vec2-stable-ctc": replace(_SPEECH, pre_norm=True, adapter=True),
    "hubert": _SPEECH,
    "wavlm": replace(_SPEECH, bias=wavlm_bias),
    "wavlm-stable": replace(_SPEECH, pre_norm=True, bias=wavlm_bias),
    "whisper": replace(_BART, pre_norm=True, leading=0, trailing=0),
    "whisper-audio": replace(_BART, pre_norm=True, leading=0, trailing=0),
    "ast": replace(_VIT, leading=2),
    "timm": _TIMM,
    "timm-distilled": replace(_TIMM, leading=2),
    "timm-avg": replace(_TIMM, leading=2, cls=None),
    "timm-map": replace(_TIMM, leading=0, cls=None),
    "timm-post": replace(_TIMM, leading=0, cls=None, pre_norm=False, norm_on_branch=True),
    "timm-eva": replace(_TIMM, act="silu", gated=True, turn=eva_turn),
    "timm-dinov3": replace(_TIMM, leading=5, scales=("gamma_1", "gamma_2"), eps=1e-5, turn=timm_dinov3_turn),
}  # fmt: skip
MATHS["albert-groups"] = MATHS["albert"]
