"""`saliency`: a probe that predicts gradient x activation of the divergence, which needs no gradient at run time."""

from __future__ import annotations

import torch
from torch import Tensor

from prunesearch.pruning.forward.tokens import Tokens
from prunesearch.training.scorers.scene import GONE, Scene, standardised


def saliency(scene: Scene) -> Tensor:
    """Squared error of the probe against `-dD/d(log m)` of each token, standardised in its row.

    Tokens are down-weighted at random, each to its own m in (0, 1): where nothing is missing the divergence has no
    gradient. The mean over such draws is each token's share in what all of them are worth (Sundararajan 2017, whose
    straight path is drawn from instead of summed along).
    """
    sizes: list[Tensor] = []

    def drawn(x: Tensor, tokens: Tokens) -> Tensor:
        size = torch.rand(x.shape[:2], device=x.device).clamp(min=GONE)
        sizes.append(scene.among(size, tokens, 1.0).requires_grad_(True))
        return sizes[-1]

    with torch.enable_grad():
        lost = scene.divergence(drawn).sum()
        gradient = torch.zeros_like(sizes[-1])
        if lost.requires_grad:  # behind the last attention nobody reads the tokens any more
            (gradient,) = torch.autograd.grad(lost, sizes[-1], materialize_grads=True)
    x, tokens = scene.seen
    target = standardised(-gradient * sizes[-1].detach(), tokens)
    on = tokens.reducible.to(target.dtype)
    error = (scene.logits(x, tokens) - target).square() * on
    return error.sum() / on.sum().clamp(min=1)
