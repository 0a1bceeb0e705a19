"""A study as the views take it: the front, or what a running search has found so far, in one form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from prunesearch.core import budget as typed
from prunesearch.core.costs import COSTS, Cost, find_cost
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.flow import Geometry, Tower
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.stage import ENCODER
from prunesearch.report.views.axes import Drawn, read
from prunesearch.report.views.shown_samples import ShownSamples
from prunesearch.study.front import Front, trust
from prunesearch.study.front_items import Point, Unpruned
from prunesearch.study.storage.reader import Trial

if TYPE_CHECKING:
    from prunesearch.cost.tables.cost_table import CostTable

_MOST_SO_FAR = 40  # points of a running search's front


@dataclass(frozen=True)
class ShownShape:
    """Blocks, tokens at the start, and how many of these are protected."""

    depth: int
    tokens: int
    protected: int
    part: str = ENCODER
    tower: Tower | None = None

    @classmethod
    def of(cls, geometry: Geometry) -> ShownShape:
        """Those of a model."""
        return cls(geometry.depth, geometry.tokens, geometry.protected, geometry.part, geometry.tower)

    @property
    def geometry(self) -> Geometry:
        """How tokens flow through the model."""
        return Geometry(self.depth, self.tokens, self.protected, self.part, self.tower)

    def counts(self, plan: Plan) -> list[int]:
        """Tokens leaving each block."""
        return plan.flow(self.geometry).counts


@dataclass(frozen=True)
class Item:
    """Something to point at: the unpruned model, a point of the front, or a trial of a running search.

    `quality` is of the holdout split for a front, of the calibration split for a trial; `tokens` leave each block
    (empty where the model's shape is not known).
    """

    id: str
    plan: Plan
    quality: Drawn | None
    costs: dict[str, Drawn]
    tokens: list[int]
    trial: int | None = None
    point: Point | None = None


@dataclass(frozen=True)
class ShownBudget:
    """A bound on one of the axes, `text` as typed."""

    axis: str
    limit: float
    text: str


@dataclass(frozen=True)
class StudyView:
    """All that the views need of one study.

    Args:
        key: how the dashboard addresses it.
        name: of the study.
        front: the result; None while the search runs.
        trials: of any state.
        config: of the run.
        shape: of the model, where it is known.
        read_table: the study's cost table, read when it is asked for; None where there is none.
        samples: what the schedules did to some rows.
        problem: one line on what could not be read.
    """

    key: str
    name: str
    front: Front | None
    trials: Sequence[Trial] = ()
    config: dict[str, Any] = field(default_factory=dict)
    shape: ShownShape | None = None
    read_table: Callable[[], CostTable | None] = lambda: None
    samples: ShownSamples | None = None
    problem: str = ""

    @cached_property
    def table(self) -> CostTable | None:
        """The cost table; None where there is none that can be read."""
        try:
            return self.read_table()
        except PruneSearchError:
            return None

    @cached_property
    def done(self) -> list[Trial]:
        """Complete trials that have a quality, in their order."""
        return [t for t in self.trials if t.complete and t.number_of("quality") is not None]

    @cached_property
    def tried(self) -> int:
        """Schedules that were tried, each counted once."""
        return len({str(trial.attrs.get("schedule")) for trial in self.done})

    @property
    def metric(self) -> str:
        """What quality is."""
        return self.front.task.metric if self.front else "quality"

    @property
    def metric_title(self) -> str:
        """The same with the views that it is over."""
        front = self.front
        if front is None or front.combined is None:
            return self.metric
        return f"{self.metric}, {front.combined} of {len(front.views)} views"

    @property
    def split(self) -> str:
        """Where the quality of the items was found."""
        return "holdout" if self.front else "calibration"

    @property
    def device(self) -> str:
        """Name of the device whose costs count."""
        return self.front.device.name if self.front else str(self.config.get("device", "unknown device"))

    @property
    def batch_size(self) -> int | None:
        """Rows of the batch whose latency counts."""
        found = self.front.conditions.batch_size if self.front else self.config.get("batch_size")
        return found if isinstance(found, int) else None

    @property
    def dtype(self) -> str:
        """What the model is in by itself."""
        return self.front.conditions.dtype if self.front else str(self.config.get("dtype", ""))

    @property
    def estimated(self) -> bool:
        """Whether costs come from an estimate of a device that nobody measured."""
        return self.front is not None and self.front.cost_table.status == "estimated"

    @property
    def source(self) -> str:
        """How the costs came to be, in a word or two: `measured`, `estimated ±20 %`, `predicted`."""
        if self.front is None:
            return "predicted"
        return "measured" if self.front.measured else trust(self.front.cost_table)

    @property
    def error(self) -> float:
        """Mean relative error of what is predicted."""
        return self.front.cost_table.mape if self.front else 0.0

    def how(self, axis: str, amount: Drawn) -> str:
        """How a cost came to be: `measured`, `counted`, or by what it was predicted."""
        row = find_cost(axis)
        if amount.measured and not row.exact:
            return "measured"
        if not row.predicted_by:
            return self.source
        return "estimated" if self.estimated and row.predicted_by == "predicted" else row.predicted_by

    @cached_property
    def budget(self) -> ShownBudget | None:
        """The bound that the search keeps: as it came out, or of a running search as it was asked for."""
        if self.front is None:
            return self._asked()
        found = self.front.budget
        return None if found is None else ShownBudget(found.cost, found.limit, found.text)

    def _asked(self) -> ShownBudget | None:
        """The budget of the configuration; None without one, or where what it is a share of is not known yet."""
        text = self.config.get("budget")
        if not isinstance(text, str):
            return None
        try:
            asked = typed.Budget.parse(text)
        except PruneSearchError:
            return None
        objectives = self.config.get("objectives")
        axis = asked.cost(str(objectives[0]) if isinstance(objectives, list) and objectives else "latency")
        base = self.unpruned.costs.get(axis) if self.unpruned else None
        if asked.relative and base is None:
            return None
        return ShownBudget(axis, asked.limit(base.value if base else 0.0), text)

    def broken(self, trial: Trial) -> list[str]:
        """The constraints that a trial breaks, as typed."""
        return [text for text, excess in trial.constraints.items() if excess > 0]

    @cached_property
    def unpruned(self) -> Item | None:
        """The reference; without a front its costs alone, by the cost table."""
        if self.front is not None:
            return self._of_point("unpruned", self.front.unpruned)
        if self.table is None:
            return None
        costs = {"latency": Drawn(self.table.predict(Plan()))}
        return Item("unpruned", Plan(), None, costs, self.shape.counts(Plan()) if self.shape else [])

    @cached_property
    def items(self) -> list[Item]:
        """The points of the front, slowest first; of a running search, the front of its trials so far."""
        if self.front is not None:
            return [self._of_point(p.id, p) for p in self.front.points]
        tried = [t for t in self.done if t.contends and "schedule" in t.attrs and t.number_of("latency") is not None]
        chosen = [tried[i] for i in staircase(*self.columns("latency", tried))]
        return [self._of_trial(t) for t in spread_over(chosen, _MOST_SO_FAR)]

    def item(self, name: str | None) -> Item | None:
        """The item of that id."""
        return next((item for item in self.items if item.id == name), None)

    @property
    def suggested(self) -> str | None:
        """What to show first: the verdict's point, else the middle of the front."""
        if self.front is not None and self.front.verdict.point is not None:
            return self.front.verdict.point
        return self.items[len(self.items) // 2].id if self.items else None

    @cached_property
    def axes(self) -> list[str]:
        """Names of the costs that are known of every item."""
        known = [self.unpruned, *self.items] if self.unpruned else self.items
        return [name for name in COSTS if known and all(name in item.costs for item in known)]

    def columns(self, axis: str, trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
        """Cost and quality of trials that have both; NaN where one has not."""
        costs = [t.number_of(axis) for t in trials]
        if not any(cost is not None for cost in costs):
            costs = [self._by_sizes(find_cost(axis), t) for t in trials]
        quality = [t.number_of("quality") for t in trials]
        return [math.nan if c is None else c for c in costs], [math.nan if q is None else q for q in quality]

    def _by_sizes(self, row: Cost, trial: Trial) -> float | None:
        """What a trial's blocks spare, off what the unpruned model costs: what is around the blocks is the same."""
        if self.front is None or self.table is None or self.shape is None or "schedule" not in trial.attrs:
            return None
        blocks = row.load_blocks()
        if blocks is None or row.name not in self.front.unpruned.costs:
            return None
        geometry = self.shape.geometry
        whole, mine = (blocks(self.table.shape.under(p.halves), p.flow(geometry)) for p in (Plan(), trial.plan))
        return self.front.unpruned.cost(row.name).value - (whole - mine)

    def best_at_budget(self) -> Item | None:
        """The item of highest calibration quality within the budget (the fastest of equals); None without one."""
        if self.front is None or self.front.budget is None:
            return None
        within = self.front.within_budget()
        if not within:
            return None
        cost = self.front.budget.cost
        return self.item(min(within, key=lambda p: (-(p.quality.calibration or 0.0), p.cost(cost).value)).id)

    def _of_point(self, name: str, found: Point | Unpruned) -> Item:
        costs = {name: read(row, found.costs[name]) for name, row in COSTS.entries().items() if name in found.costs}
        point = found if isinstance(found, Point) else None
        q = found.quality
        return Item(
            id=name,
            plan=Plan() if point is None else point.to_plan(),
            quality=Drawn(q.value, q.low, q.high, measured=True),
            costs={name: self._spread(name, amount) for name, amount in costs.items()},
            tokens=found.tokens,
            trial=None if point is None else point.trial,
            point=point,
        )

    def _spread(self, axis: str, amount: Drawn) -> Drawn:
        """With the table's mean error around what it predicted; how far the other predictions are off is not known."""
        return amount if find_cost(axis).predicted_by else amount.spread(self.error)

    def _of_trial(self, trial: Trial) -> Item:
        amounts = {name: trial.number_of(name) for name in COSTS}
        quality = trial.number_of("quality")
        return Item(
            id=f"t{trial.number}",
            plan=trial.plan,
            quality=None if quality is None else Drawn(quality, measured=True),
            costs={name: Drawn(value) for name, value in amounts.items() if value is not None},
            tokens=self.shape.counts(trial.plan) if self.shape else [],
            trial=trial.number,
        )


def staircase(costs: Sequence[float], qualities: Sequence[float]) -> list[int]:
    """Indices of what no other beats in cost (low) and quality (high), dearest first; of equals the first.

    `core.pareto.non_dominated` for two values and any number of rows: it sorts where that compares all with all.
    """
    x, y = np.asarray(costs, dtype=float), np.asarray(qualities, dtype=float)
    order = np.lexsort((np.arange(len(x)), -y, x))
    kept, best = [], -math.inf
    for i in order:
        if y[i] > best and not math.isnan(x[i]):
            kept.append(int(i))
            best = y[i]
    return kept[::-1]


def spread_over(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the items, evenly spaced, both ends among them."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]
