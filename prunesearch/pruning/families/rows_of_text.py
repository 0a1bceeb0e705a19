"""Rows of the table of model families: texts."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from prunesearch.pruning.families.blocks import (
    Albert,
    BertLike,
    InnerNorm,
    PostNorm,
    PreNorm,
)
from prunesearch.pruning.families.decoder_blocks import T5, Seq2Seq
from prunesearch.pruning.families.decoders import cross_attention, end_of_text
from prunesearch.pruning.families.family import Family
from prunesearch.pruning.families.native_attention import observe_deberta, observe_mpnet
from prunesearch.pruning.families.pooling import masked_mean
from prunesearch.pruning.families.positions import (
    Causal,
    DistanceBuckets,
    RotaryWindows,
    SharedBias,
)

# names of kinds of tasks (`tasks.table`)
_TEXT = ("text-classification", "token-classification", "question-answering", "sentence-similarity", "text-retrieval")
_TO_TEXT = ("translation", "summarization")

_CLIP = PreNorm("clip", "layer_norm1", "layer_norm2", (), (), attention="self_attn", core="self_attn")
_MODERNBERT = PreNorm("modernbert", "attn_norm", "mlp_norm", (), (), attention="attn", core="attn")


def _albert_passes(groups: nn.Module, config: Any) -> list[nn.Module]:
    count = config.num_hidden_layers
    which = [int(i / (count / config.num_hidden_groups)) for i in range(count)]
    return [layer for i in which for layer in groups.get_submodule(f"{i}.albert_layers").children()]


def _why_not_deberta(config: Any) -> str | None:
    if not getattr(config, "relative_attention", False):
        return "relative_attention=True must hold"
    if getattr(config, "conv_kernel_size", 0) > 0:
        return "a convolution over its tokens (conv_kernel_size) needs every token in its place"
    return None


def _with_weights(x: Tensor, kwargs: dict[str, Any]) -> tuple[Any, ...]:
    return (x, kwargs.get("weights"))


def _with_weights_on_demand(x: Tensor, kwargs: dict[str, Any]) -> tuple[Any, ...]:
    return (x, kwargs["weights"]) if kwargs.get("output_attentions") else (x,)


def _t5_bias(blocks: list[nn.Module], x: Tensor) -> Tensor:
    attention: Any = blocks[0].get_submodule("layer.0.SelfAttention")
    bias: Tensor = attention.compute_bias(x.shape[1], x.shape[1], device=x.device)
    return bias


def _with_bias_and_cache(x: Tensor, kwargs: dict[str, Any]) -> tuple[Any, ...]:
    return (x, kwargs["position_bias"], None)


_SEPARATED = "CLS, last separator"
TEXTS = (
    Family("bert", "encoder.layer", BertLike(), _SEPARATED, trailing=1, tasks=_TEXT),
    Family("roberta", "encoder.layer", BertLike(), "<s>, last </s>", trailing=1, tasks=_TEXT),
    Family("xlm-roberta", "encoder.layer", BertLike(), "<s>, last </s>", trailing=1, tasks=_TEXT),
    Family("electra", "encoder.layer", BertLike(), _SEPARATED, trailing=1, tasks=_TEXT),
    Family(
        "distilbert",
        "transformer.layer",
        PostNorm("distilbert", "sa_layer_norm", "output_layer_norm"),
        _SEPARATED,
        trailing=1,
        tasks=_TEXT,
    ),
    Family(
        "albert",
        "encoder.albert_layer_groups",
        Albert(),
        _SEPARATED,
        trailing=1,
        tasks=_TEXT,
        limits="a layer of a schedule is a pass through the shared block",
        order=_albert_passes,
        start="encoder",
    ),
    Family(
        "mpnet",
        "encoder.layer",
        InnerNorm("mpnet", core="attention.attn"),
        "<s>, last </s>",
        trailing=1,
        tasks=_TEXT,
        limits="eager attention only, as in transformers",
        positions=SharedBias(),
        positional=("position_bias",),
        returns=_with_weights_on_demand,
        attachments=(observe_mpnet,),
    ),
    Family(
        "deberta-v2",
        "encoder.layer",
        InnerNorm("deberta-v2", core="attention.self"),
        _SEPARATED,
        trailing=1,
        tasks=_TEXT,
        limits="eager attention only, as in transformers; no convolution (v2-xlarge, v2-xxlarge)",
        refuses=_why_not_deberta,
        positions=DistanceBuckets(),
        returns=_with_weights,
        attachments=(observe_deberta,),
    ),
    Family(
        "modernbert",
        "layers",
        _MODERNBERT,
        _SEPARATED,
        trailing=1,
        tasks=_TEXT,
        positions=RotaryWindows(),
        attachments=(masked_mean("head"),),
    ),
    Family(
        "clip_text_model",
        "encoder.layers",
        _CLIP,
        "start, end of text",
        trailing=1,
        cls=-1,
        tasks=("zero-shot-image-classification",),
        limits="pass model.text_model: by default the vision tower is reduced",
        positions=Causal(),
        attachments=(end_of_text,),
        secondary=True,
    ),
    Family(
        "t5",
        "encoder.block",
        T5(),
        "last </s>",
        leading=0,
        trailing=1,
        cls=None,
        tasks=_TO_TEXT,
        positions=SharedBias(_t5_bias),
        positional=("position_bias",),
        returns=_with_bias_and_cache,
        attachments=(cross_attention("decoder"),),
    ),
    Family(
        "bart",
        "encoder.layers",
        Seq2Seq("bart", pre_norm=False),
        "<s>, last </s>",
        trailing=1,
        cls=None,
        tasks=_TO_TEXT,
        start="encoder",
        attachments=(cross_attention("decoder"),),
    ),
    Family(
        "marian",
        "encoder.layers",
        Seq2Seq("bart", pre_norm=False),
        "last </s>",
        leading=0,
        trailing=1,
        cls=None,
        tasks=_TO_TEXT,
        start="encoder",
        attachments=(cross_attention("decoder"),),
    ),
)
