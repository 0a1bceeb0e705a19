"""Plans chosen row by row as methods among others: a cascade and a router whose mean latency is the target.

What stages by row are compared by (`rivals.counted_rows`) works with the same answers and times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from prunesearch.core.events import say
from prunesearch.core.plans.flow import Flow
from prunesearch.core.plans.plan import Plan
from prunesearch.core.tables.row_kinds import RivalRow
from prunesearch.export.by_row.serving import time_forwards
from prunesearch.search.adaptive.adapting import CASCADE, ROUTER, UNPRUNED, Adapting, AdaptSettings, mean_by_plan
from prunesearch.search.adaptive.choosing import RowRule
from prunesearch.search.adaptive.row_answers import RowAnswers, answers_of
from prunesearch.search.adaptive.row_prices import RowPrices
from prunesearch.search.finish.kept import Kept
from prunesearch.search.rivals.arena import Arena, Effort, LeftOutError
from prunesearch.search.rivals.meeting import INSIDE
from prunesearch.search.solve.seed import spread
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.study.front_records import RowLatency
from prunesearch.tasks.batching.batches import EvalSet

OURS = "ours"  # the search's plan at the target, among those that are chosen between
_OTHERS = 2  # of the search's plans, beside it and the unpruned model
_STEPS = 10  # of bisecting
_BATCHES = 40  # that are timed
_PRICED = 20  # on which a number is set
_LEAST = 64  # rows that may be asked for
_AIM = 0.98  # of the target, by calibration rows


@dataclass(frozen=True)
class Served:
    """A method that chooses plans row by row, at the target.

    Attributes:
        evaluation: on holdout rows, in their own order.
        unpruned, ours: the unpruned model and the search's plan on the same rows.
        latency: over batches of unlike rows.
        unpruned_ms: mean of the unpruned model on the same batches.
        text: the plans and the rule, in a line.
        stages: of the plan that has most.
        effort: of the answers on calibration rows.
        runs: how often a row runs each plan.
        plan: the one plan, where its stages leave every row a count of its own.
        flows: how tokens flow through it, in some batches.
    """

    evaluation: Evaluation
    unpruned: Evaluation
    ours: Evaluation
    latency: RowLatency
    unpruned_ms: float
    text: str
    stages: int
    effort: Effort
    runs: Mapping[Plan, float] = field(default_factory=dict)
    plan: Plan | None = None
    flows: Sequence[Flow] = ()


@dataclass
class RowWork(Adapting):
    """Chooses among some plans of the search; answers and times are kept."""

    given: Mapping[str, Plan] | None = None
    kept: Kept | None = None

    @cached_property
    def plans(self) -> dict[str, Plan]:
        """The unpruned model, and those given."""
        return {UNPRUNED: Plan(), **(self.given or {})}

    @cached_property
    def calibration(self) -> tuple[dict[str, RowAnswers], Tensor]:
        """Answers and early states on calibration rows."""
        return self._read("calibration")

    @cached_property
    def holdout(self) -> tuple[dict[str, RowAnswers], Tensor]:
        """The same on holdout rows."""
        return self._read("holdout")

    @cached_property
    def costs(self) -> dict[str, float]:
        """See `Adapting`."""

        def make() -> dict[str, Tensor]:
            return _tensors({name: [ms] for name, ms in super(RowWork, self).costs.items()})

        found = self.once({"priced": self._said}, make)
        return {name: float(value) for name, value in found.items()}

    def times(self, chosen: Mapping[str, RowRule]) -> dict[int, dict[str, list[float]]]:
        """See `Adapting`; of one number of rows in a batch."""
        (size,) = self.wanted.batch_sizes
        rules = [[name, *one.plans, one.by, one.threshold] for name, one in chosen.items()]
        found = self.once({"timed": self._said, "rules": rules}, lambda: _tensors(Adapting.times(self, chosen)[size]))
        return {size: {name: value.tolist() for name, value in found.items()}}

    def at(self, kind: str, share: float) -> RowRule | None:
        """What keeps most of the quality at a share of the unpruned cost, by bisecting what a rule is to keep."""
        best, low, high = None, 0.0, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            self.wanted = replace(self.wanted, keep=middle)
            found = self.rule(kind)
            if found is not None and found.cost <= share * self.costs[UNPRUNED]:
                best, low = found, middle
            else:
                high = middle
        return best

    def share_of(self, plan: Plan) -> float:
        """Of the unpruned model's mean time on batches of calibration rows, what a plan takes."""
        batches = self.batches("calibration", self.wanted.batch_sizes[0])[:_PRICED]
        forwards = {name: self.server.static(one) for name, one in (("plan", plan), (UNPRUNED, Plan()))}
        times = time_forwards(forwards, batches, self.setting.config.seed)
        return float(np.mean(times["plan"]) / np.mean(times[UNPRUNED]))

    @cached_property
    def effort(self) -> Effort:
        """What the answers on calibration rows took."""
        rows, whole = self.split("calibration").n, self.costs[UNPRUNED]
        seconds = float(self._answers("calibration")["seconds"])
        return Effort(seconds, round(sum(rows * self.costs[name] / whole for name in self.plans)))

    @cached_property
    def row_prices(self) -> RowPrices:
        """See `Adapting`; what counting takes is kept."""
        found = self.once({"counting": self._said}, lambda: _tensors({"ms": [self.counting_ms()]}))
        return self.priced_with(float(found["ms"]))

    def evaluated(self, plans: Mapping[str, Plan], rows: EvalSet) -> dict[str, Evaluation]:
        """See `Adapting`; the answers of one plan are kept."""
        found = {}
        for name, plan in plans.items():

            def make(name: str = name, plan: Plan = plan) -> dict[str, Tensor]:
                one = Adapting.evaluated(self, {name: plan}, rows)[name]
                return {"statistics": one.statistics, "kl": one.kl, "agrees": one.agrees}

            parts = self.once({"by_score": plan.to_dict(), "split": rows.name, "rows": rows.n}, make)
            found[name] = Evaluation(parts["statistics"], parts["kl"], parts["agrees"], self.task.scoring)
        return found

    @property
    def _said(self) -> list[object]:
        """What tells this work from others."""
        plans = [[name, plan.to_dict()] for name, plan in self.plans.items()]
        return [plans, self.wanted.rows, list(self.wanted.batch_sizes), self.wanted.batches]

    def once(self, of: dict[str, object], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `make` finds, or found before."""
        return make() if self.kept is None else self.kept.tensors(of, make)

    def _answers(self, name: str) -> dict[str, Tensor]:
        """What `answers_of` finds, and how long it took."""

        def make() -> dict[str, Tensor]:
            begun = time.monotonic()
            found, states = answers_of(self.task, self.handle, self.plans, self.split(name), self.early)
            parts = {"states": states, "seconds": torch.tensor(time.monotonic() - begun)}
            for plan, one in found.items():
                mine = one.evaluation.statistics, one.evaluation.kl, one.evaluation.agrees, one.logits
                parts |= {f"{plan}/{i}": part for i, part in enumerate(mine)}
            return parts

        return self.once({"answers": self._said, "split": name}, make)

    def _read(self, name: str) -> tuple[dict[str, RowAnswers], Tensor]:
        parts, found = self._answers(name), {}
        for plan in self.plans:
            statistics, kl, agrees, logits = (parts[f"{plan}/{i}"] for i in range(4))
            found[plan] = RowAnswers(Evaluation(statistics, kl, agrees, self.task.scoring), logits)
        return found, parts["states"]


def row_work(arena: Arena, ours: Plan, others: Sequence[Plan], rows: int, work: type[RowWork] = RowWork) -> RowWork:
    """The work on the search's plan at the target and some slower and faster ones of its plans."""
    rest = [plan for plan in others if plan != ours]
    names = {OURS: ours, **{f"other-{i}": plan for i, plan in enumerate(spread(rest, _OTHERS, arena.prices.predict))}}
    batch = (arena.setting.config.batch_size,)
    settings = AdaptSettings(batch_sizes=batch, rows=max(_LEAST, rows), batches=_BATCHES)
    return work(arena.front, arena.setting, arena.handle, settings, given=names, kept=arena.kept, table=arena.prices)


def cascade(work: RowWork, share: float, row: RivalRow) -> Served:
    """A fast plan for all rows, then a slower one where it is unsure; see `served`."""
    return served(work, CASCADE, share)


def router(work: RowWork, share: float, row: RivalRow) -> Served:
    """An early block says which plan a row runs; see `served`."""
    return served(work, ROUTER, share)


def served(work: RowWork, kind: str, share: float) -> Served:
    """The cascade or the router that is best on calibration rows at a share of the unpruned latency.

    Raises:
        LeftOutError: if none of its rules is as fast.
        PruneSearchError: if answers are no classes, or the model has no block to decide after.
    """
    with torch.inference_mode():
        chosen = work.at(kind, _AIM * share)
        if chosen is None:
            raise LeftOutError("no rule on calibration rows is as fast")
        say(f"{kind}: {' > '.join(chosen.plans)}, by {chosen.by}")
        places = work.places(kind, chosen)
        shares = [float((places == place).double().mean()) for place in range(len(chosen.plans))]
        (times,) = work.times({kind: chosen}).values()
        latency, unpruned = latency_of(work, kind, chosen, times, shares)
        if latency.least > INSIDE * share * unpruned:
            most = unpruned / latency.least
            raise LeftOutError(f"the rule that was as fast on calibration rows is measured at {most:.2f}x")
        answers = work.holdout[0]
        return Served(
            evaluation=work.judged(kind, chosen),
            unpruned=answers[UNPRUNED].evaluation,
            ours=answers[OURS].evaluation,
            latency=latency,
            unpruned_ms=unpruned,
            text=_said(work, chosen, shares),
            stages=max(len(work.plans[name]) for name in chosen.plans),
            effort=work.effort,
            runs={
                work.plans[name]: sum(shares[i:]) if kind == CASCADE else shares[i]
                for i, name in enumerate(chosen.plans)
            },
        )


def latency_of(
    work: RowWork, kind: str, chosen: RowRule, times: Mapping[str, Sequence[float]], shares: list[float]
) -> tuple[RowLatency, float]:
    """The spread of latency over batches, and the unpruned model's mean on the same ones."""
    means = {name: float(np.mean(ms)) for name, ms in times.items()}
    p50, p95 = (float(np.quantile(times[kind], q)) for q in (0.5, 0.95))
    latency = RowLatency(
        batch_size=work.wanted.batch_sizes[0],
        mean=means[kind],
        p50=p50,
        p95=p95,
        worst=max(times[kind]),
        by_plan=mean_by_plan(kind, chosen, shares, means),
    )
    return latency, means[UNPRUNED]


def _said(work: RowWork, chosen: RowRule, shares: Sequence[float]) -> str:
    each = ", ".join(f"{work.plans[name]} for {part:.0%}" for name, part in zip(chosen.plans, shares, strict=True))
    return f"{each} of the rows, by {chosen.by}"


def _tensors(lists: Mapping[str, Sequence[float]]) -> dict[str, Tensor]:
    return {name: torch.tensor(list(values), dtype=torch.float64) for name, values in lists.items()}
