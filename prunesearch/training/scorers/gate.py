"""`gate`: keep decisions as DynamicViT trains them, by distillation through tokens that are masked."""

from __future__ import annotations

import torch
from torch import Tensor

from prunesearch.pruning.forward.tokens import Tokens
from prunesearch.training.scorers.scene import GONE, Scene

_TEMPERATURE = 1.0  # of the Gumbel noise
_RATIO = 2.0  # weight of the ratio loss (Rao 2021), times the step's divergence: it must not beat the task


def gate(scene: Scene) -> Tensor:
    """The divergence when the tokens that the gate closes are masked, and a ratio loss towards the stage's count.

    Straight-through: forwards see kept tokens and gone ones, gradients those of a Gumbel-sigmoid. The threshold of a
    row is between the score of the last token that the stage's count keeps and the next.
    """
    opened: list[Tensor] = []

    def gates(x: Tensor, tokens: Tokens) -> Tensor:
        logits = scene.logits(x, tokens)
        uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        noisy = scene.among(logits + uniform.log() - (-uniform).log1p(), tokens, -torch.inf)
        kept = (tokens.reducible.sum(1) * scene.share).ceil().clamp(min=1).long()
        place = noisy.argsort(1, descending=True).argsort(1)
        hard = (place < kept[:, None]) & tokens.reducible
        threshold = noisy.detach().sort(1, descending=True).values.gather(1, kept[:, None] - 1)
        soft = ((scene.among(noisy, tokens, 0.0) - threshold) / _TEMPERATURE).sigmoid()
        opened.append((soft * tokens.reducible).sum(1) / tokens.reducible.sum(1).clamp(min=1))
        through = hard.to(soft.dtype) + soft - soft.detach()
        return scene.among(GONE + (1 - GONE) * through, tokens, 1.0)

    lost = scene.divergence(gates).mean()
    ratio = (opened[-1] - scene.share).square().mean()
    loss: Tensor = lost + _RATIO * lost.detach() * ratio
    return loss
