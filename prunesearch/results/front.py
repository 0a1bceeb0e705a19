"""`front.json`: the result of a study, as typed models. Every field and its unit: docs/front-schema.md."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import write_text_atomic
from prunesearch.core.schedule import Schedule

FRONT_FORMAT = "prunesearch.front"
FRONT_VERSION = 2
_REWRITE = "run the study again to rewrite it (finished trials are kept in study.db)"


class _Record(BaseModel):
    """A frozen part of the file: no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Interval(_Record):
    """A value with its 95 % confidence interval; metrics are fractions, not percent."""

    value: float
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"`low <= high` must hold, but got {self.low} > {self.high}")
        return self


class Latency(_Record):
    """Milliseconds of one forward of a batch: the cost table's prediction and, where measured, the samples' quantiles.

    The quantiles are None where the device was not at hand.
    """

    predicted_ms: float = Field(gt=0)
    median_ms: float | None = Field(gt=0)
    p10_ms: float | None = Field(gt=0)
    p90_ms: float | None = Field(gt=0)

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        if len({x is None for x in (self.median_ms, self.p10_ms, self.p90_ms)}) > 1:
            raise ValueError("`median_ms`, `p10_ms` and `p90_ms` must all be given or all be null")
        return self

    @property
    def ms(self) -> float:
        """The measured median, or the prediction where nothing was measured."""
        return self.predicted_ms if self.median_ms is None else self.median_ms


class Energy(_Record):
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


class Fidelity(_Record):
    """How close the outputs on the holdout split stay to the unpruned model's."""

    kl: float
    agreement: float = Field(ge=0, le=1)


class Calibration(_Record):
    """What the search saw: metric and KL divergence on the calibration split."""

    quality: float
    kl: float


class ModelInfo(_Record):
    """The model; `tokens` is the sequence length at the start, `protected` of them are never reduced."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str
    class_name: str = Field(alias="class")
    family: str
    depth: int = Field(ge=1)
    tokens: int = Field(ge=1)
    protected: int = Field(ge=0)


class TaskInfo(_Record):
    """What quality means: the metric, and how many rows each split has."""

    name: str
    metric: str
    calibration: int = Field(ge=0)
    holdout: int = Field(ge=0)
    notes: list[str] = []


class Device(_Record):
    """The device, and the library versions where it was measured; further facts are kept as they come."""

    model_config = ConfigDict(extra="allow")

    name: str
    kind: str
    threads: int | None = None
    torch: str | None = None
    transformers: str | None = None


class Conditions(_Record):
    """Under what conditions latency was measured; another condition needs another study."""

    batch_size: int = Field(ge=1)
    dtype: str
    attention: str
    mode: str
    concurrency: int = Field(default=1, ge=1)
    threads: int | None = None
    cores: int | None = None
    tokens: int = Field(ge=1)


class CostTable(_Record):
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


class BudgetInfo(_Record):
    """The budget as typed, and what it came to: ms for a batch, or mJ for one input."""

    text: str
    limit: float = Field(gt=0)
    unit: Literal["ms", "mJ"] = "ms"


class Unpruned(_Record):
    """The reference that every point is compared with."""

    quality: Interval
    calibration: Calibration | None = None
    latency: Latency
    energy: Energy | None = None
    gmacs: float = Field(ge=0)
    tokens: list[int]


class Point(_Record):
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
    energy: Energy | None = None
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


class Verdict(_Record):
    """One sentence for the reader, and the id of the point that it recommends (none: keep the model as it is)."""

    text: str
    point: str | None = None


class SearchInfo(_Record):
    """What the search spent."""

    sampler: str
    trials: int = Field(ge=0)
    seeds: int = Field(ge=0)
    failed: int = Field(ge=0)
    evaluations: float = Field(ge=0)
    seconds: float = Field(ge=0)


class Front(_Record):
    """The whole of `front.json`. Points are sorted by latency, slowest first.

    `objectives` are what was minimised beside the loss of quality; `measured` says whether points were re-measured.
    """

    format: Literal["prunesearch.front"] = "prunesearch.front"
    version: Literal[2] = 2
    study: str
    created: str
    prunesearch: str
    config: dict[str, Any]
    model: ModelInfo
    task: TaskInfo
    device: Device
    conditions: Conditions
    cost_table: CostTable
    objectives: list[Literal["latency", "energy"]] = Field(min_length=1)
    budget: BudgetInfo | None
    unpruned: Unpruned
    points: list[Point]
    dropped: int = Field(ge=0)
    verdict: Verdict
    search: SearchInfo

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [p.id for p in self.points]
        if len(set(ids)) < len(ids):
            raise ValueError(f"point ids must differ, but got {ids}")
        if self.verdict.point is not None and self.verdict.point not in ids:
            raise ValueError(f"the verdict names point '{self.verdict.point}', which is not in {ids}")
        latencies = [p.latency.ms for p in self.points]
        if latencies != sorted(latencies, reverse=True):
            raise ValueError("points must be sorted by latency, slowest first")
        items: list[Unpruned | Point] = [self.unpruned, *self.points]
        if len({item.latency.median_ms is None for item in items}) > 1:
            raise ValueError("latencies must have been measured for all points and the unpruned model, or for none")
        if "energy" in self.objectives and any(item.energy is None for item in items):
            raise ValueError("where energy is an objective, every point must have one")
        for name, tokens in [("unpruned", self.unpruned.tokens)] + [(p.id, p.tokens) for p in self.points]:
            if len(tokens) != self.model.depth:
                raise ValueError(
                    f"`tokens` has one count for each of {self.model.depth} blocks, but {name} has {len(tokens)}"
                )
        return self

    def point(self, point_id: str) -> Point | None:
        """Return the point of that id, or None."""
        return next((p for p in self.points if p.id == point_id), None)

    @property
    def measured(self) -> bool:
        """Whether latencies were measured end to end on the device, not only predicted."""
        return self.unpruned.latency.median_ms is not None

    def within_budget(self) -> list[Point]:
        """Return the points that meet the budget (all, when there is none)."""
        budget = self.budget
        return [p for p in self.points if budget is None or cost_of(p, budget.unit) <= budget.limit]

    def to_dict(self) -> dict[str, Any]:
        """Return the plain JSON form, as in the file."""
        return self.model_dump(mode="json", by_alias=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        write_text_atomic(path, text + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Front:
        """Read the file.

        Raises:
            PruneSearchError: if there is no such file.
            CorruptFileError: one line that names file, field and way out, for broken JSON, another
                format, a newer version, or a field that is missing, unknown or out of range.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise PruneSearchError(
                f"{path} does not exist: the study has not finished; run the same `prunesearch run` again"
            ) from None
        except OSError as error:
            raise PruneSearchError(f"{path} cannot be read ({error.strerror}): check the path") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CorruptFileError(f"{path} is not JSON ({error}): {_REWRITE}") from None
        _check_header(path, data)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise CorruptFileError(f"{path}: {_first_error(error)}: {_REWRITE}") from None


