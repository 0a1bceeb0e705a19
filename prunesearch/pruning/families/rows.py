"""The table of model families. `family.Family` says what a row means; `docs/families.md` how to add one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from prunesearch.pruning.families.blocks import (
    Albert,
    Beit,
    BertLike,
    InnerNorm,
    Layout,
    PostNorm,
    PreNorm,
    PreNormOutput,
)
from prunesearch.pruning.families.decoder_blocks import T5, Detr, Seq2Seq
from prunesearch.pruning.families.decoders import between_blocks, cross_attention, end_of_text
from prunesearch.pruning.families.family import GRID, WINDOWS, Attachment, Family
from prunesearch.pruning.families.native_attention import observe_deberta, observe_mpnet, observe_wavlm
from prunesearch.pruning.families.pooling import attention_pool, frame_mask, masked_mean, mean_head
from prunesearch.pruning.families.positions import (
    Causal,
    DistanceBuckets,
    FlatBias,
    GridBias,
    Places,
    RotaryPatches,
    RotaryWindows,
    Rows,
    SharedBias,
)
from prunesearch.pruning.families.timm import TimmBlock, guard_timm, inside_wrapper, observe_timm, pool_timm

# names of kinds of tasks (`tasks.table`); any family also has fidelity, named where it has nothing else
_IMAGE, _NO_HEAD = ("image-classification",), ("fidelity",)
_TEXT = ("text-classification", "token-classification", "question-answering", "sentence-similarity", "text-retrieval")
_VIDEO, _AUDIO = ("video-classification",), ("audio-classification",)
_WAVES = ("speech-recognition-ctc", "audio-classification")
_VOICES = (*_WAVES, "speaker-verification")
_SPEECH = ("speech-recognition", "audio-classification")
_TO_TEXT = ("translation", "summarization")

_VIT = PreNorm("vit", "layernorm_before", "layernorm_after", ("dropout",), ("dropout",))
_DINO = PreNorm("dinov2", "norm1", "norm2", ("layer_scale1", "drop_path"), ("layer_scale2", "drop_path"))
_DINOV3 = PreNorm("dinov3", "norm1", "norm2", ("layer_scale1", "drop_path"), ("layer_scale2", "drop_path"))
_CLIP = PreNorm("clip", "layer_norm1", "layer_norm2", (), (), attention="self_attn", core="self_attn")
_MODERNBERT = PreNorm("modernbert", "attn_norm", "mlp_norm", (), (), attention="attn", core="attn")


def _registers(config: Any) -> int:
    return 1 + int(config.num_register_tokens)


# -- vision ------------------------------------------------------------------------------------------

_VISION = (
    Family("vit", "layers", _VIT, "CLS", tasks=_IMAGE),
    Family("deit", "layers", _VIT, "CLS, distillation", leading=2, tasks=_IMAGE),
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
        _VIT,
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
    Family("vivit", "layers", _VIT, "CLS", tasks=_VIDEO),
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

# -- text --------------------------------------------------------------------------------------------


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


def _with_bias(x: Tensor, kwargs: dict[str, Any]) -> tuple[Any, ...]:
    return (x, kwargs["position_bias"])


def _with_bias_and_cache(x: Tensor, kwargs: dict[str, Any]) -> tuple[Any, ...]:
    return (x, kwargs["position_bias"], None)


_SEPARATED = "CLS, last separator"
_TEXTS = (
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


# -- audio -------------------------------------------------------------------------------------------


def _wavlm_bias(blocks: list[nn.Module], x: Tensor) -> Tensor:
    bias: Tensor = blocks[0].attention.compute_bias(x.shape[1], x.shape[1])  # type: ignore[union-attr, operator]
    return bias.unsqueeze(0).repeat(len(x), 1, 1, 1).flatten(0, 1)


def _frames(kind: str, stable: bool) -> Layout:
    """Blocks of Wav2Vec2 and kin: pre-norm in the large models, post-norm in the base ones."""
    after, mlp = ("dropout",), "feed_forward"
    if stable:
        kind = f"{kind}-stable"
        return PreNorm(kind, "layer_norm", "final_layer_norm", after, (), mlp=mlp, adapter="adapter_layer")
    return PostNorm(kind, "layer_norm", "final_layer_norm", mlp=mlp, after_attention=after)


def _why_not_frames(config: Any) -> str | None:
    if getattr(config, "use_weighted_layer_sum", False):
        return "use_weighted_layer_sum adds up hidden states of different lengths"
    if getattr(config, "add_adapter", False):
        return "the convolutions behind its blocks (add_adapter) need every frame in its place"
    return None


def _speech(
    model_type: str,
    tasks: tuple[str, ...],
    kind: str = "wav2vec2",
    observe: tuple[Attachment, ...] = (),
    **extra: Any,
) -> Family:
    return Family(
        model_type,
        "encoder.layers",
        _frames(kind, stable=False),
        "nothing",
        leading=0,
        cls=None,
        tasks=tasks,
        by_config=lambda config: {"layout": _frames(kind, stable=config.do_stable_layer_norm)},
        refuses=_why_not_frames,
        start="encoder",
        attachments=(mean_head("classifier", source="projector", skips=False), frame_mask, *observe),
        **extra,
    )


_AUDIOS = (
    _speech("wav2vec2", _VOICES, limits="no adapter; a weighted layer sum in speaker-verification alone"),
    _speech("hubert", _WAVES, limits="no adapter, no weighted layer sum"),
    _speech(
        "wavlm",
        _VOICES,
        kind="wavlm",
        observe=(observe_wavlm,),
        limits="as wav2vec2; eager attention only, as in transformers",
        positions=FlatBias(_wavlm_bias),
        returns=_with_bias,
    ),
    Family(
        "whisper",
        "encoder.layers",
        Seq2Seq("whisper", pre_norm=True),
        "nothing",
        leading=0,
        cls=None,
        tasks=_SPEECH,
        limits="token timestamps read from cross-attention are those of the frames left",
        refuses=_why_not_frames,
        start="encoder",
        attachments=(
            cross_attention("decoder", each_layer=True),
            mean_head("classifier", source="projector", skips=False),
        ),
    ),
    Family("audio-spectrogram-transformer", "layers", _VIT, "CLS, distillation", leading=2, tasks=_AUDIO),
)

ROWS: tuple[Family, ...] = (*_VISION, *_TEXTS, *_AUDIOS)

# config of a model around encoders of the table: the one that is reduced
AROUND = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}

_AXES = "it attends over time and space in turn, which needs every token in its place"
_SPARSE = "its attention is sparse by position, which needs every token in its place"
_LIKE_VIT, _LIKE_BERT, _LIKE_VIDEO = ("vit", "dinov2", "beit"), ("bert", "modernbert"), ("videomae", "vivit")
# what to take for a model of no known name, by what its config says it reads
NEAREST: dict[str, tuple[str, ...]] = {
    "num_frames": _LIKE_VIDEO,
    "image_size": _LIKE_VIT,
    "num_mel_bins": ("audio-spectrogram-transformer", "whisper"),
    "conv_dim": ("wav2vec2", "wavlm"),
    "vocab_size": _LIKE_BERT,
}
# families that no row could make work: why, and which to take instead
REFUSED: dict[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(("swin", "swinv2", "sam", "sam_vision_model", "sam_hq", "vitdet"), (WINDOWS, _LIKE_VIT)),
    **dict.fromkeys(("hiera", "pvt", "pvt_v2", "segformer", "mvit"), (GRID, _LIKE_VIT)),
    "timesformer": (_AXES, _LIKE_VIDEO),
    **dict.fromkeys(("longformer", "big_bird"), (_SPARSE, _LIKE_BERT)),
}
