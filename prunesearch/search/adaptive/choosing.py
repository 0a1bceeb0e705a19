"""Choosing which plans a row may go to, and from which sureness on it goes to a fast one, on calibration rows.

All plans share one threshold, so that what is tried is one line from "all rows to the fastest" to "all to the slowest".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunesearch.export.by_row.row_rule import PlanGuess, sent_to
from prunesearch.search.trials.evaluate import Evaluation

_CUTS = 100  # thresholds that are tried
_ALL = -1e6  # a threshold that any row meets, also one that is less sure than all that were seen
_RIDGES = (1e-2, 1e-1, 1.0, 10.0)
_STEPS = 100


@dataclass(frozen=True)
class RowRule:
    """Plans, and the threshold between them.

    Attributes:
        plans: their names, the fastest first.
        by: what the sureness is read off: a name in `SURENESS`, or what an early block says.
        threshold: a row goes to the first plan, but for the last, whose sureness is at least this.
        shares: of calibration rows that go to each plan.
        quality: of all of them together on calibration rows.
        cost: expected, in the unit of the costs given.
        loss: divergence from the unpruned model on calibration rows, of one plan for all rows.
    """

    plans: tuple[str, ...]
    by: str
    threshold: float
    shares: tuple[float, ...]
    quality: float
    cost: float
    loss: float = 0.0


def learnt_guess(states: Tensor, same: Tensor) -> PlanGuess:
    """A guess fitted to states `[n, width]` of rows that a plan answers as the unpruned model does, or not, `[n]`.

    Its ridge is the one with which half of the rows tell most of the other half: rows are few beside a model's width.
    """
    with torch.inference_mode(False), torch.enable_grad():
        known, target, guess = states.clone(), same.float().clone(), PlanGuess(states.shape[1])
        mean, scale = known.mean(dim=0), known.std(dim=0).clamp_min(1e-6)
        standard = (known - mean) / scale

        def missed(ridge: float) -> float:
            _fit(guess.layer, standard[::2], target[::2], ridge)
            with torch.no_grad():
                said = guess.layer(standard[1::2])[:, 0]
                return float(nn.functional.binary_cross_entropy_with_logits(said, target[1::2]))

        _fit(guess.layer, standard, target, min(_RIDGES, key=missed))
        guess.get_buffer("mean").copy_(mean)
        guess.get_buffer("scale").copy_(scale)
    return guess.requires_grad_(False)


def _fit(layer: nn.Linear, inputs: Tensor, target: Tensor, ridge: float) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimiser: Any = torch.optim.LBFGS(layer.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        found: Tensor = nn.functional.binary_cross_entropy_with_logits(layer(inputs)[:, 0], target)
        found = found + ridge * layer.weight.square().sum()
        torch.autograd.backward(found)
        return found

    optimiser.step(loss)


def mixed_answers(each: Sequence[Evaluation], places: Tensor) -> Evaluation:
    """What plans find together, each the rows that are sent to it: `places` int64 `[n]`."""

    def of(parts: Sequence[Tensor]) -> Tensor:
        wide = torch.stack([part.to(parts[-1].dtype) for part in parts])
        return wide[places, torch.arange(len(places))]

    statistics, kl, agrees = (of([getattr(e, part) for e in each]) for part in ("statistics", "kl", "agrees"))
    return Evaluation(statistics, kl, agrees, each[0].metric)


def border(each: Sequence[Evaluation], sure: Tensor, floor: float) -> tuple[float, Tensor, float] | None:
    """The lowest threshold, which is the cheapest, at which the quality of all together is at least `floor`.

    Args:
        each: what the plans find on the same rows, the fastest first.
        sure: sureness `[n, plans - 1]`.
        floor: of the quality.

    Returns:
        Threshold, the place of every row's plan, and quality; None if no threshold is good enough.
    """
    ordered, rows = sure.flatten().sort().values, torch.arange(len(sure))
    wide, metric = torch.stack([found.statistics for found in each]), each[0].metric
    for cut in range(_CUTS + 1):
        place = round(cut / _CUTS * len(ordered))
        threshold = float(ordered[place]) if place < len(ordered) else float(ordered[-1]) + 1.0
        threshold = threshold if cut else _ALL
        places = sent_to(sure, threshold)
        quality = metric.value(wide[places, rows])
        if quality >= floor:
            return threshold, places, quality
    return None


def cheapest(
    evaluations: Mapping[str, Evaluation],
    sureness: Mapping[tuple[tuple[str, ...], str], Tensor],
    costs: Mapping[str, float],
    floor: float,
    *,
    runs_all: bool,
    before: float = 0.0,
    within: Callable[[Sequence[str], Tensor], bool] = lambda plans, places: True,
) -> RowRule | None:
    """The plans with the threshold that cost least of those that keep the quality on calibration rows.

    Args:
        evaluations: of every plan, on the same rows.
        sureness: `[n, plans - 1]`, by the plans from the fastest on and what it is read off.
        costs: of each plan.
        floor: of the quality.
        runs_all: whether a row has run all faster plans before it comes to its own.
        before: what deciding costs.
        within: whether plans, with the place of every row's, are fast enough.
    """
    found = []
    for (plans, by), sure in sureness.items():
        ended = border([evaluations[name] for name in plans], sure, floor)
        if ended is None:
            continue
        threshold, places, quality = ended
        if not within(plans, places):
            continue
        shares = [float((places == place).float().mean()) for place in range(len(plans))]
        runs = [sum(shares[place:]) if runs_all else share for place, share in enumerate(shares)]
        cost = before + sum(share * costs[name] for share, name in zip(runs, plans, strict=True))
        found.append(RowRule(plans, by, threshold, tuple(shares), quality, cost))
    return min(found, key=lambda chosen: chosen.cost, default=None)
