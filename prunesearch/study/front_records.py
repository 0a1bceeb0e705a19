"""The parts of `front.json` but its items. docs/front-schema.md is made of what is said here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field

from prunesearch.core.costs import find_cost
from prunesearch.core.plans.flow import Geometry, Tower
from prunesearch.study.front_items import CostName, Difference, Fidelity, FrontItem, FrontRecord, MetricValue


class TowerInfo(FrontRecord):
    """What makes the tokens of a decoder's pictures, as `core.plans.flow.Tower` has it."""

    depth: int = Field(ge=1, description="number of its blocks")
    tokens: int = Field(ge=1, description="of a picture at the start, protected ones included")
    protected: int = Field(ge=0, description="of them, never reduced")
    pictures: int = Field(ge=1, description="of a prompt")
    reach: int = Field(ge=1, description="so many of its blocks lead to the tokens: stages may be in them")


class ModelInfo(FrontRecord):
    """The model; `tokens` is the sequence length at the start, `protected` of them are never reduced."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str = Field(description="Hub name or path")
    class_name: str = Field(alias="class", description="class of the model (`class_name` in Python)")
    family: str = Field(description="row of the model table, such as `vit` or `bert`")
    depth: int = Field(ge=1, description="number of blocks")
    tokens: int = Field(
        ge=1, description="sequence length at the start at which latency was measured, protected tokens included"
    )
    protected: int = Field(ge=0, description="tokens that are never reduced (CLS, registers, separators)")
    part: Literal["encoder", "decoder"] = Field(
        default="encoder",
        description="that has the blocks; of a `decoder` `tokens` are those of a prompt with pictures",
    )

    tower: TowerInfo | None = Field(
        default=None, description="in front of a decoder, where stages may be; null where they may not"
    )

    @property
    def geometry(self) -> Geometry:
        """How tokens flow through it."""
        tower = None if self.tower is None else Tower(**self.tower.model_dump())
        return Geometry(self.depth, self.tokens, self.protected, self.part, tower)


class TaskInfo(FrontRecord):
    """What quality means: the metric, and how many rows each split has."""

    name: str = Field(description="kind of task, a name of [tasks.md](tasks.md): `image-classification` say")
    metric: str = Field(
        description="what `quality` is: a name of [tasks.md](tasks.md), `accuracy` say; always a fraction, and higher "
        "is better"
    )
    calibration: int = Field(ge=0, description="rows of the split that the search saw")
    holdout: int = Field(ge=0, description="rows of the split on which points are reported")
    group: str | None = Field(default=None, description="column of the data that says which group a row belongs to")
    notes: list[str] = Field(default_factory=list, description="what was inferred about the data")


class Device(FrontRecord):
    """The device, and the library versions where it was measured; further facts are kept as they come."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(description="name of the processor or accelerator")
    kind: str = Field(description="`cpu` or `cuda`")
    threads: int | None = Field(default=None, description="intra-op threads")
    torch: str | None = Field(
        default=None, description="version of torch where latency was measured; null where it was not"
    )
    transformers: str | None = Field(default=None, description="version of transformers, likewise")


class Conditions(FrontRecord):
    """Under what conditions latency was measured; another condition needs another study."""

    batch_size: int = Field(ge=1, description="samples in a timed batch")
    dtype: str = Field(description="`float32`, `bfloat16`, ...")
    attention: str = Field(description="attention implementation: `sdpa`, `eager`, ...")
    mode: str = Field(description="`eager`, `cuda-graph` or `compile`")
    concurrency: int = Field(default=1, ge=1, description="forwards under way at once, the timed one among them")
    threads: int | None = Field(default=None, description="intra-op threads")
    cores: int | None = Field(default=None, description="cores that the process could run on")
    tokens: int = Field(ge=1, description="sequence length of the timed batch")


