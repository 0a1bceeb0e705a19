"""The parts of `front.json`. Every field and its unit: docs/front-schema.md."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prunesearch.core.schedule import Schedule

Cost = Literal["latency", "energy", "macs", "memory"]
Unit = Literal["ms", "mJ", "GMACs", "MiB"]


class Record(BaseModel):
    """A frozen part of the file: no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Interval(Record):
    """A value with its 95 % confidence interval; metrics are fractions, not percent."""

    value: float
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"`low <= high` must hold, but got {self.low} > {self.high}")
        return self


class Latency(Record):
    """Milliseconds of one forward of a batch: the cost table's prediction and, where measured, the samples' quantiles.

    All but the prediction are None where the device was not at hand. `predicted_ms` and `percentile_ms` are of the
    percentile that the study minimises; `percentile_ms` is None where that is the median. What several loads come to
    together has a median (and percentile) of its own kind, but no quantiles.
    """

    predicted_ms: float = Field(gt=0)
    median_ms: float | None = Field(gt=0)
    p10_ms: float | None = Field(gt=0)
    p90_ms: float | None = Field(gt=0)
    percentile_ms: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _measured_or_not(self) -> Self:
        if (self.p10_ms is None) != (self.p90_ms is None):
            raise ValueError("`p10_ms` and `p90_ms` must both be given or both be null")
        if self.median_ms is None and not (self.p10_ms is None and self.percentile_ms is None):
            raise ValueError("`p10_ms`, `p90_ms` and `percentile_ms` must be null where `median_ms` is")
        return self

    @property
    def ms(self) -> float:
        """What counts: as measured, or the prediction where nothing was."""
        measured = self.median_ms if self.percentile_ms is None else self.percentile_ms
        return self.predicted_ms if measured is None else measured


class Energy(Record):
    """Gross millijoules of ONE input: predicted, and measured over windows where the device was at hand.

    `net_mj` is what is left of the measurement above idle.
    """

    predicted_mj: float = Field(ge=0)
    measured: Interval | None
    net_mj: float | None

    @property
    def mj(self) -> float:
        """What was measured, or the prediction where nothing was."""
        return self.predicted_mj if self.measured is None else self.measured.value


class Memory(Record):
    """MiB of the activations of one forward of a batch at their peak: estimated from shapes, and measured on CUDA."""

    predicted_mib: float = Field(ge=0)
    measured_mib: float | None = Field(ge=0)

    @property
    def mib(self) -> float:
        """What was measured, or the estimate where nothing was."""
        return self.predicted_mib if self.measured_mib is None else self.measured_mib


class Fidelity(Record):
    """How close the outputs on the holdout split stay to the unpruned model's."""

    kl: float
    agreement: float = Field(ge=0, le=1)


class Calibration(Record):
    """What the search saw: metric and KL divergence on the calibration split."""

    quality: float
    kl: float


