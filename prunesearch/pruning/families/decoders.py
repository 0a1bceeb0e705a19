"""Decoders that attend to fewer states than the encoder was given, and places looked up behind or between blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.pruning.families.restoring import frame_owners
from prunesearch.pruning.forward.state import Host
from prunesearch.pruning.forward.tokens import Tokens, take_rows
from prunesearch.pruning.hooks import Hooks

if TYPE_CHECKING:
    from prunesearch.pruning.families.family import Attachment

_STATES, _MASK, _WHERE = "encoder_hidden_states", "encoder_attention_mask", "spatial_position_embeddings"
_PLACE_OF_STATES = 2  # among the positional arguments of a decoder's layer


def cross_attention(decoder: str, *, each_layer: bool = False) -> Attachment:
    """Give a decoder the mask of the states that are left: padding closed, `log(size)` on the keys.

    The decoder has to be run on the states of the encoder's latest forward in its thread, as models and `generate()`
    do; with beams, each row of them may be repeated.

    Args:
        decoder: its path from the base model; nothing happens if there is none (an encoder alone).
        each_layer: for a decoder that takes no mask itself, though its layers do (Whisper).
    """

    return partial(_attach_cross_attention, decoder=decoder, each_layer=each_layer)


def _attach_cross_attention(host: Host, model: nn.Module, hooks: Hooks, *, decoder: str, each_layer: bool) -> None:
    found = getattr(host.base, decoder, None)
    if found is None:
        return
    for module in list(found.layers) if each_layer else [found]:
        hooks.before(module, _CrossAttention(host).give, with_kwargs=True)


@dataclass
class _CrossAttention:
    """The hook of `cross_attention`."""

    host: Host

    def give(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        states = kwargs.get(_STATES, args[_PLACE_OF_STATES] if len(args) > _PLACE_OF_STATES else None)
        if states is None:
            return None
        forward = self.host.state.forward
        if forward is None:
            if self.host.reduces:
                raise PruneSearchError(
                    "the encoder has not run in this thread, so that its decoder cannot know which of its states are "
                    "left: run both in one thread, on one copy of the model"
                )
            return None
        tokens = forward.tokens
        if tokens is None:
            return None
        if states.shape[1] != tokens.n or len(states) % len(tokens.like):  # of another forward
            return None
        changed = {**kwargs, _MASK: _mask_for(states, tokens, forward.additive)}
        if kwargs.get(_WHERE) is not None and tokens.place is not None:
            changed[_WHERE] = take_rows(kwargs[_WHERE], tokens.place)
        return args, changed


def cross_attentions_in_places(decoder: str) -> Attachment:
    """Give a decoder's cross-attentions, where they are asked for, the length of the encoder's input.

    Whoever reads times from them (Whisper's token timestamps) counts on a column a frame. A frame has an equal share of
    what its owner is given: the token it was merged into, or of a dropped one the nearest in time (`frame_owners`).

    Args:
        decoder: its path from the base model; nothing happens if there is none.
    """
    return partial(_attach_places, decoder=decoder)


def _attach_places(host: Host, model: nn.Module, hooks: Hooks, *, decoder: str) -> None:
    found = getattr(host.base, decoder, None)
    if found is None:
        return
    places, encoder = _AttendedPlaces(host), host.base.get_submodule("encoder")
    hooks.before(encoder, places.begin)
    hooks.after(encoder, places.failed, always=True)
    hooks.after(found, places.spread)


@dataclass
class _AttendedPlaces:
    """The hooks of `cross_attentions_in_places`."""

    host: Host

    def begin(self, _: nn.Module, __: Any) -> None:
        if self.host.state.departures is None:
            self.host.state.departures = []

    def failed(self, _: nn.Module, __: Any, output: Any) -> None:
        if output is None:  # an encoder that failed leaves nothing to whoever comes next
            self.host.state.departures = None

    def spread(self, _: nn.Module, __: Any, output: Any) -> Any:
        found, stages = getattr(output, "cross_attentions", None), self.host.state.departures
        tokens = self.host.state.tokens
        if not found or not stages or tokens is None or found[0].shape[-1] != tokens.n:
            return None
        owners = frame_owners(stages, tokens.n)
        owned = torch.zeros(len(owners), tokens.n, device=owners.device).scatter_add_(
            1, owners, torch.ones_like(owners, dtype=torch.float32)
        )
        return replace(output, cross_attentions=tuple(_shared_out(x, owners, owned) for x in found))


def _shared_out(attention: Tensor, owners: Tensor, owned: Tensor) -> Tensor:
    """Attention `[rows, heads, queries, left]` to owners -> `[rows, heads, queries, n_start]` to what they own."""
    beams = len(attention) // len(owners)
    index = owners.repeat_interleave(beams, 0)[:, None, None, :].expand(-1, *attention.shape[1:3], -1)
    share = attention / owned.repeat_interleave(beams, 0)[:, None, None, :].clamp(min=1).to(attention.dtype)
    return share.gather(-1, index)


def _mask_for(states: Tensor, tokens: Tokens, additive: bool) -> Tensor | None:
    mask = tokens.attention_mask(states.dtype, additive=additive)
    return mask if mask is None else mask.repeat_interleave(len(states) // len(mask), 0)


def between_blocks(host: Host, model: nn.Module, hooks: Hooks) -> None:
    """YOLOS: position embeddings that are added between its blocks follow the tokens."""
    table = host.base.get_submodule("encoder").interpolation
    if isinstance(table, nn.Module):
        hooks.after(table, _Between(host).follow)


@dataclass
class _Between:
    """The hook of `between_blocks`."""

    host: Host

    def follow(self, _: nn.Module, __: Any, output: Tensor) -> Any:
        return _OfTokensLeft(output, self.host)


class _OfTokensLeft:
    """Embeddings `[depth, 1, n_start, width]`; asked for those of one depth, it gives those of the tokens there are."""

    def __init__(self, embeddings: Tensor, host: Host) -> None:
        self.embeddings, self.host = embeddings, host

    def __getitem__(self, depth: int) -> Tensor:
        tokens = self.host.state.tokens
        if tokens is None or tokens.place is None:
            return self.embeddings[depth]
        return self.embeddings[depth, 0][tokens.place]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[depth] for depth in range(len(self.embeddings)))


def end_of_text(host: Host, model: nn.Module, hooks: Hooks) -> None:
    """CLIP's text encoder: what follows the end-of-text token is padding, and its state is looked up by its place.

    So the last hidden states come back at full length, zeros where a token is gone.
    """
    base: Any = host.base
    text = _EndOfText(host)
    hooks.before(base, text.begin, with_kwargs=True)
    hooks.after(base.final_layer_norm, text.restore)
    hooks.after(base, text.end, always=True)


@dataclass
class _EndOfText:
    """The hooks of `end_of_text`."""

    host: Host

    def begin(self, base: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state, ids = self.host.state, kwargs.get("input_ids", args[0] if args else None)
        state.real = None
        if ids is None:
            return
        ids = ids.view(-1, ids.shape[-1])
        # as the model finds it: tokenizers of before transformers 4.31 had 2 in the config, and the highest id
        end = (ids if base.eos_token_id == 2 else (ids == base.eos_token_id).int()).int().argmax(-1, keepdim=True)
        state.real = torch.arange(ids.shape[1], device=ids.device) <= end

    def restore(self, _: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        tokens = self.host.state.tokens
        if tokens is None or tokens.place is None:
            return None
        place = tokens.place if tokens.valid is None else tokens.place.where(tokens.valid, tokens.n_start)
        full = output.new_zeros(len(output), tokens.n_start + 1, output.shape[2])
        return full.scatter(1, place[..., None].expand_as(output), output)[:, : tokens.n_start]

    def end(self, _: nn.Module, __: Any, ___: Any) -> None:
        self.host.state.real = None
