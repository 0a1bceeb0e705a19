"""Model families: one row each. What a row cannot say (how a block computes) is a layout in `blocks`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from prunesearch.core.errors import UnsupportedModelError, did_you_mean
from prunesearch.pruning.blocks import BertLike, Layout, PostNorm, PreNorm

_VIT = PreNorm("vit", "layernorm_before", "layernorm_after", ("dropout",), ("dropout",))
_DINO = PreNorm("dinov2", "norm1", "norm2", ("layer_scale1", "drop_path"), ("layer_scale2", "drop_path"))


@dataclass(frozen=True)
class Family:
    """Where the blocks of a model are and which of its tokens are protected.

    Args:
        model_type: `config.model_type` of the transformers class.
        blocks: path of the list of blocks from the base model.
        layout: how a block computes.
        leading: protected tokens at the start of a row; a number, or the config's say.
        trailing: protected tokens at the end of a row.
        cls: place of the CLS token, or None (then CLS scorers use the average query instead).
        mean_head: True if the classification head averages the unprotected tokens next to CLS.
        protects: in words, for people.
    """

    model_type: str
    blocks: str
    layout: Layout
    protects: str
    leading: int | Callable[[Any], int] = 1
    trailing: int = 0
    cls: int | None = 0
    mean_head: bool = False

    def n_leading(self, config: Any) -> int:
        """Protected tokens at the start of a row of a model with this config."""
        return self.leading(config) if callable(self.leading) else self.leading


FAMILIES: dict[str, Family] = {
    row.model_type: row
    for row in (
        Family("vit", "layers", _VIT, "CLS"),
        Family("deit", "layers", _VIT, "CLS, distillation", leading=2),
        Family("dinov2", "encoder.layer", _DINO, "CLS", mean_head=True),
        Family(
            "dinov2_with_registers",
            "encoder.layer",
            _DINO,
            "CLS, registers",
            leading=lambda config: 1 + config.num_register_tokens,
            mean_head=True,
        ),
        Family("bert", "encoder.layer", BertLike(), "CLS, last separator", trailing=1),
        Family("roberta", "encoder.layer", BertLike(), "<s>, last </s>", trailing=1),
        Family("electra", "encoder.layer", BertLike(), "CLS, last separator", trailing=1),
        Family(
            "distilbert",
            "transformer.layer",
            PostNorm("distilbert", "sa_layer_norm", "output_layer_norm"),
            "CLS, last separator",
            trailing=1,
        ),
    )
}

# heads whose forward needs the full grid of tokens back
_NEEDS_GRID = ("ForMaskedImageModeling", "Backbone")
# heads that would silently answer for fewer tokens than they were given
_ANSWERS_EACH_TOKEN = ("ForTokenClassification", "ForMaskedLM", "ForQuestionAnswering", "ForPreTraining")


@dataclass(frozen=True)
class Encoder:
    """A supported encoder found inside a model: its family, its base module and its blocks."""

    family: Family
    base: PreTrainedModel
    blocks: list[nn.Module]
    cores: list[nn.Module]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def leading(self) -> int:
        """Protected tokens at the start of a row."""
        return self.family.n_leading(self.base.config)

    @property
    def protected(self) -> int:
        """Protected tokens of a row without padding."""
        return self.leading + self.family.trailing


def check_model_type(model_type: str) -> None:
    """Raise `UnsupportedModelError`, naming the nearest supported families, if `model_type` is none of them."""
    if model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"model family '{model_type}' is not supported: {did_you_mean(model_type, FAMILIES)}"
        )


def find_encoder(model: nn.Module) -> Encoder:
    """Find the supported encoder in `model`, which may be a transformers model or a module that wraps one.

    Raises:
        UnsupportedModelError: naming the nearest supported families and what stands in the way.
    """
    models = [m for m in model.modules() if isinstance(m, PreTrainedModel)]
    if not models:
        raise UnsupportedModelError(
            f"{type(model).__name__} holds no transformers model: pass a PreTrainedModel or a module around one"
        )
    known = [m for m in models if m.config.model_type in FAMILIES]
    if not known:
        check_model_type(models[0].config.model_type)
    found = known[0]
    name = type(found).__name__
    if name.endswith(_NEEDS_GRID):
        raise UnsupportedModelError(
            f"{name} needs every token back in its place: use the encoder or a classification model of the family"
        )
    if name.endswith(_ANSWERS_EACH_TOKEN):
        raise UnsupportedModelError(
            f"{name} answers for every token, and would for the surviving ones only: apply to its encoder "
            "(model.base_model) with trace=True, and bring the hidden states back with handle.trace.restore"
        )
    if getattr(found.config, "is_decoder", False):
        raise UnsupportedModelError(
            f"{name} is configured as a decoder: tokens can be reduced in encoders only (is_decoder=False)"
        )
    family, base = FAMILIES[found.config.model_type], cast(PreTrainedModel, found.base_model)
    blocks = list(base.get_submodule(family.blocks).children())
    cores = [b.get_submodule(family.layout.core) for b in blocks]
    return Encoder(family, base, blocks, cores)