class TableInfo(FrontRecord):
    """How good the latency predictions are, `against` what they were checked.

    `source`: measured in this run, or the profile that it was read from; `notes`: how it was fitted to this model.
    """

    status: Literal["measured", "estimated"] = Field(description="`measured` on this device, or `estimated` for it")
    source: str = Field(description="measured in this study, or the profile that it comes from")
    against: str = Field(description="what the errors below were found against")
    notes: list[str] = Field(
        default_factory=list,
        description="how the table was fitted to this model: other depth, fewer tokens, interpolation",
    )
    mape: float = Field(description="mean absolute relative error of predicted latency, as a fraction")
    worst: float = Field(description="largest relative error, as a fraction")
    rank_correlation: float = Field(description="Spearman's, between predicted and measured latency")
    schedules: int = Field(ge=0, description="how many schedules (or public measurements) these three come from")
    noisy: bool = Field(description="whether the machine was too noisy to trust small differences")
    noise: float | None = Field(
        description="relative spread of repeated measurements, as a fraction; null where nothing was measured"
    )
    seconds: float = Field(description="time spent on measuring, in seconds")
    cells: int = Field(ge=0, description="measured entries of the table")


class Percentile(FrontRecord):
    """The percentile of a forward's latency that counts, and how well one factor on the median predicts it.

    `mape` and `coverage` (the share of forwards that took no longer than predicted) are of schedules that the factor
    was not found on.
    """

    value: float = Field(gt=50, lt=100, description="the percentile, above 50: 90")
    factor: float = Field(gt=0, description="that percentile of a forward divided by its median")
    mape: float = Field(
        ge=0,
        description="mean absolute relative error of the percentiles of unseen schedules, predicted from their medians",
    )
    coverage: float = Field(
        ge=0,
        le=1,
        description="share of their forwards that took no longer than was predicted; `value / 100` if the factor is "
        "right",
    )
    timings: int = Field(ge=1, description="forwards that this rests on")


class LoadInfo(FrontRecord):
    """One of several loads: its weight in a mean, and how well its own cost table predicts."""

    batch_size: int = Field(ge=1, description="samples in a batch")
    tokens: int = Field(ge=1, description="sequence length of the batch")
    weight: float = Field(gt=0, description="in the mean, relative to the others")
    mape: float = Field(description="mean error of this load's cost table, as `cost_table.mape`")


class BudgetInfo(FrontRecord):
    """The budget as typed, and what it came to; `each`: of several loads, it bounds the latency of every one."""

    text: str = Field(description="as typed: `10ms`, `40mJ`, `2GMACs`, `64MiB`, `60%`, `2x`")
    limit: float = Field(gt=0, description="upper bound that it came to, in the cost's unit")
    cost: CostName = Field(default="latency", description="the cost that it bounds")
    each: bool = Field(
        default=False,
        description="whether it bounds the latency of every load, as an absolute bound does, not what they come to "
        "together",
    )

    @property
    def unit(self) -> str:
        """Of the limit."""
        return find_cost(self.cost).unit

    def met_by(self, item: FrontItem) -> bool:
        """Whether an item is inside."""
        return (item.dearest(self.cost) if self.each else item.cost(self.cost).value) <= self.limit


class ConstraintInfo(FrontRecord):
    """A constraint as typed, its bound (for a cost, in its unit), and how many candidates broke it in the end."""

    text: str = Field(description="as typed: `quality >= 0.99*unpruned`, `macs <= 60%`")
    limit: float = Field(
        description="what the bound came to: a fraction on the holdout split for a quality, else in the unit of the "
        "cost"
    )
    broken: int = Field(
        ge=0, description="candidates that broke it on the holdout split, or once measured; they are not on the front"
    )


class Hypervolume(FrontRecord):
    """Area between the front and a reference: share of the unpruned `cost` by KL divergence (nats) on the holdout rows.

    Points beyond the `reference` add nothing.
    """

    value: float = Field(ge=0, description="area between the points and `reference`; points beyond it add nothing")
    cost: CostName = Field(
        description="the first objective, whose share of the unpruned model's is one axis; the other is the KL "
        "divergence on the holdout split"
    )
    reference: tuple[float, float] = Field(description="the corner: share, nats")


class Selection(FrontRecord):
    """Whether the candidates look better where they were chosen: mean difference to the unpruned model, on both splits.

    `p_value`: how often an excess this large is chance (one-sided, all candidates together).
    """

    points: int = Field(ge=1, description="candidates")
    calibration: float = Field(
        description="their mean difference to the unpruned model on the calibration rows of the search, as a fraction"
    )
    holdout: float = Field(description="the same on the holdout split")
    p_value: float = Field(
        ge=0,
        le=1,
        description="how often the first exceeds the second by this much or more by chance; below 0.05 a note says so",
    )


