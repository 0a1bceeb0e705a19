"""Pictures changed within a bound so that a model's answers come out wrong, or cost more: FGSM and PGD, by foolbox."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.tasks.libraries import package

ATTACKS = ("fgsm", "pgd")
COMPUTE = "compute"  # raises what `forward` says, whatever the answers are
_MISSING = "attacks on pictures need foolbox: pip install 'prunesearch[robust]'"
_STEPS = 10  # of PGD, each a quarter of the bound


@dataclass(frozen=True)
class Colours:
    """What a processor makes of channels in [0, 1]: `(x - mean) / std`, one number a channel."""

    mean: Sequence[float]
    std: Sequence[float]


def attacked(
    forward: Callable[[Tensor], Tensor],
    pixels: Tensor,
    labels: Tensor,
    attack: str,
    eps: float,
    colours: Colours,
    seed: int,
) -> Tensor:
    """Pixel values `[b, channels, height, width]`, as the processor made them, changed to mislead `forward`.

    `fgsm` is one step along the sign of the gradient (Goodfellow et al. 2015), `pgd` ten smaller ones from a random
    start (Madry et al. 2018), both within `eps` in every channel of a pixel, of 1, and within [0, 1]. `compute` is
    `pgd` on a number a row, which it raises (Yehezkel et al. 2024).

    Args:
        forward: pixel values to logits `[b, classes]`, for `compute` to a number of each row `[b]`; it has gradients.
        labels: int64 `[b]`, that answers are led away from.

    Raises:
        PruneSearchError: for an attack that is not known, or where foolbox is missing.
    """
    if attack not in (*ATTACKS, COMPUTE):
        raise PruneSearchError(f"unknown attack '{attack}': {did_you_mean(attack, ATTACKS)}")
    foolbox: Any = package("foolbox", _MISSING)
    mean, std = (torch.tensor(x).to(pixels).view(-1, 1, 1) for x in (list(colours.mean), list(colours.std)))
    plain = (pixels * std + mean).clamp(0, 1)
    made = foolbox.attacks.LinfFastGradientAttack if attack == "fgsm" else foolbox.attacks.LinfPGD
    how = made() if attack == "fgsm" else made(rel_stepsize=0.25, steps=_STEPS)
    if attack == COMPUTE:
        how.get_loss_fn = lambda model, labels: lambda x: model(x).sum()
    with warnings.catch_warnings(), torch.random.fork_rng(), torch.inference_mode(False), torch.enable_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = foolbox.PyTorchModel(_Scaled(forward, mean, std).eval(), bounds=(0, 1), device=pixels.device)
        found = how.run(model, plain.clone(), labels.clone(), epsilon=eps)
    changed: Tensor = (found.detach() - mean) / std
    return changed


class _Scaled(nn.Module):
    """Pixels in [0, 1] to logits."""

    def __init__(self, forward: Callable[[Tensor], Tensor], mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.answer, self.mean, self.std = forward, mean, std

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[b, classes]`."""
        return self.answer((x - self.mean) / self.std)
