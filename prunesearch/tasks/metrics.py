"""Quality of a classifier, one value a row, and the intervals that make it honest."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

from prunesearch.core.errors import PruneSearchError


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether the largest logit is the label's: `[n, classes]`, `[n]` -> bool `[n]`."""
    return logits.argmax(dim=-1) == labels.to(logits.device)


def agreement(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """Return whether both models choose the same class: two `[n, classes]` -> bool `[n]`."""
    return reference_logits.argmax(dim=-1) == logits.argmax(dim=-1)


def kl_divergence(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """Return KL(reference || other) of the predicted classes, in nats: two `[n, classes]` -> float32 `[n]`.

    Non-negative but for rounding (about 1e-7); 0 where the two agree in every probability.
    """
    reference = torch.log_softmax(reference_logits.float(), dim=-1)
    other = torch.log_softmax(logits.float(), dim=-1)
    return torch.nn.functional.kl_div(other, reference, reduction="none", log_target=True).sum(-1)


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float, float]:
    """Return a proportion with its Wilson score interval: `(value, low, high)`, each in 0..1."""
    if n < 1 or not 0 <= successes <= n:
        raise PruneSearchError(f"`0 <= successes <= n` and `n >= 1` must hold, but got {successes} of {n}")
    z = _z(level)
    value = successes / n
    centre = (successes + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(n * value * (1 - value) + z * z / 4)
    return value, max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(correct_a: Tensor, correct_b: Tensor, level: float = 0.95) -> tuple[float, float, float]:
    """Return how much more often b is right than a on the same rows: `(value, low, high)` of b - a.

    The interval is the adjusted Wald interval for matched pairs of Agresti and Min (2005): 0.5 is added
    to each cell of the 2x2 table. The value itself is the plain difference. a, b: bool `[n]`.
    """
    if correct_a.shape != correct_b.shape or correct_a.ndim != 1 or len(correct_a) == 0:
        raise PruneSearchError(
            f"two bool [n] of the same rows are needed, but got shapes "
            f"{tuple(correct_a.shape)} and {tuple(correct_b.shape)}"
        )
    a, b = correct_a.cpu().bool(), correct_b.cpu().bool()
    n, gained, lost = len(a), int((b & ~a).sum()), int((a & ~b).sum())
    total, plus, minus = n + 2.0, gained + 0.5, lost + 0.5
    centre = (plus - minus) / total
    half = _z(level) / total * math.sqrt(plus + minus - (plus - minus) ** 2 / total)
    return (gained - lost) / n, max(-1.0, centre - half), min(1.0, centre + half)


def _z(level: float) -> float:
    """Return the two-sided normal quantile of a confidence level."""
    if not 0 < level < 1:
        raise PruneSearchError(f"`0 < level < 1` must hold, but got {level}: use 0.95")
    return NormalDist().inv_cdf((1 + level) / 2)