class Rung(FrontRecord):
    """What one line would give the UNPRUNED model here, and what the best plan's stages add on top in that runtime.

    All of a ladder are timed interleaved in one run; qualities are of the same holdout rows, the first rung's too.
    """

    runtime: str = Field(description="a name of `--mode` or `--runtime`; the first is the run's reference, eager torch")
    precision: str | None = Field(default=None, description="what the model is in; null where the runtime was skipped")
    ms: float | None = Field(default=None, gt=0, description="median latency of the unpruned model")
    speedup: float | None = Field(default=None, gt=0, description="over the first rung")
    quality: float | None = Field(default=None, description="of the unpruned model, on the rows of the ladder")
    plan_ms: float | None = Field(default=None, gt=0, description="median latency with the stages of the best plan")
    plan_quality: float | None = Field(default=None, description="likewise")
    rows: int | None = Field(default=None, ge=1, description="holdout rows of both qualities; null where older")
    skipped: str | None = Field(default=None, description="why it was not measured; null where it was")


class Verdict(FrontRecord):
    """The answer in one sentence."""

    text: str = Field(description="one sentence for the reader")
    point: str | None = Field(
        default=None,
        description="id of the recommended point: the cheapest that is good enough at 95 % confidence, or the best "
        "inside "
        "a budget where none is, as the text says; null where the model is best kept as it is",
    )
    by_estimate: str | None = Field(
        default=None,
        description="id of the cheapest point that is good enough by its point estimate, which flatters: it is read "
        "off "
        "the rows that it is reported on; null where there is none, and in files that are older than version 4",
    )


class SearchInfo(FrontRecord):
    """What the search spent, what racing saved of it, and why it ended."""

    sampler: str = Field(description="a name of `--sampler`: `guided`, `tpe`, `nsga2`, …")
    trials: int = Field(ge=0, description="finished trials, seeds included")
    seeds: int = Field(ge=0, description="of these, proposed by score-and-solve")
    failed: int = Field(ge=0, description="trials that ended in an error")
    evaluations: float = Field(ge=0, description="passes over the calibration split, partial ones as fractions")
    saved: float = Field(default=0.0, ge=0, description="what racing saved of them")
    seconds: float = Field(ge=0, description="wall-clock time of the search, in seconds")
    stopped: Literal["trials", "timeout", "converged", "exhausted"] | None = Field(
        default=None,
        description="why it ended: `trials`, `timeout`, `converged` or `exhausted` (nothing new to try); null when "
        "not recorded",
    )


class RowLatency(FrontRecord):
    """Milliseconds of a batch, over batches of unlike rows."""

    batch_size: int = Field(ge=1, description="rows of a batch")
    mean: float = Field(description="of batches as they come, where rows of one may need several plans")
    p50: float = Field(description="the median")
    p95: float = Field(description="95th percentile")
    worst: float = Field(description="of all batches that were timed")
    by_plan: float | None = Field(
        default=None,
        description="mean of batches that are filled with rows of one plan: every plan's measured mean times its share "
        "of the rows, and what deciding takes; null where nothing is decided",
    )

    @property
    def least(self) -> float:
        """The mean of the better way to fill batches."""
        return self.mean if self.by_plan is None or self.batch_size == 1 else min(self.mean, self.by_plan)


class RowsLeft(FrontRecord):
    """Tokens behind the last block, of rows that each have a count of their own."""

    mean: float = Field(description="over rows")
    p50: float = Field(description="the median row")
    p95: float = Field(description="the 95th percentile of rows")
    worst: float = Field(description="the row that keeps most")

    @classmethod
    def of(cls, counts: Sequence[int]) -> RowsLeft:
        """Of counts in rising order, one a row."""
        last = len(counts) - 1
        middle, high = (float(counts[round(q * last)]) for q in (0.5, 0.95))
        return cls(mean=sum(counts) / len(counts), p50=middle, p95=high, worst=float(counts[-1]))


