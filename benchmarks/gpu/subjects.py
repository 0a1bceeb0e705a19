"""The models whose speed is measured, with random weights (time does not depend on them), and their schedules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from gpu.stand import Stand
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.shape import Shape

Inputs = dict[str, Tensor]
_SMALL = {"num_hidden_layers": 4, "intermediate_size": 64, "hidden_size": 32, "num_attention_heads": 2}


@dataclass(frozen=True)
class Subject:
    """A model and what it reads.

    Attributes:
        make: the model, given whether it is to be small.
        reads: the inputs of some rows for such a model.
        scorer: what its tokens are scored by: CLS attention where CLS is read off, else that received.
        tome: its blocks are those that ToMe's formula is stated for (`papers.py`).
    """

    make: Callable[[bool], Any]
    reads: Callable[[Any, int], Inputs]
    scorer: str = "cls_attention"
    tome: bool = False

    def build(self, stand: Stand, dtype: torch.dtype | None = None, attention: str = "sdpa") -> Any:
        """The model, on the stand's device, in eval mode; the same weights every time."""
        torch.manual_seed(0)
        with torch.device(stand.device):
            model = self.make(stand.stand_in)
        model.set_attn_implementation(attention)
        return model.to(dtype or stand.dtypes[0]).eval().requires_grad_(False)

    def inputs(self, model: Any, rows: int) -> Inputs:
        """Random rows without padding, as the model wants them."""
        weight = next(model.parameters())
        torch.manual_seed(rows)
        found = self.reads(model.config, rows)
        return {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else value.dtype)
            for name, value in found.items()
        }


def _images(config: Any, rows: int) -> Inputs:
    return {"pixel_values": torch.randn(rows, 3, config.image_size, config.image_size)}


def _texts(config: Any, rows: int) -> Inputs:
    return {"input_ids": torch.randint(5, config.vocab_size, (rows, min(128, config.max_position_embeddings)))}


def _mel(config: Any, rows: int) -> Inputs:
    return {"input_features": torch.randn(rows, config.num_mel_bins, 2 * config.max_source_positions)}


def _vit(width: int, depth: int = 12) -> Callable[[bool], Any]:
    real = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": width // 64}
    real |= {"intermediate_size": 4 * width}

    def make(small: bool) -> Any:
        sizes = {**_SMALL, "image_size": 32, "patch_size": 8} if small else real
        return hf.ViTForImageClassification(hf.ViTConfig(**sizes, num_labels=100))

    return make


def _dinov2(width: int) -> Callable[[bool], Any]:
    real = {"hidden_size": width, "num_attention_heads": width // 64, "image_size": 224, "patch_size": 14}

    def make(small: bool) -> Any:
        fewer = {k: v for k, v in _SMALL.items() if k != "intermediate_size"} | {"image_size": 28, "patch_size": 7}
        return hf.Dinov2ForImageClassification(hf.Dinov2Config(**(fewer if small else real), num_labels=100))

    return make


def _bert(small: bool) -> Any:
    sizes = {**_SMALL, "vocab_size": 99, "max_position_embeddings": 32} if small else {}
    return hf.BertForSequenceClassification(hf.BertConfig(**sizes))


def _whisper(small: bool) -> Any:
    """Whisper small's encoder, 1,500 tokens, with a classifier behind it."""
    width, depth, heads, places = (32, 4, 2, 30) if small else (768, 12, 12, 1500)
    sizes = {"d_model": width, "encoder_layers": depth, "encoder_attention_heads": heads, "encoder_ffn_dim": 4 * width}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": heads, "decoder_ffn_dim": 4 * width}
    config = hf.WhisperConfig(**sizes, **decoder, max_source_positions=places)
    return hf.WhisperForAudioClassification(config)


# DeiT without distillation is a ViT; in order of how much people want to know
SUBJECTS: dict[str, Subject] = {
    "deit-small": Subject(_vit(384), _images, tome=True),
    "bert-base": Subject(_bert, _texts),
    "deit-base": Subject(_vit(768), _images, tome=True),
    "vit-large": Subject(_vit(1024, 24), _images, tome=True),
    "whisper-small": Subject(_whisper, _mel, "attention_received"),
    "dinov2-base": Subject(_dinov2(768), _images),
    "dinov2-small": Subject(_dinov2(384), _images),
    "deit-tiny": Subject(_vit(192), _images, tome=True),
}


def three_stages(depth: int, method: tuple[str, str]) -> Schedule:
    """Keeps 70, 49 and 34 % of the tokens at a quarter, half and three quarters: EViT's and DynamicViT's sites."""
    places = [depth // 4, depth // 2, 3 * depth // 4]
    return Schedule([Stage(at, keep, *method) for at, keep in zip(places, (0.7, 0.49, 0.343), strict=True)])


def constant_r(shape: Shape) -> tuple[int, Schedule]:
    """ToMe's: as many tokens merged in every block, 13 of 197 (its own choice for ViT-S), scaled to the tokens."""
    reducible = shape.tokens - shape.protected
    r = max(1, round(13 / 196 * reducible))
    r = min(r, (reducible - 1) // shape.depth)
    keeps = [(reducible - r * (block + 1)) / reducible for block in range(shape.depth)]
    return r, Schedule([Stage(block, keep, merge="bipartite") for block, keep in enumerate(keeps)])


def schedules(subject: Subject, shape: Shape) -> dict[str, Schedule]:
    """What is timed of a model: dropping and fusing at three sites, the cheapest there is, and ToMe's."""
    depth = shape.depth
    return {
        "unpruned": Schedule(),
        "drop": three_stages(depth, (subject.scorer, "drop")),
        "fuse": three_stages(depth, (subject.scorer, "fuse")),
        "stride": three_stages(depth, ("position_stride", "drop")),
        "bipartite": constant_r(shape)[1],
    }
