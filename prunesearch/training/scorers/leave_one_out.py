"""`leave_one_out`: self-supervised importance, from what the outputs lose when a group of tokens is gone."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from prunesearch.pruning.forward.tokens import Tokens
from prunesearch.training.scorers.scene import GONE, Scene

_GROUPS = 4  # of a step, all of one size


def leave_one_out(scene: Scene) -> Tensor:
    """A pairwise ranking loss (RankNet, Burges 2005) on groups of tokens: the one whose absence costs more scores more.

    All groups of a step are of one size, from a single token to those that a stage of the step's share would take.
    A pair counts by how much its two losses differ.
    """
    gone: list[Tensor] = []

    def without(x: Tensor, tokens: Tokens) -> Tensor:
        order = scene.among(torch.rand(x.shape[:2], device=x.device), tokens, 2.0).argsort(1).argsort(1)
        many = tokens.reducible.sum(1, keepdim=True)
        group = (order < (many * left_out).clamp(min=1)) & tokens.reducible
        gone.append(group)
        return torch.where(group, GONE, 1.0)

    left_out = float(torch.rand(())) * (1 - scene.share)
    with torch.no_grad():
        lost = [scene.divergence(without) for _ in range(_GROUPS)]
    x, tokens = scene.seen
    logits = scene.logits(x, tokens)
    worth = [(logits * group).sum(1) / group.sum(1).clamp(min=1) for group in gone]
    pairs = list(itertools.combinations(range(_GROUPS), 2))
    loss = logits.new_zeros(())
    for one, other in pairs:
        gap = lost[one] - lost[other]
        weight = gap.abs() / (lost[one] + lost[other]).clamp(min=1e-12)
        loss = loss + (weight * torch.nn.functional.softplus(-gap.sign() * (worth[one] - worth[other]))).mean()
    return loss / len(pairs)