class RowPriced(FrontRecord):
    """What batches were predicted to take, by the cost table at the counts that calibration rows have."""

    batch_size: int = Field(ge=1, description="rows of a batch, those of the study's cost table")
    mean: float = Field(description="milliseconds, over batches")
    p95: float = Field(description="95th percentile of batches")
    counting: float = Field(
        ge=0, description="milliseconds of it that counting adds a stage: the host's wait, and masks; timed once"
    )


class LearntInfo(FrontRecord):
    """What learning thresholds took, and the same stages with the thresholds that training began with, as fast."""

    steps: int = Field(ge=0, description="of the optimiser")
    seconds: float = Field(ge=0, description="of training")
    rows: int = Field(ge=1, description="that it had, without their labels")
    begun: str = Field(description="the stages with thresholds by quantiles, moved to the same time by the cost table")
    difference: Difference = Field(description="quality with learnt thresholds minus that with those, on holdout rows")


class RowPlans(FrontRecord):
    """A plan for all rows, or several that are chosen row by row."""

    name: str = Field(
        description="`cascade`, `router`, `by-score`, `learnt-thresholds`, `unpruned`, or the id of a point"
    )
    kind: Literal["static", "cascade", "router", "stages"] = Field(
        description="`static`: one plan; `cascade`: a row runs the plans from the fastest on until one is sure of its "
        "answer; `router`: an early block says which plan a row runs; `stages`: one plan, whose stages leave every row "
        "a count of its own"
    )
    plans: list[str] = Field(
        description="ids of points, or `unpruned`, the fastest first; of `stages` the plan, as it is typed"
    )
    plan: dict[str, Any] | None = Field(default=None, description="of `stages`, as a plan's file has it; else null")
    fidelity: Fidelity | None = Field(
        default=None, description="of `stages`, closeness to the unpruned model's outputs"
    )
    left: RowsLeft | None = Field(default=None, description="of `stages`, on holdout rows; null for other kinds")
    learnt: LearntInfo | None = Field(default=None, description="of learnt thresholds; null where none were learnt")
    priced: RowPriced | None = Field(
        default=None, description="of `stages`; null for other kinds, and where the first batches have other rows"
    )
    by: str | None = Field(default=None, description="what the sureness is read off; null for one plan")
    threshold: float | None = Field(default=None, description="sureness from which on a plan has a row")
    block: int | None = Field(default=None, description="after which a router decides, from 0")
    guesses: str | None = Field(
        default=None,
        description="a router's own weights, a file of the study's `weights`, by its digest",
    )
    shares: list[float] = Field(description="of the holdout rows that each plan answers")
    calibration: float = Field(description="quality on the calibration rows that the threshold was chosen on")
    quality: MetricValue = Field(description="on holdout rows, with its change from the unpruned model")
    latencies: list[RowLatency] = Field(description="one for each number of rows in a batch")

    @property
    def decides(self) -> bool:
        """Whether a row may go to one of several plans."""
        return self.kind not in ("static", "stages")

    @property
    def routes(self) -> bool:
        """Whether what is known before a plan runs decides; otherwise every row runs the first plan."""
        return self.block is not None


class RowDuel(FrontRecord):
    """Plans chosen row by row against the best static plan that takes no more time on average."""

    batch_size: int = Field(description="rows of a batch")
    adaptive: str = Field(description="name of the one")
    static: str = Field(description="name of the other: of those that are as fast the best on calibration rows")
    difference: Difference = Field(description="quality of the first minus that of the second, on holdout rows")
    winner: Literal["adaptive", "static", "neither"] = Field(description="by the interval of the difference")
    text: str = Field(description="in one sentence")


class Adapted(FrontRecord):
    """What `prunesearch adapt` found: plans chosen row by row, beside those that are not."""

    keep: float = Field(description="share of the unpruned quality that thresholds keep on calibration rows")
    rows: int = Field(description="holdout rows of the qualities")
    batches: int = Field(description="that were timed, of each size, at most")
    contestants: list[RowPlans] = Field(description="static ones first")
    duels: list[RowDuel] = Field(description="one for each adaptive contestant and batch size")
    notes: list[str] = Field(default_factory=list, description="what a reader should know")
