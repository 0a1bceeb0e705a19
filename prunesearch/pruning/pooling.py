"""Mean pooling that stays a mean over the INPUTS when tokens stand for several of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from prunesearch.pruning.apply import Handle
    from prunesearch.pruning.tokens import Tokens


def mean_pool(model: nn.Module, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Average the last hidden states of `model` over real tokens, weighted by size.

    Args:
        model: the model that made `hidden`, with or without a schedule, or a module around it.
        hidden: `[batch, n, width]`, `n` being the tokens that are left.
        attention_mask: `[batch, n_start]` the mask the model was given; None if nothing was padded.

    Returns:
        `[batch, width]`. Without a schedule: the usual masked mean.
    """
    from prunesearch.pruning.apply import handle_of

    handle = handle_of(model)
    tokens = None if handle is None else handle.tokens
    if tokens is not None:
        weight = alive_mass(tokens)
    elif attention_mask is not None:
        weight = attention_mask
    else:
        return hidden.mean(1)
    weight = weight.to(hidden.dtype)[..., None]
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=torch.finfo(hidden.dtype).tiny)


def alive_mass(tokens: Tokens) -> Tensor:
    """`[batch, n]` sizes, 0 on padding."""
    return tokens.mass if tokens.valid is None else tokens.mass * tokens.valid


def attach_mean_head(model: nn.Module, handle: Handle) -> Callable[[], None]:
    """Make a `cat(CLS, mean of patches)` classification head weigh the patches by size (DINOv2's).

    The head's model averages plainly, inside its own forward; its classifier is given the right mean instead.

    Returns:
        The function that undoes it.
    """
    owner = next(
        (
            m
            for m in model.modules()
            if getattr(m, "base_model", None) is handle.encoder.base
            and isinstance(getattr(m, "classifier", None), nn.Module)
        ),
        None,
    )
    if not handle.encoder.family.mean_head or owner is None:
        return lambda: None
    leading = handle.encoder.leading
    latest: dict[str, Tensor | None] = {}  # empty outside the owner's forward: its parts may be called by themselves

    def begin(_: nn.Module, __: Any) -> None:
        latest["hidden"] = None

    def remember(_: nn.Module, __: Any, output: Any) -> None:
        if latest:
            latest["hidden"] = output[0] if isinstance(output, tuple) else output.last_hidden_state

    def replace(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        hidden, tokens = latest.pop("hidden", None), handle.tokens
        if hidden is None or tokens is None or tokens.size is None:
            return None
        weight = tokens.size[:, leading:, None].to(hidden.dtype)
        mean = (hidden[:, leading:] * weight).sum(1) / weight.sum(1)
        return (torch.cat([hidden[:, 0], mean], dim=1),)

    hooks = [
        owner.register_forward_pre_hook(begin),
        handle.encoder.base.register_forward_hook(remember),
        owner.classifier.register_forward_pre_hook(replace),  # type: ignore[union-attr]
    ]

    def undo() -> None:
        for hook in hooks:
            hook.remove()

    return undo
