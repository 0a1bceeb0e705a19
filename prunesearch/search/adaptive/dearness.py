"""Pictures changed so that stages by row leave more of their tokens, and cascades and routers take their slowest plan:
an attack on compute, which no static plan minds.

DeSparsify (Yehezkel et al. 2024) does it to ATS, AdaViT and A-ViT.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from prunesearch.core.plans.plan import Plan
from prunesearch.export.by_row.row_rule import SURENESS, ByRow, logits_in
from prunesearch.export.by_row.serving import Server, Serving, kept_guesses, time_forwards
from prunesearch.pruning.apply import Handle
from prunesearch.pruning.decide import Scored
from prunesearch.study.front import Front
from prunesearch.study.front_compared import DearerPlan
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import Batch

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


@dataclass(frozen=True)
class Unsureness:
    """How unsure a cascade's faster plans are of each row, or a router of all plans but the slowest, with gradients.

    Attributes:
        rule: that decides.
    """

    rule: ByRow

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixel values to `[b]`."""
        rule, inputs = self.rule, {PIXELS: pixels}
        if rule.early is not None:
            states = rule.early(inputs)
            return -torch.stack([guess(states).clamp(min=_TINY).log() for guess in rule.guesses]).sum(0)
        found = []
        for plan in rule.plans[:-1]:
            with rule.handle.under(plan):
                found.append(SURENESS[rule.by](logits_in(rule.model(**inputs)).float()))
        return -torch.stack(found).sum(0)


class Ruled(NamedTuple):
    """Shares of rows: that are answered right, and that go to the slowest plan."""

    quality: float
    slow: float


def rules_of(front: Front, plans: Mapping[str, Plan], server: Server, weights: Path) -> dict[str, ByRow]:
    """The cascade and the router that `adapt` found, but for one that sends all rows to one plan."""
    found = {}
    for one in [] if front.adapted is None else front.adapted.contestants:
        if one.decides and 1.0 not in one.shares:
            mine, threshold = [plans[name] for name in one.plans], one.threshold or 0.0
            if one.routes and one.guesses is not None:
                found[one.name] = server.router(mine, kept_guesses(weights, one.guesses), threshold, one.block or 0)
            elif not one.routes:
                found[one.name] = server.cascade(mine, str(one.by), threshold)
    return found


@torch.inference_mode()
def ruled(task: Task, rule: ByRow, batches: Iterable[Batch]) -> Ruled:
    """A cascade or a router on batches of pictures: right answers, and rows that go to its slowest plan."""
    right, slow = [], []
    for batch in batches:
        logits, places = rule(batch.inputs)
        right.append((logits.argmax(-1).cpu() == torch.as_tensor(batch.labels).cpu()).float())
        slow.append((places == len(rule.plans) - 1).float().cpu())
    return Ruled(float(torch.cat(right).mean()), float(torch.cat(slow).mean()))


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
    """What an attack on compute makes of each that it was made for, and of all others on the same rows."""
    notes = []
    for target in dict.fromkeys(one.made_for for one in dearer):
        rows = [one for one in dearer if one.made_for == target]
        others = [one for one in rows if one.name != target]
        notes += [_dearer(one) for one in rows if one.name == target]
        same = all(one.tokens == one.attacked_tokens for one in others)
        apart = [one.attacked_ms / one.ms for one in others]
        static = f"{len(others)} static plan{'s' if len(others) > 1 else ''} on the same rows"
        notes.append(
            f"{static}: {'' if same else 'NOT '}as many tokens as before, {min(apart):.2f} to {max(apart):.2f} times "
            "the time, which is what the clock does"
        )
    return notes


def _dearer(one: DearerPlan) -> str:
    if one.tokens is not None and one.attacked_tokens is not None:
        what = f"{one.attacked_tokens:.1f} tokens in place of {one.tokens:.1f}"
    else:
        slow, before = one.attacked_slow or 0.0, one.slow or 0.0
        what = f"{slow:.0%} of the rows to its slowest plan in place of {before:.0%}"
    return (
        f"{one.name} under an attack on compute: {what}, {one.attacked_ms:.2f} ms in place of {one.ms:.2f}, quality "
        f"{100 * one.attacked_quality:.1f} % in place of {100 * one.quality:.1f}"
    )