def cost_of(item: Unpruned | Point, unit: str) -> float:
    """Latency of a batch in `ms`, or energy of one input in `mJ`, as `Budget` bounds them.

    Raises:
        PruneSearchError: if energy is asked for and was not part of the study.
    """
    if unit == "ms":
        return item.latency.ms
    if item.energy is None:
        raise PruneSearchError("this study knows no energies: run it with --objective energy on a device that has them")
    return item.energy.mj


def digits(value: float) -> str:
    """Three significant digits, thousands whole: `0.123`, `12.3`, `1,234`."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def trust(table: CostTable) -> str:
    """What every cost that was not measured says of itself: `estimated ±20 %`, or `from profile 'x' ±1.2 %`."""
    what = "estimated" if table.status == "estimated" else table.source
    return f"{what} ±{100 * table.mape:.2g} %"


def _check_header(path: str | os.PathLike[str], data: Any) -> None:
    """Refuse another kind of file, and a version that this code does not know."""
    found = data.get("format") if isinstance(data, dict) else None
    if found != FRONT_FORMAT:
        raise CorruptFileError(
            f'{path}: "format" must be "{FRONT_FORMAT}", but got {found!r}: give the front.json of a study'
        )
    version = data.get("version")
    if isinstance(version, int) and version > FRONT_VERSION:
        raise CorruptFileError(
            f'{path}: "version" {version} is newer than {FRONT_VERSION}, the newest this prunesearch reads: '
            "upgrade prunesearch"
        )
    if version != FRONT_VERSION or isinstance(version, bool):
        raise CorruptFileError(f'{path}: "version" must be {FRONT_VERSION}, but got {version!r}: {_REWRITE}')


def _first_error(error: ValidationError) -> str:
    """`points[0].latency.median_ms: Field required (and 2 more)`, on one line."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    field = ""
    for part in errors[0]["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    message = errors[0]["msg"].removeprefix("Value error, ")
    return f"field `{field.lstrip('.') or 'front'}`: {message}{more}".replace("\n", " ")
