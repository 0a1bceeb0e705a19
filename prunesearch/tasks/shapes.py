"""Models for measuring alone: from a configuration, with random weights, since time does not depend on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.pruning.families.find import check_model_type, find_encoder
from prunesearch.tasks.batching.batches import Inputs
from prunesearch.tasks.data.sources import one_line
from prunesearch.tasks.loading import load_config, to_device
from prunesearch.tasks.table import SHAPES

DEFAULT_LENGTH = 128  # tokens of a text where nobody says


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
    """Build the classifier of a shape (see `shape_config`) with random weights, in eval mode.

    Args:
        model: a name in `SHAPES`, a folder or a Hub id.
        attention: sdpa, eager or a flash kernel that transformers knows.
        dtype: of the weights.
        device: `meta` builds it without any memory.

    Raises:
        PruneSearchError: if it cannot be built that way.
    """
    config = shape_config(model)
    auto = (
        transformers.AutoModelForImageClassification
        if hasattr(config, "image_size") or type(config) in transformers.AutoModelForImageClassification._model_mapping
        else transformers.AutoModelForSequenceClassification
    )
    try:
        with torch.device(device):
            built: nn.Module = auto.from_config(  # type: ignore[no-untyped-call]
                config, attn_implementation=attention, dtype=dtype
            )
    except (ValueError, ImportError) as error:
        raise PruneSearchError(
            f"'{model}' cannot be built with attention {attention} ({one_line(error)}): use --attn sdpa"
        ) from error
    find_encoder(built)
    return built.eval().requires_grad_(False)


def random_inputs(model: nn.Module, rows: int, length: int | None = None, seed: int = 0) -> Inputs:
    """A batch of `rows` random images, or of texts of `length` tokens without padding, on the model's device.

    Raises:
        PruneSearchError: for a text longer than the model's positions, or a length for an image model.
    """
    encoder = find_encoder(model)
    config, weight = encoder.sizes, next(encoder.base.parameters())
    generator = torch.Generator().manual_seed(seed)
    if hasattr(config, "image_size"):
        if length is not None:
            raise PruneSearchError(
                f"an image model has its own number of tokens, but got length {length}: leave it out"
            )
        height, width = _pair(config.image_size)
        inputs: dict[str, Tensor] = {
            "pixel_values": torch.randn(rows, config.num_channels, height, width, generator=generator)
        }
    else:
        tokens = DEFAULT_LENGTH if length is None else length
        if not 8 <= tokens <= config.max_position_embeddings:
            raise PruneSearchError(
                f"`8 <= length <= {config.max_position_embeddings}` must hold for this model, but got {tokens}"
            )
        ids = torch.randint(1, config.vocab_size, (rows, tokens), generator=generator)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return to_device(inputs, weight.device, weight.dtype)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
