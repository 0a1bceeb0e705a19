"""`policy`: which tokens to keep, by reward (TR-BERT, Ye 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from prunesearch.pruning.forward.tokens import Tokens
from prunesearch.training.scorers.scene import GONE, Scene

_DRAWS = 3  # of a step


def policy(scene: Scene) -> Tensor:
    """REINFORCE: tokens are kept by draws without replacement, in the chances that the probe gives them.

    As many are kept as the step's share says, as at run time, so that all draws of a step cost the same by the table
    and the price of what is kept falls out of the advantage. The reward is minus the divergence; a row's baseline is
    the mean of its other draws. A draw's chance is that of its order (Plackett and Luce).
    """
    orders: list[Tensor] = []
    counts: list[Tensor] = []

    def drawn(x: Tensor, tokens: Tokens) -> Tensor:
        with torch.no_grad():
            logits = scene.logits(x, tokens)
        gumbel = -(-torch.rand_like(logits).clamp(1e-9, 1 - 1e-7).log()).log()
        order = scene.among(logits + gumbel, tokens, -torch.inf).argsort(1, descending=True)
        kept = (tokens.reducible.sum(1) * scene.share).ceil().clamp(min=1).long()
        orders.append(order)
        counts.append(kept)
        stays = (order.argsort(1) < kept[:, None]) & tokens.reducible
        return scene.among(torch.where(stays, 1.0, GONE), tokens, 1.0)

    with torch.no_grad():
        reward = -torch.stack([scene.divergence(drawn) for _ in range(_DRAWS)])
    baseline = (reward.sum(0) - reward) / (_DRAWS - 1)
    advantage = reward - baseline
    advantage = advantage / advantage.square().mean().sqrt().clamp(min=1e-12)
    x, tokens = scene.seen
    logits = scene.among(scene.logits(x, tokens), tokens, -1e9)
    said = torch.stack([_chance_of(logits, order, kept) for order, kept in zip(orders, counts, strict=True)])
    return -(advantage * said).mean()


def _chance_of(logits: Tensor, order: Tensor, kept: Tensor) -> Tensor:
    """Logarithm of the chance of the first `kept` places of an order, `[b]`, over their number."""
    sorted_logits = logits.gather(1, order)
    rest = sorted_logits.flip(1).logcumsumexp(1).flip(1)  # of what was left at each place
    place = torch.arange(logits.shape[1], device=logits.device)
    chosen = (place < kept[:, None]).to(logits.dtype)
    return ((sorted_logits - rest) * chosen).sum(1) / kept
