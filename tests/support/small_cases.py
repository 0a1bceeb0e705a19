"""The table of small models: one (or more) of every supported family.

A new row in `prunesearch.pruning.families.rows` needs one line in `CASES`: the class, its config, and what it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import transformers as hf

from tests.support import small_settings as s

PAD, IMAGES, TEXT, VIDEO, WAVES, MEL, PAIRS = 1, "images", "text", "video", "waves", "mel", "text for a decoder"
SAMPLES_A_FRAME = 4
TIMM = "needs an extra that brings a torch of its own: pip install 'prunesearch[timm]'"


@dataclass(frozen=True)
class Case:
    """A model class with a small config.

    `reads` says what, `mlp_in` the first Linear of a block's MLP. `padding` is on the sides that the family can have it
    on; `first_place` is what places of tokens are counted from, None if it is given none; `backends` are the attentions
    it has; `at_full_length` says that it brings its hidden states back, `tells` that it gives the attentions and hidden
    states of every block.
    """

    name: str
    family: str
    make: Callable[[], Any]
    reads: str
    mlp_in: str
    padding: tuple[str, ...] = ()
    first_place: int | None = None
    backends: tuple[str, ...] = ("sdpa", "eager")
    at_full_length: bool = False
    tells: bool = True


def _case(name: str, family: str, cls: str, config: Any, settings: Any, reads: str, mlp_in: str, **more: Any) -> Case:
    def make() -> Any:
        made = config() if callable(config) else getattr(hf, config)(**settings)
        return getattr(hf, cls)(made)

    if reads == TEXT:
        more = {"padding": ("right", "left"), "first_place": 0, **more}
    if reads in (WAVES, PAIRS):
        more = {"padding": ("right",), **more}
    return Case(name, family, make, reads, mlp_in, **more)


def _towers(around: str, text: str, vision: str) -> Callable[[], Any]:
    def make() -> Any:
        parts = {
            "text_config": getattr(hf, text)(**s.CLIP_TEXT),
            "vision_config": getattr(hf, vision)(**s.PICTURE),
        }
        return getattr(hf, around)(**parts, num_labels=3, projection_dim=16)

    return make


def _detr_config() -> Any:
    backbone = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])
    settings = {**s.SEQ2SEQ, "num_queries": 5, "num_labels": 3, "init_xavier_std": 1.0}
    return hf.DetrConfig(use_timm_backbone=False, backbone=None, backbone_config=backbone, **settings)


def _timm(name: str, cls: str, architecture: str, *, fused: bool = True, **settings: Any) -> Case:
    def make() -> Any:
        pytest.importorskip("timm", reason=TIMM)
        config = hf.TimmWrapperConfig(architecture=architecture, num_labels=3, model_args={**s.TIMM, **settings})
        model = getattr(hf, cls)(config)
        for block in model.timm_model.blocks:
            block.attn.fused_attn = fused
        return model

    return Case(name, "timm_wrapper", make, IMAGES, "mlp.fc1", backends=("sdpa",), tells=False)


_DENSE, _FC1 = "intermediate.dense", "mlp.fc1"
_NATIVE = ("eager",)
_TIMM = "TimmWrapperForImageClassification"

CASES: dict[str, Case] = {
    c.name: c
    for c in (
        _case("vit", "vit", "ViTForImageClassification", "ViTConfig", s.PICTURE, IMAGES, _FC1),
        _case("deit", "deit", "DeiTForImageClassification", "DeiTConfig", s.PICTURE, IMAGES, _FC1),
        _case(
            "deit-teacher",
            "deit",
            "DeiTForImageClassificationWithTeacher",
            "DeiTConfig",
            s.PICTURE,
            IMAGES,
            _FC1,
        ),
        _case(
            "beit",
            "beit",
            "BeitForImageClassification",
            "BeitConfig",
            {**s.PICTURE, "use_relative_position_bias": True, "use_mean_pooling": True},
            IMAGES,
            _FC1,
        ),
        _case(
            "beit-shared",
            "beit",
            "BeitForImageClassification",
            "BeitConfig",
            {
                **s.PICTURE,
                "use_shared_relative_position_bias": True,
                "use_mean_pooling": False,
                "layer_scale_init_value": 0.0,
            },
            IMAGES,
            _FC1,
        ),
        _case("dinov2", "dinov2", "Dinov2ForImageClassification", "Dinov2Config", s.DINO, IMAGES, _FC1),
        _case(
            "dinov2-registers",
            "dinov2_with_registers",
            "Dinov2WithRegistersForImageClassification",
            "Dinov2WithRegistersConfig",
            {**s.DINO, "num_register_tokens": 4},
            IMAGES,
            _FC1,
        ),
        _case(
            "dinov3",
            "dinov3_vit",
            "DINOv3ViTModel",
            "DINOv3ViTConfig",
            {**s.PICTURE, "num_register_tokens": 3},
            IMAGES,
            "mlp.up_proj",
        ),
        _case(
            "clip",
            "clip_vision_model",
            "CLIPForImageClassification",
            _towers("CLIPConfig", "CLIPTextConfig", "CLIPVisionConfig"),
            None,
            IMAGES,
            _FC1,
        ),
        _case(
            "siglip",
            "siglip_vision_model",
            "SiglipForImageClassification",
            _towers("SiglipConfig", "SiglipTextConfig", "SiglipVisionConfig"),
            None,
            IMAGES,
            _FC1,
        ),
        _case(
            "siglip-pool",
            "siglip_vision_model",
            "SiglipVisionModel",
            "SiglipVisionConfig",
            s.PICTURE,
            IMAGES,
            _FC1,
        ),
        _case("vit-mae", "vit_mae", "ViTMAEModel", "ViTMAEConfig", {**s.PICTURE, "mask_ratio": 0.25}, IMAGES, _FC1),
        _case(
            "yolos",
            "yolos",
            "YolosForObjectDetection",
            "YolosConfig",
            {
                **s.PICTURE,
                "image_size": [24, 24],
                "num_detection_tokens": 3,
                "use_mid_position_embeddings": True,
            },
            IMAGES,
            _DENSE,
        ),
        _case("detr", "detr", "DetrForObjectDetection", _detr_config, None, IMAGES, _FC1),
        _case(
            "videomae", "videomae", "VideoMAEForVideoClassification", "VideoMAEConfig", s.CLIP_OF_FRAMES, VIDEO, _DENSE
        ),
        _case(
            "vivit",
            "vivit",
            "VivitForVideoClassification",
            "VivitConfig",
            {**s.PICTURE, "num_frames": 4, "tubelet_size": [2, 6, 6]},
            VIDEO,
            _FC1,
        ),
        _case("bert", "bert", "BertForSequenceClassification", "BertConfig", s.WORDS, TEXT, _DENSE),
        _case(
            "roberta",
            "roberta",
            "RobertaForSequenceClassification",
            "RobertaConfig",
            s.WORDS,
            TEXT,
            _DENSE,
            first_place=2,
        ),
        _case(
            "xlm-roberta",
            "xlm-roberta",
            "XLMRobertaForSequenceClassification",
            "XLMRobertaConfig",
            s.WORDS,
            TEXT,
            _DENSE,
            first_place=2,
        ),
        _case("electra", "electra", "ElectraForSequenceClassification", "ElectraConfig", s.WORDS, TEXT, _DENSE),
        _case(
            "distilbert",
            "distilbert",
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            s.DISTIL,
            TEXT,
            "ffn.lin1",
        ),
        _case(
            "albert",
            "albert",
            "AlbertForSequenceClassification",
            "AlbertConfig",
            {**s.WORDS, "embedding_size": 16},
            TEXT,
            "ffn",
        ),
        _case(
            "albert-groups",
            "albert",
            "AlbertForSequenceClassification",
            "AlbertConfig",
            {
                **s.WORDS,
                "embedding_size": 16,
                "num_hidden_layers": 2,
                "num_hidden_groups": 2,
                "inner_group_num": 2,
            },
            TEXT,
            "ffn",
        ),
        _case(
            "mpnet",
            "mpnet",
            "MPNetForSequenceClassification",
            "MPNetConfig",
            s.WORDS,
            TEXT,
            _DENSE,
            first_place=2,
            backends=_NATIVE,
        ),
        _case(
            "deberta",
            "deberta-v2",
            "DebertaV2ForSequenceClassification",
            "DebertaV2Config",
            s.DEBERTA,
            TEXT,
            _DENSE,
            backends=_NATIVE,
        ),
        _case(
            "deberta-unshared",
            "deberta-v2",
            "DebertaV2ForSequenceClassification",
            "DebertaV2Config",
            {**s.DEBERTA, "share_att_key": False, "position_buckets": -1, "norm_rel_ebd": "none"},
            TEXT,
            _DENSE,
            backends=_NATIVE,
        ),
        _case(
            "modernbert",
            "modernbert",
            "ModernBertForSequenceClassification",
            "ModernBertConfig",
            {**s.MODERN, "classifier_pooling": "mean"},
            TEXT,
            "mlp.Wi",
        ),
        _case(
            "modernbert-cls",
            "modernbert",
            "ModernBertForSequenceClassification",
            "ModernBertConfig",
            {**s.MODERN, "classifier_pooling": "cls"},
            TEXT,
            "mlp.Wi",
        ),
        _case(
            "clip-text",
            "clip_text_model",
            "CLIPTextModelWithProjection",
            "CLIPTextConfig",
            s.CLIP_TEXT,
            TEXT,
            _FC1,
            padding=("right",),
            at_full_length=True,
        ),
        _case("t5", "t5", "T5ForConditionalGeneration", "T5Config", s.T5, PAIRS, "layer.1.DenseReluDense.wi"),
        _case("bart", "bart", "BartForConditionalGeneration", "BartConfig", s.BART, PAIRS, "fc1"),
        _case("marian", "marian", "MarianMTModel", "MarianConfig", s.BART, PAIRS, "fc1"),
        _case(
            "wav2vec2",
            "wav2vec2",
            "Wav2Vec2ForSequenceClassification",
            "Wav2Vec2Config",
            s.SOUND,
            WAVES,
            "feed_forward.intermediate_dense",
        ),
        _case(
            "wav2vec2-stable-ctc",
            "wav2vec2",
            "Wav2Vec2ForCTC",
            "Wav2Vec2Config",
            {**s.STABLE, "adapter_attn_dim": 8},
            WAVES,
            "feed_forward.intermediate_dense",
        ),
        _case(
            "hubert",
            "hubert",
            "HubertForSequenceClassification",
            "HubertConfig",
            s.SOUND,
            WAVES,
            "feed_forward.intermediate_dense",
        ),
        _case(
            "wavlm",
            "wavlm",
            "WavLMForSequenceClassification",
            "WavLMConfig",
            {**s.SOUND, **s.WAVLM},
            WAVES,
            "feed_forward.intermediate_dense",
            backends=_NATIVE,
        ),
        _case(
            "wavlm-stable",
            "wavlm",
            "WavLMForCTC",
            "WavLMConfig",
            {**s.STABLE, **s.WAVLM},
            WAVES,
            "feed_forward.intermediate_dense",
            backends=_NATIVE,
        ),
        _case("whisper", "whisper", "WhisperForConditionalGeneration", "WhisperConfig", s.WHISPER, MEL, "fc1"),
        _case("whisper-audio", "whisper", "WhisperForAudioClassification", "WhisperConfig", s.WHISPER, MEL, "fc1"),
        _case(
            "ast",
            "audio-spectrogram-transformer",
            "ASTForAudioClassification",
            "ASTConfig",
            {
                **s.SIZE,
                "patch_size": 6,
                "max_length": 26,
                "num_mel_bins": 14,
                "frequency_stride": 4,
                "time_stride": 5,
            },
            MEL,
            _FC1,
        ),
        _timm("timm-map", "TimmWrapperModel", "vit_tiny_patch16_224", class_token=False, global_pool="map"),
        _timm("timm-avg", _TIMM, "vit_tiny_patch16_224", class_token=False, global_pool="avg", reg_tokens=2),
        _timm("timm-post", _TIMM, "vit_base_patch16_rpn_224", fused=False),
        _timm("timm-eva", _TIMM, "eva02_tiny_patch14_224"),
        _timm("timm-dinov3", _TIMM, "vit_small_patch16_dinov3", global_pool="avgmax"),
        _timm("timm-distilled", _TIMM, "deit_tiny_distilled_patch16_224"),
        _timm("timm", _TIMM, "vit_tiny_patch16_224", qk_norm=True, init_values=1.0, pre_norm=True),
    )
}
# what computes more than blocks, patch convolutions and linear layers on one token: the closed form of MACs and the
# account of memory by shape alone are not exact for these (decoders, stems of sound, tables that a model keeps)
_MORE = {"beit", "beit-shared", "dinov3", "siglip", "siglip-pool", "vit-mae", "yolos", "detr", "deberta"}
_MORE |= {"deberta-unshared", "videomae", "timm-map"}
# without a CLS token its scorers look at all rows; Eva projects values once more for a stage
_MORE |= {"timm-avg", "timm-post", "timm-eva"} | {
    name for name, case in CASES.items() if case.reads in (PAIRS, WAVES, MEL) and name != "ast"
}
LOOKS_AT_VALUES = ("detr", "deberta", "deberta-unshared", "bart", "marian")  # shapes do not tell their kernels
PLAIN = [name for name in CASES if name not in _MORE]
BACKENDS = [(c.name, backend) for c in CASES.values() for backend in c.backends]
