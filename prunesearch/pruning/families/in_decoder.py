"""Decoders that read pictures in their prompt: only tokens of pictures leave, and decoding goes on as if none had.

The model around the decoder knows which tokens are of pictures, and its cache of an earlier forward which of them are
left; both are told to the blocks by hooks. Every token keeps the position that it had. The decoder's last states come
back at full length, zeros where a token is gone, so that heads, labels and `logits_to_keep` count as before.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.pruning.families.tower import (
    FRAMES,
    LEFT,
    TOLD,
    Frames,
    Videos,
    frames_of,
    gone_tokens,
    patch_numbers,
    rows_left,
    rows_told,
    told_tokens,
)
from prunesearch.pruning.forward.mixed import MixedTokens
from prunesearch.pruning.forward.past import Past, Prompt, note_past, past_of
from prunesearch.pruning.forward.state import ForwardState, Host
from prunesearch.pruning.hooks import Hooks

if TYPE_CHECKING:
    from prunesearch.pruning.families.family import Attachment

_READ, _TAUGHT = "what a prompt reads", "labels of a prompt"
# arguments by which models are given pictures
_PICTURES = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")
_ENCODES_VIDEOS = "get_video_features"
# places of tokens that stand for pictures, in configs
_TOKEN_IDS = ("image_token_id", "video_token_id")
_IGNORED = -100  # labels that are not taught


def pictures(decoder: str, *, makes_masks: bool = False, frames: Frames | None = None) -> Attachment:
    """Let the pictures in a prompt be reduced.

    Args:
        decoder: path of the decoder from the base model.
        makes_masks: whether the model around the decoder gives it masks of pairs, made from what it is given.
        frames: of each video in a prompt, its frames and the tokens of one; None: videos are not told apart.
    """
    return partial(_attach_pictures, decoder=decoder, makes_masks=makes_masks, frames=frames)


def _attach_pictures(
    host: Host, model: nn.Module, hooks: Hooks, *, decoder: str, makes_masks: bool, frames: Frames | None
) -> None:
    reads, runs = _Reader(host, makes_masks, frames), host.base.get_submodule(decoder)
    hooks.before(host.base, reads.begin, with_kwargs=True)
    hooks.before(runs, reads.enter, with_kwargs=True)
    hooks.after(runs, reads.leave)
    hooks.after(host.base, reads.end, always=True)
    if frames is not None:
        base: Any = host.base
        hooks.put(base, _ENCODES_VIDEOS, Videos(host, getattr(base, _ENCODES_VIDEOS), frames))
    for owner in model.modules():
        if any(child is host.base for child in owner.children()):
            hooks.before(owner, reads.hear_labels, with_kwargs=True)
            hooks.after(owner, reads.forget_labels, always=True)


@dataclass
class _Reader:
    """The hooks of `pictures`."""

    host: Host
    makes_masks: bool
    frames: Frames | None

    def hear_labels(self, _: nn.Module, __: Any, kwargs: dict[str, Any]) -> None:
        self.host.state.notes[_TAUGHT] = kwargs.get("labels")

    def forget_labels(self, _: nn.Module, __: Any, ___: Any) -> None:
        self.host.state.notes.pop(_TAUGHT, None)

    def begin(self, base: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = kwargs
        if args:
            given = {**dict(inspect.signature(base.forward).bind_partial(*args).arguments), **kwargs}
        ids, shown = given.get("input_ids"), any(_has(given.get(name)) for name in _PICTURES)
        notes = self.host.state.notes
        notes[_READ] = (ids, shown, given.get("position_ids") is not None)
        if self.host.asks_tower:
            notes[TOLD] = rows_told(given.get("mm_encoder_outputs"))
        if self.host.asks_frames and self.frames is not None:
            notes[FRAMES] = frames_of(given, self.frames, base.config)
        if self.host.left_by_tower < 1:
            notes[LEFT] = rows_left(given.get("mm_encoder_outputs"))

    def end(self, _: nn.Module, __: Any, ___: Any) -> None:
        for note in (_READ, TOLD, LEFT, FRAMES):
            self.host.state.notes.pop(note, None)

    def enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The decoder's forward begins: what is in it that may leave, and what is behind it."""
        host = self.host
        host.start()
        forward = host.state.forward
        if forward is None:
            raise RuntimeError("a forward that has begun has a state")
        ids, shown, placed = host.state.notes.get(_READ, (None, False, False))
        mask, cache = kwargs.get("attention_mask"), kwargs.get("cache")
        seen = 0 if cache is None else int(cache.get_seq_length())
        past = past_of(cache, seen)
        if self.makes_masks and isinstance(mask, Tensor) and mask.dim() == 4:
            mask = _seen_by_any(mask, kwargs["inputs_embeds"]) if mask.shape[-1] == mask.shape[-2] else None
        padding = mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None
        if past is not None:
            _check_goes_on(past, kwargs["inputs_embeds"].shape[1], mask, padding, placed, shown and host.reduces)
            forward.prompt = Prompt(padding=padding, past=past)
            return
        if not host.reduces or (not shown and (seen or ids is not None)):
            forward.prompt = Prompt()
            return
        _check_prompt(ids, mask, padding, cache, seen)
        valid = torch.ones_like(ids, dtype=torch.bool) if padding is None else padding
        seen_as = of_pictures(host.base.config, ids)
        tokens = MixedTokens.given(seen_as, valid, _end_of_prompt(host.state.notes.get(_TAUGHT), valid))
        if host.asks_tower:
            tokens = replace(tokens, told_of_all=told_tokens(host.state.notes.get(TOLD), seen_as))
        if host.asks_frames:
            of_videos = ids == host.base.config.video_token_id
            tokens = replace(tokens, patch_of_all=patch_numbers(host.state.notes.get(FRAMES), of_videos))
        _check_flash(forward, tokens)
        gone = None
        if host.left_by_tower < 1:
            gone = gone_tokens(host.state.notes.get(LEFT), host.left_by_tower, seen_as, tokens.reducible | ~valid)
        forward.prompt = Prompt(tokens, padding, gone=gone)

    def leave(self, _: nn.Module, __: Any, output: Any) -> Any:
        """What the decoder gives is put back in its places, and what its cache has is noted."""
        forward = self.host.state.forward
        prompt = None if forward is None else forward.prompt
        if forward is None or prompt is None or prompt.tokens is None or not forward.stages:
            return None
        cache = getattr(output, "cache", None)
        if cache is not None:
            note_past(cache, prompt.tokens, forward.stages, len(self.host.cores))
        left = forward.stages[-1][1]
        if left.place is None:
            raise RuntimeError("the places of the tokens were not kept")
        hidden = output.last_hidden_state
        place = left.place if left.real is None else left.place.where(left.real, left.n_start)
        full = hidden.new_zeros(len(hidden), left.n_start + 1, hidden.shape[2])
        full = full.scatter(1, place[..., None].expand_as(hidden), hidden)[:, : left.n_start]
        return replace(output, last_hidden_state=full)


