"""Stages that leave every input a count of its own as methods among others, their number set by mean latency."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prunesearch.core.plans.amount import TYPED, Amount
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.row_kinds import RivalRow
from prunesearch.search.adaptive.adapting import BY_SCORE, UNPRUNED
from prunesearch.search.adaptive.by_score import matched
from prunesearch.search.adaptive.choosing import RowRule
from prunesearch.search.adaptive.row_prices import RowPrices
from prunesearch.search.rivals.arena import Effort, LeftOutError
from prunesearch.search.rivals.by_number import EASILY, sites_of
from prunesearch.search.rivals.meeting import INSIDE, NEAR_BY, at_target
from prunesearch.search.rivals.row_by_row import OURS, RowWork, Served, latency_of

_TRIED = 3  # numbers that are timed, at most
_AIM = 0.99  # of the target


@dataclass(frozen=True)
class Numbered:
    """Plans of one method, each set by a number.

    Attributes:
        row: of the method.
        sites: blocks that have a stage.
    """

    row: RivalRow
    sites: Sequence[int]

    @property
    def kind(self) -> type[Amount]:
        """Of the amounts."""
        return TYPED[self.row.amount]

    def plan(self, number: float) -> Plan:
        """The plan that a number sets."""
        kind: Any = self.kind
        how = self.row.scorer, self.row.merge, self.row.selection
        return Plan(Schedule([Stage(site, kind(number), *how) for site in self.sites]))

    @property
    def fastest(self) -> Plan:
        """The plan that leaves next to nothing."""
        return self.plan(1e-6 if self.kind.bounded else 1e6)


def by_score(work: RowWork, share: float, row: RivalRow) -> Served:
    """The plan of a method whose batches of real rows take a share of the unpruned latency, on average.

    Its number is bisected on the cost table at the counts that calibration rows have, and corrected by what was timed
    on them; no quality has a part in it.

    Raises:
        LeftOutError: if no number is as fast.
        PruneSearchError: if answers are no classes.
    """
    with torch.inference_mode():
        plan, effort = _found(work, share, row)
        work.stages[BY_SCORE] = plan
        chosen = RowRule((str(plan),), "its scores", 0.0, (1.0,), 0.0, 0.0)
        (times,) = work.times({BY_SCORE: chosen}).values()
        latency, unpruned = latency_of(work, BY_SCORE, chosen, times, [1.0])
        if latency.least > INSIDE * share * unpruned:
            raise LeftOutError(
                f"the number that was as fast on calibration rows is measured at {unpruned / latency.least:.2f}x"
            )
        answers = work.holdout[0]
        return Served(
            evaluation=work.judged(BY_SCORE, chosen),
            unpruned=answers[UNPRUNED].evaluation,
            ours=answers[OURS].evaluation,
            latency=latency,
            unpruned_ms=unpruned,
            text=str(plan),
            stages=len(plan),
            effort=effort,
            plan=plan,
            flows=work.row_prices.flows(plan),
        )


def _found(work: RowWork, share: float, row: RivalRow) -> tuple[Plan, Effort]:
    """The plan at the target, and what seeking its number took; kept from before where it was sought."""

    def seek() -> dict[str, torch.Tensor]:
        begun, seen = time.monotonic(), work.row_prices.seen
        numbered, number = _sought(work, share, row)
        took = torch.tensor([time.monotonic() - begun, work.row_prices.seen - seen], dtype=torch.float64)
        return {
            "sites": torch.tensor(numbered.sites),
            "number": torch.tensor(number, dtype=torch.float64),
            "took": took,
        }

    of = [row.scorer, row.merge, row.amount, row.selection, share]
    known = work.once({"numbered": of}, seek)
    seconds, rows = known["took"].tolist()
    return Numbered(row, known["sites"].tolist()).plan(float(known["number"])), Effort(seconds, int(rows))


def _sought(work: RowWork, share: float, row: RivalRow) -> tuple[Numbered, float]:
    prices, off = work.row_prices, 1.0
    whole = prices.mean(Plan())
    numbered = next(_able(work, prices, share * whole, row))
    tried: dict[Plan, float] = {}
    numbers: dict[Plan, float] = {}
    for _ in range(_TRIED):
        wanted = _AIM * share * whole / off
        number = matched(lambda n: prices.mean(numbered.plan(n)), wanted, bounded=numbered.kind.bounded)
        plan = numbered.plan(number)
        if plan in tried:
            break
        tried[plan], numbers[plan] = work.share_of(plan), number
        if NEAR_BY * share <= tried[plan] <= INSIDE * share:
            break
        off = tried[plan] / (prices.mean(plan) / whole)
    best = at_target(tried, share)
    if tried[best] > INSIDE * share:
        raise LeftOutError(f"its fastest schedule near it ({best}) is measured at {1 / tried[best]:.2f}x")
    return numbered, numbers[best]


def _able(work: RowWork, prices: RowPrices, limit: float, row: RivalRow) -> Iterator[Numbered]:
    """The method at the latest blocks at which it can be fast enough, or at the earliest that there are."""
    last = None
    for sites in sites_of(row, work.setting.geometry.depth):
        last = Numbered(row, sites)
        if prices.mean(last.fastest) <= EASILY * limit:
            yield last
    if last is not None:
        yield last
