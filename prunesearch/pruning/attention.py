"""A look into a block's attention, taken at transformers' attention interface.

`attention_name(base)` registers, once, a variant of an attention implementation that computes the same thing and
leaves queries, keys and values with the modules that asked for them. Nothing is copied and no N x N matrix is made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_PREFIX = "prunesearch_"
_SLOT = "_prunesearch_attention"
_MASK = "_prunesearch_mask"


@dataclass
class AttentionView:
    """What a stage sees of its block's attention; filled anew by every forward.

    `query`, `key`, `value` are `[batch, heads, tokens, head_dim]`; `mask` is additive or boolean and broadcasts to
    `[batch, heads, tokens, tokens]`; `weights` are the probabilities where the backend computes them (eager only);
    `bias` is added to the logits beside the mask, `[batch | 1, heads, tokens, tokens]` (relative positions).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float
    weights: Tensor | None
    bias: Tensor | None = None

    def logits(self, query: Tensor, rows: slice | Tensor | None = None) -> Tensor:
        """Attention logits, mask added, of some queries against all keys, in float32 or better.

        Args:
            query: `[batch, heads, q, head_dim]`.
            rows: which query rows of a full mask these are: the same for all, or `[batch]` one of each example; None
                for a mask that is the same for every query.

        Returns:
            `[batch, heads, q, tokens]`.
        """
        wide = torch.promote_types(query.dtype, torch.float32)
        scores = (query @ self.key.transpose(-1, -2)).to(wide) * self.scaling
        if self.bias is not None:
            scores = scores + _rows_of(self.bias, rows)
        if self.mask is None:
            return scores
        mask = self.mask
        if mask.shape[-2] != 1:
            mask = _rows_of(mask, rows)
        if mask.dtype == torch.bool:
            return scores.masked_fill(~mask, torch.finfo(wide).min)
        return scores + mask


def _rows_of(pairs: Tensor, rows: slice | Tensor | None) -> Tensor:
    """Rows of `[batch | 1, heads | 1, tokens, tokens]`."""
    if isinstance(rows, Tensor):
        size = rows.shape[0]  # not len(): it would fix the batch size of an export
        batch = torch.arange(size, device=rows.device)
        return pairs.expand(size, -1, -1, -1)[batch, :, rows][:, :, None]
    return pairs[..., rows if rows is not None else slice(0, 1), :]


def mean_key(attention: AttentionView) -> Tensor:
    """Keys averaged over heads, `[batch, n, head_dim]`, in float32 or better: ToMe's similarity metric."""
    wide = torch.promote_types(attention.key.dtype, torch.float32)
    return attention.key.mean(1, dtype=wide)


class AttentionSlot:
    """Holds the latest `AttentionView` of one attention module, or what will make it, while a stage needs it."""

    def __init__(self) -> None:
        self.view: AttentionView | Callable[[], AttentionView] | None = None

    def take(self) -> AttentionView:
        """Return the view and forget it, so that no activation outlives its block."""
        if self.view is None:
            raise RuntimeError("the block's attention did not go through transformers' interface")
        view, self.view = self.view, None
        return view() if callable(view) else view


def open_slot(module: nn.Module) -> AttentionSlot:
    """Ask `module` (a leaf attention module) to leave its queries, keys and values in the returned slot.

    A module that serves several blocks has one slot.
    """
    slot: AttentionSlot = module.__dict__.setdefault(_SLOT, AttentionSlot())
    return slot


def slot_of(module: nn.Module) -> AttentionSlot | None:
    """The slot that `module` has to fill, or None."""
    slot: AttentionSlot | None = getattr(module, _SLOT, None)  # torch.compile does not notice module.__dict__ change
    return slot


def close_slot(module: nn.Module) -> None:
    """Undo `open_slot`."""
    module.__dict__.pop(_SLOT, None)


def causal_mask(x: Tensor) -> Tensor:
    """`[1, 1, n, n]` booleans for `[.., n, width]`: a token attends to itself and what is before it."""
    return torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool, device=x.device).tril()[None, None]


@contextmanager
def given_mask(module: nn.Module, mask: Tensor | None) -> Iterator[None]:
    """Within the block, attention that `module` asks for without a mask gets this one: some blocks pass none on."""
    module.__dict__[_MASK] = mask
    try:
        yield
    finally:
        del module.__dict__[_MASK]


def attention_name(base: str) -> str:
    """Return the name of the observing variant of the attention implementation `base`, registering it if needed."""
    if base.startswith(_PREFIX):
        return base
    name = _PREFIX + base
    if name not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(name, _observed(base))
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def base_name(name: str) -> str:
    """Return the attention implementation behind a name that `attention_name` made, or the name itself."""
    return name.removeprefix(_PREFIX)


def _observed(base: str) -> Any:
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if base == "eager":  # every modeling file has its own; it is in no table
            forward = sys.modules[type(module).__module__].eager_attention_forward
        else:
            forward = ALL_ATTENTION_FUNCTIONS[base]
        if attention_mask is None:
            attention_mask = getattr(module, _MASK, None)
        output, weights = forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        slot = slot_of(module)
        if slot is not None:
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            if attention_mask is None and kwargs.get("is_causal"):  # told to the kernel by this flag alone
                attention_mask = causal_mask(query)
            slot.view = AttentionView(query, key, value, attention_mask, scale, weights, kwargs.get("position_bias"))
        return output, weights

    return attention
