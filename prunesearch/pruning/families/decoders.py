"""Decoders that attend to fewer states than the encoder was given, and places looked up behind or between blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunesearch.pruning.hooks import removal
from prunesearch.pruning.tokens import Tokens, take_rows

if TYPE_CHECKING:
    from prunesearch.pruning.apply import Handle
    from prunesearch.pruning.families.family import Attachment, Undo

_STATES, _MASK, _WHERE = "encoder_hidden_states", "encoder_attention_mask", "spatial_position_embeddings"
_PLACE_OF_STATES = 2  # among the positional arguments of a decoder's layer


def cross_attention(decoder: str, *, each_layer: bool = False) -> Attachment:
    """Give a decoder the mask of the states that are left: padding closed, `log(size)` on the keys.

    The decoder has to be run on the states of the encoder's latest forward, as models and `generate()` do; with beams,
    each row of them may be repeated.

    Args:
        decoder: its path from the base model; nothing happens if there is none (an encoder alone).
        each_layer: for a decoder that takes no mask itself, though its layers do (Whisper).
    """

    def attach(handle: Handle, model: nn.Module) -> Undo:
        found = getattr(handle.encoder.base, decoder, None)
        if found is None:
            return lambda: None

        def give(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            states = kwargs.get(_STATES, args[_PLACE_OF_STATES] if len(args) > _PLACE_OF_STATES else None)
            tokens = handle.tokens
            if states is None or tokens is None:
                return None
            if states.shape[1] != tokens.n or len(states) % len(tokens.protected):  # of another forward
                return None
            changed = {**kwargs, _MASK: _mask_for(states, tokens, handle.additive)}
            if kwargs.get(_WHERE) is not None and tokens.place is not None:
                changed[_WHERE] = take_rows(kwargs[_WHERE], tokens.place)
            return args, changed

        inside = list(found.layers) if each_layer else [found]
        return removal([m.register_forward_pre_hook(give, with_kwargs=True) for m in inside])

    return attach


def _mask_for(states: Tensor, tokens: Tokens, additive: bool) -> Tensor | None:
    mask = tokens.attention_mask(states.dtype, additive=additive)
    return mask if mask is None else mask.repeat_interleave(len(states) // len(mask), 0)


def between_blocks(handle: Handle, model: nn.Module) -> Undo:
    """YOLOS: position embeddings that are added between its blocks follow the tokens."""
    table = handle.encoder.base.get_submodule("encoder").interpolation
    if not isinstance(table, nn.Module):
        return lambda: None
    return removal([table.register_forward_hook(lambda _, __, output: _OfTokensLeft(output, handle))])


class _OfTokensLeft:
    """Embeddings `[depth, 1, n_start, width]`; asked for those of one depth, it gives those of the tokens there are."""

    def __init__(self, embeddings: Tensor, handle: Handle) -> None:
        self.embeddings, self.handle = embeddings, handle

    def __getitem__(self, depth: int) -> Tensor:
        tokens = self.handle.tokens
        if tokens is None or tokens.place is None:
            return self.embeddings[depth]
        return self.embeddings[depth, 0][tokens.place]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[depth] for depth in range(len(self.embeddings)))


def end_of_text(handle: Handle, model: nn.Module) -> Undo:
    """CLIP's text encoder: what follows the end-of-text token is padding, and its state is looked up by its place.

    So the last hidden states come back at full length, zeros where a token is gone.
    """
    base: Any = handle.encoder.base

    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            return
        ids = ids.view(-1, ids.shape[-1])
        # as the model finds it: tokenizers of before transformers 4.31 had 2 in the config, and the highest id
        end = (ids if base.eos_token_id == 2 else (ids == base.eos_token_id).int()).int().argmax(-1, keepdim=True)
        handle.real = torch.arange(ids.shape[1], device=ids.device) <= end

    def restore(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        tokens, handle.real = handle.tokens, None
        if tokens is None or tokens.place is None:
            return None
        place = tokens.place if tokens.valid is None else tokens.place.where(tokens.valid, tokens.n_start)
        full = output.new_zeros(len(output), tokens.n_start + 1, output.shape[2])
        return full.scatter(1, place[..., None].expand_as(output), output)[:, : tokens.n_start]

    return removal(
        [
            base.register_forward_pre_hook(begin, with_kwargs=True),
            base.final_layer_norm.register_forward_hook(restore),
        ]
    )