class ModelInfo(Record):
    """The model; `tokens` is the sequence length at the start, `protected` of them are never reduced."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str
    class_name: str = Field(alias="class")
    family: str
    depth: int = Field(ge=1)
    tokens: int = Field(ge=1)
    protected: int = Field(ge=0)


class TaskInfo(Record):
    """What quality means: the metric, and how many rows each split has."""

    name: str
    metric: str
    calibration: int = Field(ge=0)
    holdout: int = Field(ge=0)
    notes: list[str] = []


class Device(Record):
    """The device, and the library versions where it was measured; further facts are kept as they come."""

    model_config = ConfigDict(extra="allow")

    name: str
    kind: str
    threads: int | None = None
    torch: str | None = None
    transformers: str | None = None


class Conditions(Record):
    """Under what conditions latency was measured; another condition needs another study."""

    batch_size: int = Field(ge=1)
    dtype: str
    attention: str
    mode: str
    concurrency: int = Field(default=1, ge=1)
    threads: int | None = None
    cores: int | None = None
    tokens: int = Field(ge=1)


class CostTable(Record):
    """How good the latency predictions are, `against` what they were checked.

    `source`: measured in this run, or the profile that it was read from; `notes`: how it was fitted to this model.
    """

    status: Literal["measured", "estimated"]
    source: str
    against: str
    notes: list[str] = []
    mape: float
    worst: float
    rank_correlation: float
    schedules: int = Field(ge=0)
    noisy: bool
    noise: float | None
    seconds: float
    cells: int = Field(ge=0)


class Percentile(Record):
    """The percentile of a forward's latency that counts, and how well one factor on the median predicts it.

    `mape` and `coverage` (the share of forwards that took no longer than predicted) are of schedules that the factor
    was not found on.
    """

    value: float = Field(gt=50, lt=100)
    factor: float = Field(gt=0)
    mape: float = Field(ge=0)
    coverage: float = Field(ge=0, le=1)
    timings: int = Field(ge=1)


class Load(Record):
    """One of several loads: its weight in a mean, and how well its own cost table predicts."""

    batch_size: int = Field(ge=1)
    tokens: int = Field(ge=1)
    weight: float = Field(gt=0)
    mape: float


class BudgetInfo(Record):
    """The budget as typed, and what it came to; `each`: of several loads, it bounds the latency of every one."""

    text: str
    limit: float = Field(gt=0)
    unit: Unit = "ms"
    each: bool = False


class ConstraintInfo(Record):
    """A constraint as typed, its bound (for a cost, in its unit), and how many candidates broke it in the end."""

    text: str
    limit: float
    broken: int = Field(ge=0)


class Hypervolume(Record):
    """Area between the front and a reference: share of the unpruned `cost` by KL divergence (nats) on the holdout rows.

    Points beyond the `reference` add nothing.
    """

    value: float = Field(ge=0)
    cost: Cost
    reference: tuple[float, float]


class Selection(Record):
    """Whether the candidates look better where they were chosen: mean difference to the unpruned model, on both splits.

    `p_value`: how often an excess this large is chance (one-sided, all candidates together).
    """

    points: int = Field(ge=1)
    calibration: float
    holdout: float
    p_value: float = Field(ge=0, le=1)


class Unpruned(Record):
    """The reference that every point is compared with; `loads`: one latency for each of several."""

    quality: Interval
    calibration: Calibration | None = None
    latency: Latency
    loads: list[Latency] = []
    energy: Energy | None = None
    memory: Memory | None = None
    gmacs: float = Field(ge=0)
    tokens: list[int]


class Point(Record):
    """One schedule of the front, re-evaluated on the holdout split, and re-measured where the device is at hand."""

    id: str = Field(min_length=1)
    trial: int
    schedule: dict[str, Any]
    text: str
    tokens: list[int]
    quality: Interval
    difference: Interval
    fidelity: Fidelity
    calibration: Calibration
    latency: Latency
    loads: list[Latency] = []
    energy: Energy | None = None
    memory: Memory | None = None
    speedup: float = Field(gt=0)
    gmacs: float = Field(ge=0)

    @field_validator("schedule")
    @classmethod
    def _readable(cls, value: dict[str, Any]) -> dict[str, Any]:
        Schedule.from_dict(value)
        return value

    def to_schedule(self) -> Schedule:
        """Return the schedule, ready for `apply_`."""
        return Schedule.from_dict(self.schedule)


class Verdict(Record):
    """One sentence for the reader, and the id of the point that it recommends (none: keep the model as it is)."""

    text: str
    point: str | None = None


class SearchInfo(Record):
    """What the search spent, what racing saved of it, and why it ended."""

    sampler: str
    trials: int = Field(ge=0)
    seeds: int = Field(ge=0)
    failed: int = Field(ge=0)
    evaluations: float = Field(ge=0)
    saved: float = Field(default=0.0, ge=0)
    seconds: float = Field(ge=0)
    stopped: Literal["trials", "timeout", "converged", "exhausted"] | None = None
