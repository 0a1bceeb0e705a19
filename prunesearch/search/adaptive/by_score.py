"""Stages that leave every row a count of its own, with numbers from calibration rows: each the twin of a fraction.

A twin leaves as many tokens on average as the stage with the fraction does, but more to one row and fewer to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prunesearch.core.plans.amount import TYPED, Amount
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import ENCODER, TOP_K, Stage
from prunesearch.core.tables.token_tables import MERGES, SCORERS
from prunesearch.pruning.apply import Handle
from prunesearch.tasks.batching.batches import Inputs

KINDS = [letter for letter, kind in TYPED.items() if kind.counts]  # of amounts by row, as people type them
_PARTS = (0.25, 0.5)  # of the depth: where a stage by itself is tried
_KEEPS = (0.7, 0.4)
_POINTS = 4  # of the front, at most
METHODS = (("attention_received", "drop"), ("cls_attention", "fuse"))  # LTP's; EViT's
_LEAST, _MOST, _STEPS = 1e-4, 1.0, 12  # of a threshold that is sought, at first; halvings of the range
_NEAR = 0.03  # of the tokens that are to be left, within which a number is near enough


@dataclass(frozen=True)
class RowTwins:
    """Finds stages by row that leave as many tokens on average as fractions do.

    Attributes:
        model: that answers.
        handle: on it.
        rows: batches of calibration rows.
    """

    model: nn.Module
    handle: Handle
    rows: Sequence[Inputs]

    def of(self, plan: Plan, letter: str) -> Plan | None:
        """The twin of a plan with amounts of one kind; None where no stage of it can have one, or none is needed."""
        stages: list[Stage] = []
        for stage in plan:
            if not convertible(stage):
                if not MERGES.entry(stage.merge).uses_scores and any(before.by_row for before in stages):
                    return None
                stages.append(stage)
                continue
            wanted = self.left(Plan(Schedule([*stages, stage]), plan.changes))
            stages.append(stage.replace(keep=self._matched(stages, stage, wanted, letter, plan)))
        return Plan(Schedule(stages), plan.changes) if any(stage.by_row for stage in stages) else None

    def _matched(self, before: Sequence[Stage], stage: Stage, wanted: float, letter: str, plan: Plan) -> Amount:
        """The amount of a kind that leaves `wanted` tokens on average."""
        kind: Any = TYPED[letter]

        def left(number: float) -> float:
            return self.left(Plan(Schedule([*before, stage.replace(keep=kind(number))]), plan.changes))

        found: Amount = kind(matched(left, wanted, bounded=kind.bounded))
        return found

    @torch.inference_mode()
    def left(self, plan: Plan) -> float:
        """Tokens behind the last block, on average over rows."""
        counts = [count for inputs in self.rows for count in counts_of(self.model, self.handle, plan, inputs)]
        return sum(counts) / len(counts)


def matched(left: Callable[[float], float], wanted: float, *, bounded: bool) -> float:
    """The number of an amount with which about `wanted` tokens are left (`left` says how many are).

    Args:
        left: of a number.
        wanted: tokens.
        bounded: whether the number lies in (0, 1] and leaves more the greater it is; else it lies anywhere above 0 and
            leaves fewer.
    """
    low, high = (0.0, 1.0) if bounded else _bracket(left, wanted)
    best, nearest = high, float("inf")
    for _ in range(_STEPS):
        middle = (low + high) / 2 if bounded else (low * high) ** 0.5
        middle = float(f"{middle:.3g}")
        found = left(middle)
        if abs(found - wanted) < nearest:
            best, nearest = middle, abs(found - wanted)
        if nearest <= _NEAR * wanted:
            break
        if (found > wanted) == bounded:
            high = middle
        else:
            low = middle
    return best


def _bracket(left: Callable[[float], float], wanted: float) -> tuple[float, float]:
    """Thresholds of which the first leaves too many tokens, and the second too few."""
    low, high = _LEAST, _MOST
    for _ in range(_STEPS):
        if left(high) <= wanted:
            break
        low, high = high, 10 * high
    for _ in range(_STEPS):
        if low > _LEAST or left(low) >= wanted:
            break
        low, high = low / 10, low
    return low, high


def counts_of(model: nn.Module, handle: Handle, plan: Plan, inputs: Inputs) -> list[int]:
    """Tokens of each row behind the last block."""
    with handle.under(plan), handle.observing() as blocks:
        model(**inputs)
        tokens, (batch, n) = handle.tokens, blocks[-1].shape[:2]
    if tokens is None or tokens.valid is None:
        return [n if tokens is None else tokens.n] * batch
    return [int(count) for count in tokens.valid.sum(1)]


def convertible(stage: Stage) -> bool:
    """Whether a stage with a fraction has a twin."""
    scored = MERGES.entry(stage.merge).uses_scores and not SCORERS.entry(stage.scorer).by_place
    return scored and not stage.by_row and stage.selection == TOP_K and stage.place.part == ENCODER


def fractions(points: Mapping[str, Plan], depth: int) -> Iterator[tuple[str, Plan]]:
    """The plans that are given twins: the points of a front, and stages by themselves."""
    able = [name for name, plan in points.items() if any(map(convertible, plan))]
    for name in able[:: max(1, len(able) // _POINTS)][:_POINTS]:
        yield name, points[name]
    for block in sorted({int(part * depth) for part in _PARTS}):
        for scorer, merge in METHODS:
            for keep in _KEEPS:
                yield f"{block}:{keep} {scorer}+{merge}", Plan(Schedule([Stage(block, keep, scorer, merge)]))
