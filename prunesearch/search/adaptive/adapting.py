"""Choosing a cascade and a router among the points of a front, judging them, and running them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from prunesearch.core.constraint import relative_bound
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import track
from prunesearch.core.plans.amount import Cumulative
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.costs import Costs
from prunesearch.export.by_row.row_rule import SURENESS, ByRow, EarlyStates, PlanGuess, sent_to
from prunesearch.export.by_row.serving import Server, time_forwards
from prunesearch.pruning.apply import Handle
from prunesearch.search.adaptive.bounding import BatchCosts, RowBudget
from prunesearch.search.adaptive.by_score import KINDS, METHODS, RowTwins, counts_of, fractions
from prunesearch.search.adaptive.choosing import RowRule, cheapest, learnt_guess, mixed_answers
from prunesearch.search.adaptive.learnt import LearntThresholds
from prunesearch.search.adaptive.row_answers import RowAnswers, answers_of
from prunesearch.search.adaptive.row_prices import RowPrices, counting_ms
from prunesearch.search.finish.robustness import part_of
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.study.front import Front
from prunesearch.study.setup import Setting
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import EvalSet, Inputs
from prunesearch.training.thresholds import ThresholdSchool

UNPRUNED, CASCADE, ROUTER, BY_SCORE = "unpruned", "cascade", "router", "by-score"
LEARNT = "learnt-thresholds"
_EARLY = "block"  # what a router reads
_MOST_PLANS = 4  # of a router
_PRICED = 20  # batches that price plans for the choice
_COUNTED, _COUNTED_ON = 0.7, 12  # share of the scores, of a stage whose counting is timed; batches that are counted
_MATCHED = 32  # calibration rows on which a stage by row is made to leave as many tokens as a fraction does
_SCREENED, _SLACK = 256, 0.03  # calibration rows that sort out what is far too bad, and how far that is
_MOST_BATCHES = 500


@dataclass(frozen=True)
class AdaptSettings:
    """What is asked for.

    Attributes:
        keep: share of the unpruned quality that a threshold keeps on calibration rows.
        batch_sizes: that are timed.
        rows: of each split, at most.
        block: after which a router decides, from 0.
        batches: that are timed, of each size, at most.
        budget: what batches of the first size may take; None: anything.
    """

    keep: float = 0.99
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    rows: int = 2048
    block: int = 0
    batches: int = 100
    budget: RowBudget | None = None

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise PruneSearchError(f"`0 < keep <= 1` must hold, but got {self.keep}")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise PruneSearchError(f"batch sizes must be at least 1, but got {list(self.batch_sizes)}")
        if self.rows < 64:
            raise PruneSearchError(f"`rows >= 64` must hold, but got {self.rows}: a threshold needs as many")
        if not 10 <= self.batches <= _MOST_BATCHES:
            raise PruneSearchError(f"`10 <= batches <= {_MOST_BATCHES}` must hold, but got {self.batches}")


@dataclass
class Adapting:
    """The work on one study; what is asked of it twice is found once.

    Attributes:
        front: of the study.
        setting: of its model and data.
        handle: on the model.
        wanted: what is asked for.
        guesses: what the router's early block says of each plan but the slowest.
        stages: plans whose stages leave every row a count of its own, by name.
        table: what the model costs in batches of the first size; None: not known.
        school: what learns thresholds; None: none are learnt.
    """

    front: Front
    setting: Setting
    handle: Handle
    wanted: AdaptSettings
    guesses: dict[str, PlanGuess] = field(default_factory=dict)
    stages: dict[str, Plan] = field(default_factory=dict)
    table: Costs | None = None
    school: ThresholdSchool | None = None

    @property
    def task(self) -> Task:
        """The model with its data."""
        return self.setting.task

    @cached_property
    def plans(self) -> dict[str, Plan]:
        """The unpruned model, and the points on its weights, by name."""
        points = {p.id: p.to_plan() for p in self.front.points if p.to_plan().weights is None}
        return {UNPRUNED: Plan(), **points}

    @cached_property
    def server(self) -> Server:
        """What runs plans."""
        return Server(self.task.model, self.handle)

    @cached_property
    def early(self) -> EarlyStates:
        """What a router sees."""
        return EarlyStates(self.task.model, self.handle, self.wanted.block)

    @cached_property
    def calibration(self) -> tuple[dict[str, RowAnswers], Tensor]:
        """Answers and early states on calibration rows."""
        return answers_of(self.task, self.handle, self.plans, self.split("calibration"), self.early)

    @cached_property
    def holdout(self) -> tuple[dict[str, RowAnswers], Tensor]:
        """The same on holdout rows."""
        return answers_of(self.task, self.handle, self.plans, self.split("holdout"), self.early)

    def split(self, name: str) -> EvalSet:
        """Rows of a split, as they are."""
        return self.task.splits[name].take(self.wanted.rows)

    @cached_property
    def costs(self) -> dict[str, float]:
        """Measured milliseconds of a batch of calibration rows, of every plan and of an early block (`block`)."""
        return _medians(self.spreads)

    @cached_property
    def spreads(self) -> dict[str, list[float]]:
        """The same of every batch."""
        return self._timed(self._forwards, self.wanted.batch_sizes[0])

    @property
    def _forwards(self) -> dict[str, Callable[[Inputs], object]]:
        return {**{name: self.server.static(plan) for name, plan in self.plans.items()}, _EARLY: self.early}

    def _timed(self, forwards: Mapping[str, Callable[[Inputs], object]], rows: int) -> dict[str, list[float]]:
        return time_forwards(forwards, self.batches("calibration", rows)[:_PRICED], self.setting.config.seed)

    @cached_property
    def limit(self) -> float | None:
        """Of the budget, in ms; None for none."""
        budget = self.wanted.budget
        return None if budget is None else budget.limit(self.spreads[UNPRUNED])

    def fast_enough(self, name: str) -> bool:
        """Whether a static plan is inside the budget on calibration rows."""
        budget, limit = self.wanted.budget, self.limit
        return budget is None or limit is None or budget.of(self.spreads[name]) <= limit

    def _within(self, *, runs_all: bool) -> Callable[[Sequence[str], Tensor], bool]:
        """Whether plans, with the place of every row's, are inside the budget."""
        budget, limit = self.wanted.budget, self.limit
        if budget is None or limit is None:
            return lambda plans, places: True
        costs, rows = self.costs, self.wanted.batch_sizes[0]
        one = costs if rows == 1 else self._alone
        before = 0.0 if runs_all else costs[_EARLY]
        priced = BatchCosts(rows, one, costs, before, budget.of(self.spreads[UNPRUNED]) / costs[UNPRUNED])
        return lambda plans, places: priced.keeps(budget, limit, plans, places, runs_all=runs_all)

    @cached_property
    def _alone(self) -> dict[str, float]:
        """Measured milliseconds of one row."""
        return _medians(self._timed(self._forwards, 1))

    @cached_property
    def row_prices(self) -> RowPrices:
        """Prices of stages by row on batches of calibration rows."""
        return self.priced_with(self.counting_ms())

    def priced_with(self, counting: float) -> RowPrices:
        """The same, where it is known what counting takes, in ms."""
        if self.table is None:
            raise TypeError("rows are priced by a cost table, and there is none")
        batches = self.batches("calibration", self.wanted.batch_sizes[0])[:_COUNTED_ON]
        return RowPrices(self.table, self.task.model, self.handle, batches, counting)

    def counting_ms(self) -> float:
        """What counting the tokens of rows takes a stage."""
        batches, geometry = self.batches("calibration", self.wanted.batch_sizes[0]), self.setting.geometry
        stage = Stage(geometry.depth // 4, Cumulative(_COUNTED), *METHODS[0])
        return counting_ms(self.task.model, self.handle, stage, batches, geometry)

    def batches(self, split: str, batch_size: int) -> list[Inputs]:
        """Rows of a split as they come."""
        rows = self.split(split)
        count = min(self.wanted.batches, rows.n // batch_size)
        numbers = (list(range(i * batch_size, (i + 1) * batch_size)) for i in range(count))
        return [rows.batches.pick(some, rows.padding)[0].inputs for some in numbers]

    def _sets(self, most: int) -> Iterator[tuple[str, ...]]:
        """Two plans or more, the fastest first."""
        names = sorted(self.plans, key=lambda name: self.costs[name])
        for size in range(2, most + 1):
            yield from itertools.combinations(names, size)

    def choose(self) -> dict[str, RowRule]:
        """The cheapest cascade, router and plan of stages by row that keep enough on calibration rows."""
        found = {kind: self.rule(kind) for kind in self.kinds}
        return {name: chosen for name, chosen in found.items() if chosen is not None}

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is looked for."""
        return (CASCADE, ROUTER, BY_SCORE, *([] if self.school is None else [LEARNT]))

    def rule(self, kind: str) -> RowRule | None:
        """That of one kind; None where none keeps enough."""
        if kind in (CASCADE, ROUTER):
            return self._cascade() if kind == CASCADE else self._router()
        return self._cheapest(kind, self._learnt() if kind == LEARNT else self._twins())

    def _floor(self, evaluations: Mapping[str, Evaluation]) -> float:
        return relative_bound(self.wanted.keep, evaluations[UNPRUNED].quality)

    def _cascade(self) -> RowRule | None:
        answers = self.calibration[0]
        sureness = {
            (plans, by): sure_of(answers[plans[0]].logits)[:, None]
            for plans in self._sets(2)
            for by, sure_of in SURENESS.items()
        }
        evaluations = {name: found.evaluation for name, found in answers.items()}
        floor, within = self._floor(evaluations), self._within(runs_all=True)
        return cheapest(evaluations, sureness, self.costs, floor, runs_all=True, within=within)

    def _router(self) -> RowRule | None:
        """Its guesses have learnt from other calibration rows than its threshold is chosen on."""
        answers, states = self.calibration
        learn, choose = torch.arange(0, len(states), 2), torch.arange(1, len(states), 2)
        said = {name: found.logits.argmax(dim=-1) for name, found in answers.items()}
        for name in self.plans:
            self.guesses[name] = learnt_guess(states[learn], (said[name] == said[UNPRUNED])[learn])
        guessed = {name: guess(states[choose]) for name, guess in self.guesses.items()}
        sureness = {
            (plans, _EARLY): torch.stack([guessed[name] for name in plans[:-1]], dim=1)
            for plans in self._sets(_MOST_PLANS)
        }
        evaluations = {name: part_of(found.evaluation, choose) for name, found in answers.items()}
        floor, before, within = self._floor(evaluations), self.costs[_EARLY], self._within(runs_all=False)
        return cheapest(evaluations, sureness, self.costs, floor, runs_all=False, before=before, within=within)

    def _cheapest(self, kind: str, found: Mapping[str, Plan]) -> RowRule | None:
        """The cheapest plan with counts of each row that keeps enough."""
        rows, floor = self.split("calibration"), self.floor
        few = self.evaluated(found, rows.take(min(_SCREENED, rows.n)))
        able = {name: plan for name, plan in found.items() if few[name].quality >= floor - _SLACK}
        if not able:
            return None
        forwards = {name: self.server.static(plan) for name, plan in able.items()}
        spreads = self._timed(forwards, self.wanted.batch_sizes[0])
        budget, limit, costs = self.wanted.budget, self.limit, _medians(spreads)
        if budget is not None and limit is not None:
            able = {name: plan for name, plan in able.items() if budget.of(spreads[name]) <= limit}
        for name in sorted(able, key=lambda name: costs[name]):
            answers = self.evaluated({name: able[name]}, rows)[name]
            if answers.quality >= floor:
                self.stages[kind], only = able[name], (str(able[name]),)
                return RowRule(only, "its scores", 0.0, (1.0,), answers.quality, costs[name], answers.loss)
        return None

    @cached_property
    def floor(self) -> float:
        """Of the quality on calibration rows."""
        return self._floor({UNPRUNED: self.calibration[0][UNPRUNED].evaluation})

    @cached_property
    def _matching(self) -> RowTwins:
        rows = self.split("calibration")
        numbers = list(range(min(_MATCHED, rows.n)))
        return RowTwins(self.task.model, self.handle, [rows.batches.pick(numbers, rows.padding)[0].inputs])

    def _learnt(self) -> dict[str, Plan]:
        """Thresholds learnt towards the budget, or the time of the fastest static plan that keeps enough."""
        if self.learning is None:
            return {}
        answers = self.calibration[0]
        enough = [name for name in self.plans if answers[name].evaluation.quality >= self.floor]
        best = min(enough, key=lambda name: self.costs[name])
        share = self.costs[best] / self.costs[UNPRUNED]
        if self.limit is not None:
            share = min(share, self.limit / self.costs[UNPRUNED])
        return self.learning.plans(share, self.plans[best].changes)

    @cached_property
    def learning(self) -> LearntThresholds | None:
        """What trains thresholds, where it is asked for."""
        if self.school is None:
            return None
        return LearntThresholds(self.school, self.row_prices, self._matching, self.setting.geometry.depth)

    def _twins(self) -> dict[str, Plan]:
        """The twins of points and of single stages, which leave as many tokens on average."""
        twins, depth = self._matching, self.setting.geometry.depth
        points = {name: plan for name, plan in self.plans.items() if name != UNPRUNED}
        asked = [(name, letter, plan) for name, plan in fractions(points, depth) for letter in KINDS]
        said = f"{len(asked)} sets of stages by row on calibration rows"
        made = [(f"{name} {letter}", twins.of(plan, letter)) for name, letter, plan in track(asked, len(asked), said)]
        return {name: plan for name, plan in made if plan is not None}

    def evaluated(self, plans: Mapping[str, Plan], rows: EvalSet) -> dict[str, Evaluation]:
        """What plans find on rows of a split."""
        answers = answers_of(self.task, self.handle, {UNPRUNED: Plan(), **plans}, rows, self.early)[0]
        return {name: answers[name].evaluation for name in plans}

    def places(self, name: str, chosen: RowRule) -> Tensor:
        """The place of every holdout row's plan, int64 `[n]`."""
        answers, states = self.holdout
        if name in self.stages:
            return torch.zeros(len(states), dtype=torch.int64)
        if name == ROUTER:
            sure = torch.stack([guess(states) for guess in self.guesses_of(chosen)], dim=1)
        else:
            sure = SURENESS[chosen.by](answers[chosen.plans[0]].logits)[:, None]
        return sent_to(sure, chosen.threshold)

    def judged(self, name: str, chosen: RowRule) -> Evaluation:
        """What the plans find together on holdout rows."""
        answers = self.holdout[0]
        if name in self.stages:
            return self.evaluated({name: self.stages[name]}, self.split("holdout"))[name]
        return mixed_answers([answers[plan].evaluation for plan in chosen.plans], self.places(name, chosen))

    def left(self, plan: Plan) -> list[int]:
        """Tokens behind the last block of a plan of stages by row, of holdout rows in batches of one."""
        return [counts_of(self.task.model, self.handle, plan, inputs)[0] for inputs in self.batches("holdout", 1)]

    def forward_of(self, name: str, chosen: RowRule) -> Callable[[Inputs], object]:
        """What is timed."""
        if name in self.stages:
            return self.server.static(self.stages[name])
        return self.serving(name, chosen)

    def serving(self, name: str, chosen: RowRule) -> ByRow:
        """What runs several plans."""
        plans = [self.plans[plan] for plan in chosen.plans]
        if name == ROUTER:
            return self.server.router(plans, self.guesses_of(chosen), chosen.threshold, self.wanted.block)
        return self.server.cascade(plans, chosen.by, chosen.threshold)

    def guesses_of(self, chosen: RowRule) -> list[PlanGuess]:
        """A router's, of all its plans but the last."""
        return [self.guesses[plan] for plan in chosen.plans[:-1]]

    def times(self, chosen: Mapping[str, RowRule]) -> dict[int, dict[str, list[float]]]:
        """Milliseconds of all of them on holdout rows, and of an early block (`block`), by rows of a batch."""
        forwards = {name: self.forward_of(name, one) for name, one in chosen.items()}
        forwards |= {name: self.server.static(plan) for name, plan in self.plans.items()}
        if ROUTER in chosen:
            forwards[_EARLY] = self.serving(ROUTER, chosen[ROUTER]).decide
        seed, found = self.setting.config.seed, {}
        for size in self.wanted.batch_sizes:
            batches = self.batches("holdout", size)
            if not batches:
                raise PruneSearchError(f"a batch of {size} rows is asked for, but {self.split('holdout').n} are here")
            found[size] = time_forwards(forwards, batches, seed)
        return found


def _medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: float(torch.tensor(list(ms)).median()) for name, ms in times.items()}


def mean_by_plan(name: str, chosen: RowRule, shares: list[float], means: Mapping[str, float]) -> float | None:
    """Mean milliseconds of batches that are filled with rows of one plan: what each takes, times its share.

    None where rows of one plan have counts of their own.
    """
    if name in (BY_SCORE, LEARNT):
        return None
    if name == ROUTER:
        return means[_EARLY] + sum(share * means[plan] for share, plan in zip(shares, chosen.plans, strict=True))
    return sum(sum(shares[place:]) * means[plan] for place, plan in enumerate(chosen.plans))
