"""What of a model decides its cost, and under what conditions a cost holds: what tables are keyed by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from prunesearch.cost.devices.device import process_conditions
from prunesearch.pruning.apply import Handle

# The key of a block: models that agree in these have blocks that cost the same.
BLOCK_KEY = ("kind", "width", "heads", "mlp_width", "activation")


class Record(BaseModel):
    """A part of a file: no unknown keys."""

    model_config = ConfigDict(extra="forbid")


class Shape(Record):
    """What of a model decides its cost. `kind`: how a block computes; `mlp_width`: hidden units of its MLP."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str
    kind: str
    depth: int = Field(ge=1)
    tokens: int = Field(ge=1)
    protected: int = Field(ge=0)
    width: int = Field(ge=1)
    heads: int = Field(ge=1)
    mlp_width: int = Field(ge=1)
    activation: str

    @property
    def block(self) -> tuple[str | int, ...]:
        """What models must agree in for their blocks to cost the same: the values of `BLOCK_KEY`."""
        return tuple(getattr(self, name) for name in BLOCK_KEY)

    def describe(self) -> str:
        """`vit, width 384, 6 heads, MLP 1536, gelu`."""
        return f"{self.kind}, width {self.width}, {self.heads} heads, MLP {self.mlp_width}, {self.activation}"


def device_of(inputs: Mapping[str, Tensor]) -> torch.device:
    """The device that a batch lies on."""
    return next(iter(inputs.values())).device


def block_weights(block: nn.Module) -> int:
    """Weights of all linear layers of a block: its MACs per token, attention's products of tokens apart."""
    return sum(m.weight.numel() for m in block.modules() if isinstance(m, nn.Linear))


_ACTIVATIONS = ("hidden_act", "activation", "activation_function", "hidden_activation", "dense_act_fn")


def conditions_of(
    handle: Handle, inputs: Mapping[str, Tensor], tokens: int, mode: str = "eager", concurrency: int = 1
) -> dict[str, Any]:
    """The conditions that a latency holds under, for `CostTable.check_conditions`."""
    base, device = handle.encoder.base, device_of(inputs)
    return {
        "batch_size": len(next(iter(inputs.values()))),
        "dtype": str(next(base.parameters()).dtype).removeprefix("torch."),
        "attention": str(base.config._attn_implementation).removeprefix("prunesearch_"),
        "mode": mode,
        "concurrency": concurrency,
        **process_conditions(device),
        "tokens": tokens,
        "device": device.type,
    }


def describe_shape(model: nn.Module, handle: Handle, inputs: Mapping[str, Tensor]) -> Shape:
    """The shape of `model` as it runs on `inputs`; runs one forward."""
    encoder = handle.encoder
    with torch.inference_mode(), handle.record_inputs() as hidden:
        model(**inputs)
        _, tokens, width = hidden[0].shape
    return Shape(
        family=encoder.family.model_type,
        kind=encoder.family.layout.kind,
        depth=encoder.depth,
        tokens=tokens,
        protected=encoder.protected,
        width=width,
        heads=encoder.sizes.num_attention_heads,
        mlp_width=(block_weights(encoder.blocks[0]) - 4 * width * width) // (2 * width),
        activation=str(_setting(encoder.sizes, *_ACTIVATIONS)),
    )


def _setting(config: Any, *names: str) -> Any:
    """The first of `names` that a model's configuration has."""
    return next(getattr(config, name) for name in names if hasattr(config, name))
