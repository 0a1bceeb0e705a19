"""Models for measuring alone: from a configuration, with random weights, since time does not depend on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.tables.registry import ATTENTIONS
from prunesearch.pruning.families.find import check_model_type, find_encoder
from prunesearch.tasks.batching.batches import Inputs
from prunesearch.tasks.data.sources import one_line
from prunesearch.tasks.kinds.audio import samples_for
from prunesearch.tasks.loading import accepted, load_config, to_device
from prunesearch.tasks.table import SHAPES

DEFAULT_LENGTH = 128  # tokens of a text where nobody says
_FRAMES_A_TOKEN = 2  # of a spectrogram, as Whisper's convolutions stride
# what a shape is built with, the first that fits: what takes most models of its kind
_HEADS: tuple[Any, ...] = (
    transformers.AutoModelForImageClassification,
    transformers.AutoModelForVideoClassification,
    transformers.AutoModelForObjectDetection,
    transformers.AutoModelForSpeechSeq2Seq,
    transformers.AutoModelForSeq2SeqLM,
    transformers.AutoModelForSequenceClassification,
    transformers.AutoModelForAudioClassification,
    transformers.AutoModelForCTC,
    transformers.AutoModelForAudioXVector,
)


def _vit(width: int, heads: int) -> Any:
    sizes: dict[str, Any] = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width}
    return transformers.ViTConfig(**{**sizes, "num_labels": 1000})


def deit_tiny() -> Any:
    """DeiT-Ti without distillation, which is a ViT (Touvron 2021)."""
    return _vit(192, 3)


def deit_small() -> Any:
    """DeiT-S without distillation."""
    return _vit(384, 6)


def vit_base() -> Any:
    """ViT-B/16 (Dosovitskiy 2021)."""
    return _vit(768, 12)


def bert_base() -> Any:
    """BERT-Base (Devlin 2019)."""
    return transformers.BertConfig()


def minilm_l6() -> Any:
    """MiniLM of six layers, 384 wide (Wang 2020)."""
    return transformers.BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)


def shape_config(model: str) -> Any:
    """The configuration of a name in `SHAPES`, a model folder, or a Hub id (its config.json alone is fetched).

    Raises:
        PruneSearchError: naming the nearest built-in shape where nothing of that name can be read.
        UnsupportedModelError: if the family cannot be reduced.
    """
    if model in SHAPES:
        return SHAPES[model]()
    try:
        config = load_config(model)
    except PruneSearchError as error:
        if "/" in model or Path(model).exists():
            raise
        raise PruneSearchError(
            f"model '{model}' is no folder, Hub id or built-in shape: {did_you_mean(model, SHAPES)}"
        ) from error
    check_model_type(config.model_type)
    return config


def load_shape(
    model: str,
    *,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Build the model of a shape (see `shape_config`) with random weights, in eval mode.

    Its head is the checkpoint's own where `_HEADS` has it, else the first of them that this kind of model has.

    Args:
        model: a name in `SHAPES`, a folder or a Hub id.
        attention: sdpa, eager or a flash kernel that transformers knows.
        dtype: of the weights.
        device: `meta` builds it without any memory.

    Raises:
        PruneSearchError: if it cannot be built that way, or its encoder not be reduced.
    """
    built = build_shape(model, attention=attention, dtype=dtype, device=device)
    find_encoder(built)
    return built.eval().requires_grad_(False)


def build_shape(
    model: str,
    *,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """As `load_shape`, of any model that is known, as it is built."""
    config = shape_config(model)
    # a backbone of convolutions has no attention to choose
    chosen: Any = {"": attention} if hasattr(config, "backbone_config") else attention
    try:
        with torch.device(device):
            built: nn.Module = _head_of(config).from_config(config, attn_implementation=chosen, dtype=dtype)
    except (ValueError, ImportError) as error:
        others = " or ".join(name for name, row in ATTENTIONS.entries().items() if row.target != attention)
        raise PruneSearchError(
            f"'{model}' cannot be built with attention {attention} ({one_line(error)}): use --attn {others}"
        ) from error
    return built


def _head_of(config: Any) -> Any:
    """transformers' class that builds a model of this configuration with a head."""
    able = {auto: auto._model_mapping[type(config)] for auto in _HEADS if type(config) in auto._model_mapping}
    own = [auto for auto, made in able.items() if set(_names(made)) & set(config.architectures or ())]
    return next(iter([*own, *able, transformers.AutoModel]))


def _names(made: Any) -> list[str]:
    """Names of the classes that a row of transformers' has: one, or several."""
    return [one.__name__ for one in (made if isinstance(made, tuple) else (made,))]


def random_inputs(model: nn.Module, rows: int, length: int | None = None, seed: int = 0) -> Inputs:
    """A batch of `rows` random inputs of the kind that the model reads, without padding, on its device.

    Texts, and sounds that are read as waves, have `length` tokens; a decoder is given the token it starts from.

    Raises:
        PruneSearchError: for a text longer than the model's positions, a length for a model that has its own, or a
            model of images of any size.
    """
    encoder = find_encoder(model)
    config, weight = encoder.sizes, next(encoder.base.parameters())
    generator = torch.Generator().manual_seed(seed)
    name = str(getattr(model, "main_input_name", "input_ids"))
    if name == "input_ids":
        inputs = _texts(config, rows, DEFAULT_LENGTH if length is None else length, generator)
    else:
        inputs = {name: torch.randn(rows, *_extent(config, name, length), generator=generator)}
    start = getattr(config, "decoder_start_token_id", None)
    if start is not None:
        first = torch.full((rows, 1), int(start))
        inputs |= {"decoder_input_ids": first, "decoder_attention_mask": torch.ones_like(first)}
    return to_device(accepted(model, inputs), weight.device, weight.dtype)


def _texts(config: Any, rows: int, tokens: int, generator: torch.Generator) -> Inputs:
    most = getattr(config, "max_position_embeddings", None)  # T5 has no end
    if tokens < 8 or (most is not None and tokens > most):
        limit = "" if most is None else f" <= {most}"
        raise PruneSearchError(f"`8 <= length{limit}` must hold for this model, but got {tokens}")
    ids = torch.randint(1, config.vocab_size, (rows, tokens), generator=generator)
    if config.is_encoder_decoder and isinstance(config.eos_token_id, int):  # classifiers look for the one at the end
        ids = ids.masked_fill(ids == config.eos_token_id, (config.eos_token_id + 1) % config.vocab_size)
        ids[:, -1] = config.eos_token_id
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _extent(config: Any, name: str, length: int | None) -> tuple[int, ...]:
    """The extent of one row of images, videos, spectrograms `[mel, frames]` or waves."""
    if hasattr(config, "conv_stride"):
        return (samples_for(config, DEFAULT_LENGTH if length is None else length),)
    if length is not None:
        raise PruneSearchError(f"this model has its own number of tokens, but got length {length}: leave it out")
    if name == "input_features":
        return config.num_mel_bins, _FRAMES_A_TOKEN * config.max_source_positions
    if name == "input_values":
        return config.max_length, config.num_mel_bins
    if not hasattr(config, "image_size"):
        raise PruneSearchError(
            f"images of {type(config).__name__} have no size of their own: measure it with its data, in a run"
        )
    frames = (config.num_frames,) if hasattr(config, "num_frames") else ()
    return *frames, config.num_channels, *_pair(config.image_size)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
