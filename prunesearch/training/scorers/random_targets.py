"""`random_targets`: the control; the same probe, trained as long on nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from prunesearch.training.scorers.scene import Scene


def random_targets(scene: Scene) -> Tensor:
    """Squared error of the probe against noise: what a learned scorer must beat to have learnt something."""
    with torch.no_grad():
        scene.divergence(lambda x, tokens: torch.ones(x.shape[:2], device=x.device))
    x, tokens = scene.seen
    on = tokens.reducible.float()
    error = (scene.logits(x, tokens) - torch.randn(x.shape[:2], device=x.device)).square() * on
    return error.sum() / on.sum().clamp(min=1)
