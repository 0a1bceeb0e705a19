"""Heads that answer for every token of the input: what the encoder's blocks left is put back in its places.

A head that tags words, finds a span, or writes by CTC reads one state a token, and whoever uses its answers counts on
their places. So behind such an encoder the way back is taken through the inverse of every stage, and the model's answer
has the shape it always has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prunesearch.pruning.forward.state import Departure, Host
from prunesearch.pruning.forward.tokens import take_rows
from prunesearch.pruning.hooks import Hooks


def restored_states(base: nn.Module, hidden: Tensor, stages: Sequence[Departure]) -> Tensor:
    """States `[batch, n_left, width]` behind the last block -> `[batch, n_start, width]`.

    A merged token has the state of what it was merged into, a dropped one the state it left with (Length-Adaptive
    Transformer, Kim and Cho 2021).
    """
    # what a pre-norm encoder does to the states behind its last block, dropped ones have to go through as well
    finish = getattr(base, "final_norm", nn.Identity())
    for stage in reversed(stages):
        hidden = stage.assignment.inverse(hidden, finish(stage.hidden))
    return hidden


def restored_frames(_: nn.Module, hidden: Tensor, stages: Sequence[Departure]) -> Tensor:
    """As `restored_states`, but a dropped frame has the state of the frame nearest in time that is left.

    CTC takes a symbol that is repeated for one, and times are those of the input.
    """
    return take_rows(hidden, frame_owners(stages, hidden.shape[1]))


def frame_owners(stages: Sequence[Departure], left: int) -> Tensor:
    """The one of the `left` frames at the end that speaks for each frame at the start, int64 `[batch, n_start]`.

    It is the one that holds most of a frame; where none does (it was dropped), that of the frame nearest in time that
    has one, the earlier of two. Owners of padding mean nothing.
    """
    batch, n = stages[0].hidden.shape[:2]
    place = torch.arange(n, device=stages[0].hidden.device)
    slots = torch.arange(left, dtype=torch.float32, device=place.device).expand(batch, left)[..., None]
    for stage in reversed(stages):
        gone = slots.new_full((batch, stage.hidden.shape[1], 1), -1.0)
        slots = stage.assignment.inverse(slots, gone)
    held = slots[..., 0] >= 0
    if stages[0].valid is not None:
        held = held & stages[0].valid
    before = place.where(held, -2 * n).cummax(dim=1).values
    after = place.where(held, 3 * n).flip(1).cummin(dim=1).values.flip(1)
    nearest = before.where(place - before <= after - place, after).clamp(0, n - 1)
    return slots[..., 0].gather(1, nearest).clamp(min=0).long()


Restore = Callable[[nn.Module, Tensor, Sequence[Departure]], Tensor]
# endings of the transformers classes whose heads answer for every token
RESTORED: dict[str, Restore] = {
    "ForTokenClassification": restored_states,
    "ForQuestionAnswering": restored_states,
    "ForMaskedLM": restored_states,
    "ForCTC": restored_frames,
    "ForAudioFrameClassification": restored_frames,
    "ForXVector": restored_frames,
}


def restore_of(model: nn.Module) -> Restore | None:
    """How the answers of a model of this class get their places back; None where its head reads no single tokens."""
    return next((restore for ending, restore in RESTORED.items() if type(model).__name__.endswith(ending)), None)


def restore_places(host: Host, model: nn.Module, hooks: Hooks) -> None:
    """Put what is left back in its places behind the encoder of a model whose head answers for every token."""
    owner: Any = next(
        (m for m in model.modules() if isinstance(m, PreTrainedModel) and restore_of(m) is not None), None
    )
    restore = None if owner is None else restore_of(owner)
    # an encoder-decoder's head reads the decoder, which has all of its tokens
    if restore is None or owner.config.is_encoder_decoder:
        return
    places = _Places(host, restore)
    hooks.before(owner, places.begin)
    hooks.after(owner.base_model, places.put_back)
    hooks.after(owner, places.end, always=True)


@dataclass
class _Places:
    """The hooks of `restore_places`; the encoder called alone is left alone."""

    host: Host
    restore: Restore

    def begin(self, _: nn.Module, __: Any) -> None:
        self.host.state.departures = []

    def put_back(self, base: nn.Module, _: Any, output: Any) -> Any:
        stages = self.host.state.departures
        if not stages:  # nothing was reduced, or the encoder was called alone
            return None
        if isinstance(output, tuple):
            return (self.restore(base, output[0], stages), *output[1:])
        return replace(output, last_hidden_state=self.restore(base, output.last_hidden_state, stages))

    def end(self, _: nn.Module, __: Any, ___: Any) -> None:
        self.host.state.departures = None
