"""A look into a block's attention, taken at transformers' attention interface.

An attention module asks for its implementation by the name in its config. One that is observed is given a config that
says what the model's own says, whatever that may become, but names a variant of the implementation: it computes the
same thing and leaves queries, keys and values with the forward that asked for them. Nothing is copied and no N x N
matrix is made; the model's config, which others may share and change, is not touched.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from prunesearch.pruning.attention import AttentionView, causal_mask
from prunesearch.pruning.forward.state import state_of

_PREFIX = "prunesearch_"


class ObservedConfig:
    """The config of an attention module that is observed; everything but the name of the attention is the model's."""

    def __init__(self, config: Any) -> None:
        self.__dict__["_observed"] = config

    @property
    def _attn_implementation(self) -> str:
        return attention_name(base_name(self.__dict__["_observed"]._attn_implementation))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_observed"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["_observed"], name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return ObservedConfig, (self.__dict__["_observed"],)


def own_config(config: Any) -> Any:
    """The model's config behind one that `ObservedConfig` made, or the config itself."""
    return config.__dict__["_observed"] if isinstance(config, ObservedConfig) else config


def attention_name(base: str) -> str:
    """Return the name of the observing variant of the attention implementation `base`, registering it if needed."""
    name = _PREFIX + base
    if name not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(name, _Observed(base))
    return name


def base_name(name: str) -> str:
    """Return the attention implementation behind a name that `attention_name` made, or the name itself."""
    return name.removeprefix(_PREFIX)


class _Observed:
    """An attention function that leaves a view of what it computes where it is asked for."""

    def __init__(self, base: str) -> None:
        self.base = base

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if self.base == "eager":  # every modeling file has its own; it is in no table
            forward = sys.modules[type(module).__module__].eager_attention_forward
        else:
            forward = ALL_ATTENTION_FUNCTIONS[self.base]
        state = state_of(module)
        if attention_mask is None and state is not None:
            attention_mask = state.mask
        output, weights = forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        looking = None if state is None else state.forward
        if looking is not None and looking.looking is module:
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            if attention_mask is None and _is_causal(module, kwargs):
                attention_mask = causal_mask(query)
            bias = kwargs.get("position_bias")
            looking.view = AttentionView(query, key, value, attention_mask, scale, weights, bias)
        return output, weights


def _is_causal(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Whether the kernel is told by a flag alone, of the call or of the module, that attention is causal."""
    said = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", False) if said is None else said)
