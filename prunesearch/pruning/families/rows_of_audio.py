"""Rows of the table of model families: sounds."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from prunesearch.pruning.families.blocks import Layout, PostNorm, PreNorm
from prunesearch.pruning.families.decoder_blocks import Seq2Seq
from prunesearch.pruning.families.decoders import cross_attention, cross_attentions_in_places
from prunesearch.pruning.families.family import Attachment, Family
from prunesearch.pruning.families.native_attention import observe_wavlm
from prunesearch.pruning.families.pooling import frame_mask, mean_head
from prunesearch.pruning.families.positions import FlatBias
from prunesearch.pruning.families.rows_of_vision import VIT

# names of kinds of tasks (`tasks.table`)
_AUDIO = ("audio-classification",)
_WAVES = ("speech-recognition-ctc", "audio-classification")
_VOICES = (*_WAVES, "speaker-verification")
_SPEECH = ("speech-recognition", "audio-classification")


def _wavlm_bias(blocks: list[nn.Module], x: Tensor) -> Tensor:
    bias: Tensor = blocks[0].attention.compute_bias(x.shape[1], x.shape[1])  # type: ignore[union-attr, operator]
    return bias.unsqueeze(0).repeat(len(x), 1, 1, 1).flatten(0, 1)


def _with_bias(x: Tensor, kwargs: dict[str, Any]) -> tuple[Any, ...]:
    return (x, kwargs["position_bias"])


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


AUDIOS = (
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
        refuses=_why_not_frames,
        start="encoder",
        attachments=(
            cross_attention("decoder", each_layer=True),
            cross_attentions_in_places("decoder"),
            mean_head("classifier", source="projector", skips=False),
        ),
    ),
    Family("audio-spectrogram-transformer", "layers", VIT, "CLS, distillation", leading=2, tasks=_AUDIO),
)
