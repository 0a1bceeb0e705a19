"""Pictures changed so that stages by row leave more of their tokens: an attack on compute, which no static plan minds.

DeSparsify (Yehezkel et al. 2024) does it to ATS, AdaViT and A-ViT.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunesearch.export.by_row.serving import Serving, time_forwards
from prunesearch.pruning.apply import Handle
from prunesearch.pruning.decide import Scored
from prunesearch.study.front_compared import DearerPlan

PIXELS = "pixel_values"
_TURNS = 3  # of timing a batch as it is and changed
_SOFT, _TINY = 0.25, 1e-12  # how softly scores are counted, of a threshold


@dataclass(frozen=True)
class Dearness:
    """How many tokens the stages by row of a plan are about to leave, of each row, with gradients.

    Of a threshold it counts the scores above it, softly; of shares of scores it is the entropy of the scores, which is
    greatest where all are alike (DeSparsify, Yehezkel et al. 2024).

    Attributes:
        model: that runs.
        handle: on it, under a plan with stages by row.
    """

    model: nn.Module
    handle: Handle

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixel values to `[b]`."""
        with self.handle.scoring() as seen:
            self.model(**{PIXELS: pixels})
            scored = [one for one in seen if one.stage.by_row]
        return torch.stack([_about_to_leave(one) for one in scored]).sum(0)


def _about_to_leave(one: Scored) -> Tensor:
    score = one.score.float() * one.reducible
    least = one.stage.amount.number
    if not one.stage.amount.bounded:
        soft = torch.sigmoid((one.score.float() - least) / (_SOFT * max(least, _TINY)))
        return (soft * one.reducible).sum(1)
    share = score / score.sum(1, keepdim=True).clamp(min=_TINY)
    return -(share * share.clamp(min=_TINY).log()).sum(1)


def timed_beside(
    run: Serving, plain: Sequence[Tensor], changed: Sequence[Tensor], rows: int, seed: int
) -> tuple[float, float]:
    """Mean milliseconds of batches of so many rows as they are, and changed; the two are timed in turn.

    Args:
        run: a plan.
        plain, changed: the same rows, pixel values `[b, channels, height, width]`.
        rows: of a batch.
        seed: of the order.
    """
    found: dict[str, list[float]] = {"plain": [], "changed": []}
    whole = torch.cat(list(plain)), torch.cat(list(changed))
    for first in range(0, len(whole[0]), rows):
        one, other = (pixels[first : first + rows] for pixels in whole)
        batches = {"plain": {PIXELS: one}, "changed": {PIXELS: other}}
        forwards = {name: lambda _, inputs=inputs: run(inputs) for name, inputs in batches.items()}
        for name, ms in time_forwards(forwards, [batches["plain"]] * _TURNS, seed).items():
            found[name].append(statistics.median(ms))
    return statistics.fmean(found["plain"]), statistics.fmean(found["changed"])


def dearer_notes(dearer: Sequence[DearerPlan]) -> list[str]:
    """What an attack on compute makes of the plan that it was made for, which is the last, and of all others."""
    if not dearer:
        return []
    *static, mine = dearer
    same = all(abs(one.attacked_tokens - one.tokens) < 1e-6 for one in static)
    apart = [one.attacked_ms / one.ms for one in static]
    return [
        f"{mine.name} under an attack on compute: {mine.attacked_tokens:.1f} tokens in place of {mine.tokens:.1f}, "
        f"{mine.attacked_ms:.2f} ms in place of {mine.ms:.2f}, quality {100 * mine.attacked_quality:.1f} % in place of "
        f"{100 * mine.quality:.1f}",
        f"{len(static)} static plans on the same rows: {'' if same else 'NOT '}as many tokens as before, "
        f"{min(apart):.2f} to {max(apart):.2f} times the time, which is what the clock does",
    ]