def of_pictures(config: Any, ids: Tensor) -> Tensor:
    """Which tokens of prompts stand for pictures or videos: bool, like `ids` `[batch, n]`."""
    named = [getattr(config, name, None) for name in _TOKEN_IDS]
    return torch.isin(ids, torch.tensor([i for i in named if i is not None], device=ids.device))


def _seen_by_any(mask: Tensor, x: Tensor) -> Tensor:
    """`[batch, n]` tokens that some token sees, in a mask of pairs `[batch | 1, 1, n, n]`: all but padding."""
    seen = mask > torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() else mask.bool()
    return seen[:, 0].any(1).expand(x.shape[:2])


def _has(given: Any) -> bool:
    """Whether an argument brings pictures: tensors, or what a tower made of them, by the kind of picture."""
    return any(v is not None for v in given.values()) if isinstance(given, dict) else given is not None


def _end_of_prompt(labels: Tensor | None, valid: Tensor) -> Tensor | None:
    """`[batch]` the last token before the first that is taught; in rows that teach none the last; None: no labels."""
    if labels is None or labels.shape != valid.shape:
        return None
    taught = (labels != _IGNORED) & valid
    place = torch.arange(valid.shape[1], device=valid.device)
    first = place.where(taught, valid.shape[1]).amin(1)
    last = place.where(valid, -1).amax(1)
    return torch.minimum(first - 1, last).clamp(min=0)


def _check_prompt(ids: Any, mask: Any, padding: Tensor | None, cache: Any, seen: int) -> None:
    """Raise `PruneSearchError` for a prompt whose pictures cannot be reduced."""
    if ids is None:
        raise PruneSearchError(
            "which tokens are of pictures is read from `input_ids`, but the model was given none: pass them, not "
            "`inputs_embeds`"
        )
    if seen:
        raise PruneSearchError(
            f"pictures can be pruned in the first turn alone, but the cache has {seen} tokens already: pass the whole "
            "conversation without a cache, or run this turn within handle.under(Schedule())"
        )
    if mask is not None and padding is None:
        raise PruneSearchError("a mask of `[batch, tokens]` must hold where pictures are pruned, but got another form")
    if padding is not None and padding.shape != ids.shape:
        raise PruneSearchError(
            f"the attention mask must be of the {ids.shape[1]} tokens of the prompt, but it is of {padding.shape[1]}"
        )
    if cache is not None and cache.is_compileable:
        raise PruneSearchError(
            "a static cache has one length for all blocks, and pruning gives each its own: use a DynamicCache"
        )


def _check_flash(forward: ForwardState, tokens: MixedTokens) -> None:
    if forward.no_bias and not (tokens.full and len(set(tokens.counts)) == 1):
        raise PruneSearchError(
            "flash attention takes no mask a block, which rows with padding or with other numbers of picture tokens "
            "need: run them one by one, or load the model with attn_implementation='sdpa'"
        )


def _check_goes_on(past: Past, coming: int, mask: Any, padding: Tensor | None, placed: bool, reduces: bool) -> None:
    """Raise `PruneSearchError` for a forward that cannot go on from a pruned prompt."""
    if reduces:
        raise PruneSearchError(
            "a new picture cannot be pruned behind a prompt that was: pass the whole conversation without a cache, or "
            "run this turn within handle.under(Schedule())"
        )
    if mask is not None and padding is None:
        raise PruneSearchError(
            "a mask of `[batch, tokens]` must hold behind a prompt whose pictures were pruned, but got another form"
        )
    if not past.reduced_at_input:
        return
    if coming > 1:
        raise PruneSearchError(
            "transformers counts the tokens of a conversation by the first block's cache, which a stage at input/0 "
            "made shorter: pass the whole conversation anew, or use stages at decoder/K"
        )
    if not placed:
        raise PruneSearchError(
            "behind a prompt that was pruned at input/0, `position_ids` must be given (generate() gives them), or use "
            "stages at decoder/K"
        )
