"""Tokens of a video that show something else than the frame before."""

from __future__ import annotations

from dataclasses import replace

import torch

from prunesearch.pruning.attention import unit_keys
from prunesearch.pruning.selections.base import Chosen, SelectionInput
from prunesearch.pruning.selections.top_k import top_k

_FIRST = 3.0  # more than any change, which is 2 at most


def frame_change(inputs: SelectionInput) -> Chosen:
    """Keep what changes from frame to frame (EVS: the idea of vLLM's `--video-pruning-rate`).

    The change of a token is 1 - cosine of its key (before the first block of a decoder: of its features) to that of the
    same place in the frame before; where that one has left, in the last one that is there. The first frame comes first,
    and so does what is of no video. Scores choose nothing.
    """
    unit, tokens = unit_keys(inputs.attention), inputs.tokens
    patch = tokens.patches
    if patch is None:
        raise RuntimeError("a stage that compares frames is told which tokens are of which")
    order = patch.sort(dim=1, stable=True).indices  # places one behind another, each in the order of its frames
    sorted_unit = unit.gather(1, order[..., None].expand_as(unit))
    number = patch.gather(1, order)
    change = 1 - (sorted_unit[:, 1:] * sorted_unit[:, :-1]).sum(2)
    follows = (number[:, 1:] == number[:, :-1]) & (number[:, 1:] >= 0)
    worth = torch.full(patch.shape, _FIRST, dtype=unit.dtype, device=unit.device)
    worth = worth.scatter(1, order[:, 1:], change.where(follows, _FIRST))
    chosen = top_k(replace(inputs, score=worth))
    return replace(chosen, best=inputs.score.gather(1, chosen.ranking))
