"""The time to the last token of an answer as a cost: the first token by the table, all others by what the cache holds.

A step of decoding reads all weights, and of each block's cache what its attention was given: it takes so long, and so
much longer for each token that is kept. Both numbers are fitted to answers written end to end, and judged on answers
under schedules that the fit has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import say
from prunesearch.core.plans.flow import Flow, Geometry
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.stage import ENCODER, method_of
from prunesearch.cost.costs import Costs, OfOneModel
from prunesearch.cost.tables.percentile import MEDIAN
from prunesearch.cost.timing.samples import Samples
from prunesearch.cost.timing.validate import measure_schedules
from prunesearch.search.costs.bench import Bench, Pricing, measured_latency
from prunesearch.study.front_items import Measured

_ROUNDS = 7
# shares of the tokens of pictures, dropped in the first block or in the middle: those fitted to, and those judged by
_FITTED = ((0.6, 0), (0.2, 0), (0.05, 0), (0.2, 1))
_UNSEEN = ((0.8, 0), (0.4, 0), (0.1, 1))


@dataclass(frozen=True)
class AnswerCosts(OfOneModel):
    """Milliseconds to the last token of a batch's answers.

    Attributes:
        first: to the first token.
        steps: of all steps behind it, whatever is in the cache.
        kept: more for each token in the cache of one block.
    """

    first: Costs
    steps: float
    kept: float

    @property
    def geometry(self) -> Geometry:
        """Of the model that is priced."""
        return self.first.geometry

    @property
    def in_tower(self) -> Costs | None:
        """Of the tower: it works for the first token."""
        return self.first.in_tower

    def under(self, changes: tuple[Change, ...]) -> AnswerCosts:
        """Of the model with these changes: steps get as much faster as the unpruned model's first token."""
        if not changes:
            return self
        first = self.first.under(changes)
        share = first.predict(Plan()) / self.first.predict(Plan())
        return AnswerCosts(first, share * self.steps, share * self.kept)

    def price(self, flow: Flow) -> float:
        """A whole answer."""
        return self.first.price(flow) + self.steps + self.kept * in_cache(flow)

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """The attention half of a block at `n` tokens, in the prompt and in every step behind it."""
        return self.first.attention(n, sized, layer) + self.kept * n

    def mlp(self, n: int, layer: int) -> float:
        """The MLP half of a block at `n` tokens of the prompt."""
        return self.first.mlp(n, layer)

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """One stage."""
        return self.first.reduce(scorer, merge, n_in, n_out)

    @property
    def stem(self) -> float:
        """What surrounds the blocks, and the steps behind the first token."""
        return self.first.stem + self.steps

    def head(self, n: int) -> float:
        """What `n` tokens at the end cost more or less than the whole sequence."""
        return self.first.head(n)


class AnswerPricing(Pricing):
    """Milliseconds to the last token of answers as long as the unpruned model's are on average."""

    def costs(self, bench: Bench) -> AnswerCosts:
        """Fitted now, and judged on schedules that the fit has not seen.

        Raises:
            PruneSearchError: for a model that writes nothing behind what is reduced, a percentile, or several loads.
        """
        writes = self._writing(bench)
        timed = self._timed(bench, writes, tried(bench), "writing answers")
        found, how_good = judged(bench, [samples.median_ms for samples in timed])
        say(f"answer: the time to the last of {writes.tokens} tokens, {timed[0].median_ms:.3g} ms unpruned; {how_good}")
        return found

    def measure(self, bench: Bench, schedules: Sequence[Plan]) -> list[Measured]:
        """End to end, interleaved."""
        return [measured_latency(samples) for samples in self._timed(bench, self._writing(bench), schedules, "answers")]

    def _writing(self, bench: Bench) -> Writes:
        if bench.config.concurrency > 1:
            raise PruneSearchError(
                "objective answer is the time of one request at a time, but several are asked for (--concurrency): use "
                "--objective throughput"
            )
        return writing(bench, "answer")

    def _timed(self, bench: Bench, writes: Writes, schedules: Sequence[Plan], label: str) -> list[Samples]:
        config = bench.config
        return measure_schedules(
            writes,
            bench.task.timing_inputs(config.batch_size),
            list(schedules),
            time_budget_s=bench.seconds,
            min_rounds=_ROUNDS,
            label=label,
            keep=bench.keep,
            tolerance=config.promise.latency_error,
        )


class Writes(nn.Module):
    """A model whose forward writes an answer of `tokens` tokens, however early it would end.

    Args:
        task: a `tasks.kinds.seq2seq.Writing`.
    """

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.model, self.task, self.tokens = task.model, task, int(task.usual)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Tokens `[b, t]`, the prompt's among them."""
        written: Tensor = self.task.exactly(inputs, self.tokens)
        return written


def in_cache(flow: Flow) -> int:
    """Tokens of a prompt that the caches of all blocks hold together."""
    return sum(step.n_in for step in flow)


def fitted(first: Costs, plans: Sequence[Plan], ms: Sequence[float]) -> AnswerCosts:
    """What is least off, in squares, for answers under `plans` that took `ms` to their last token."""
    rest = [took - first.predict(plan) for plan, took in zip(plans, ms, strict=True)]
    held = [in_cache(plan.flow(first.geometry)) for plan in plans]
    kept, steps = np.polyfit(held, rest, 1)
    if kept < 0:  # within noise: a longer cache is never read faster
        kept, steps = 0.0, mean(rest)
    return AnswerCosts(first, float(steps), float(kept))


def _plan(bench: Bench, keep: float, half: int) -> Plan:
    geometry, method = bench.setting.geometry, bench.tables[0].table.cells.reduce[0]  # one that the table has
    block = half * (geometry.depth // 2)
    return Plan.parse(f"{geometry.part}/{block}:{keep} {method_of(method.scorer, method.merge)}")


def tried(bench: Bench) -> list[Plan]:
    """The plans that `judged` asks the times of: those that it fits to, the unpruned model first, and others."""
    return [Plan(), *(_plan(bench, *dropped) for dropped in (*_FITTED, *_UNSEEN))]


def judged(bench: Bench, ms: Sequence[float]) -> tuple[AnswerCosts, str]:
    """Costs fitted to the first of the times of answers under the plans `tried`, and how near they come to the others.

    Args:
        ms: of each plan, to the last token.
    """
    plans, seen = tried(bench), 1 + len(_FITTED)
    found = fitted(bench.tables[0].costs, plans[:seen], ms[:seen])
    unseen = zip(plans[seen:], ms[seen:], strict=True)
    errors = [abs(found.predict(plan) / took - 1) for plan, took in unseen]
    said = f"mean error of {mean(errors):.1%} (worst {max(errors):.1%}) on {len(errors)} unseen schedules"
    return found, f"predicted with a {said}"


def writing(bench: Bench, objective: str) -> Writes:
    """What writes the answers that an objective is of.

    Raises:
        PruneSearchError: for a model that writes nothing behind what is reduced, a percentile, or several loads.
    """
    if bench.setting.geometry.part == ENCODER or not hasattr(bench.task, "exactly"):
        raise PruneSearchError(
            f"objective {objective} is of models that read pictures in the prompt of a decoder, but the task is "
            f"{bench.task.name}: use --objective latency"
        )
    if bench.config.percentile != MEDIAN or len(bench.setting.loads) > 1:
        raise PruneSearchError(
            f"objective {objective} is the median under one load: leave --percentile and other loads out"
        )
    return Writes(bench.task)
