"""What a cost table is made of: shape, cells, noise, validation, as typed records that go into files."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.shape import Record, Shape
from prunesearch.cost.tables.energy_fit import EnergyFit

MOST = 2**53  # of a count: from here on floats, in which costs are fitted, do not tell two of them apart


class Cell(Record):
    """Timings of one piece, in milliseconds.

    `ms` is what predictions add up: the mean over the forwards that were no outliers, scaled so that the median forward
    comes out right. The quantiles describe all `samples` timings; `samples_us` are the timings themselves, in
    microseconds, where they were kept. An estimated cell has no sample, and its quantiles are `ms`.
    """

    ms: float = Field(ge=0, allow_inf_nan=False)
    median_ms: float = Field(ge=0, allow_inf_nan=False)
    p10_ms: float = Field(ge=0, allow_inf_nan=False)
    p90_ms: float = Field(ge=0, allow_inf_nan=False)
    samples: int = Field(ge=0, le=MOST)
    samples_us: list[float] = Field(default_factory=list)


class CountCell(Cell):
    """A piece at `n` tokens; of a block, `variant` is that half of its `shape.Variant` (empty: plain)."""

    n: int = Field(ge=1, le=MOST)
    variant: str = ""

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name != "variant" or value}


class AttentionCell(CountCell):
    """A block's attention half at `n` tokens; `biased` with `+ log(size)` on the keys."""

    biased: bool


class ReduceCell(Cell):
    """A stage from `n_in` to `n_out` tokens."""

    scorer: str
    merge: str
    n_in: int = Field(ge=1, le=MOST)
    n_out: int = Field(ge=1, le=MOST)


class Cells(Record):
    """All pieces of a model."""

    stem: Cell
    head: list[CountCell]
    attention: list[AttentionCell]
    mlp: list[CountCell]
    reduce: list[ReduceCell]

    def __len__(self) -> int:
        return 1 + len(self.head) + len(self.attention) + len(self.mlp) + len(self.reduce)

    def with_stem_times(self, share: float) -> Cells:
        """The same with all before the first block taking `share` of its time."""
        stem = {name: getattr(self.stem, name) * share for name in ("ms", "median_ms", "p10_ms", "p90_ms")}
        return self.model_copy(update={"stem": self.stem.model_copy(update={**stem, "samples_us": []})})

    def rows(self) -> list[dict[str, Any]]:
        """One flat row a cell, `piece` first, as `pandas.DataFrame` takes them; without the single timings."""
        cells: list[tuple[str, Cell]] = [("stem", self.stem)]
        for piece in ("head", "attention", "mlp", "reduce"):
            cells += [(piece, cell) for cell in getattr(self, piece)]
        return [{"piece": piece, **cell.model_dump(exclude={"samples_us"})} for piece, cell in cells]

    @classmethod
    def from_rows(cls, rows: list[dict[str, Any]]) -> Cells:
        """Read what `rows` wrote.

        Raises:
            ValidationError, KeyError: for rows that are no cells; the reader of the file words it.
        """
        parts: dict[str, list[dict[str, Any]]] = {piece: [] for piece in cls.model_fields}
        for row in rows:
            parts[row["piece"]].append({k: v for k, v in row.items() if k != "piece" and v is not None})
        stem = parts.pop("stem")
        return cls.model_validate({**parts, "stem": stem[0] if len(stem) == 1 else stem})


class NoiseRecord(Record):
    """How quiet the machine was, see `samples.Noise`; infinite values are None.

    `waited_s`: seconds in which a busy machine was out-waited; `thrown_away`: forwards in which a GPU throttled.
    """

    spread: float | None = Field(description="p90 / median - 1 of work that every forward repeats")
    drift: float | None = Field(description="between quarters of the run")
    others: float | None = Field(description="share of the cores that other processes took")
    noisy: bool = Field(description="whether that is too much")
    why: str = Field(description="in words")
    waited_s: float = Field(default=0.0, description="seconds in which a busy machine was out-waited")
    thrown_away: int = Field(default=0, description="forwards in which a GPU throttled")


class Validation(Record):
    """Predictions against measurements that the table (or the estimator) had not seen.

    `unseen` of them count; `against` says what they are. A measured table's lists begin with the unpruned model, which
    it has seen and which its errors (relative to the measured medians) leave out. `samples_us` are the timings in
    microseconds, `pace` how fast the machine was at each (1: as usual); `measured_ms` are medians of the quotients.
    """

    mape: float = Field(description="mean relative error")
    worst: float = Field(description="the largest")
    bias: float = Field(description="the mean with its sign")
    rank_correlation: float = Field(description="Spearman's")
    by_precision: dict[str, float] = Field(
        default_factory=dict, description="mean relative error of the schedules in each precision; empty for one alone"
    )
    unseen: int = Field(
        ge=1, description="how many whole random schedules, mixing scorers and merges, were predicted and measured"
    )
    against: str = Field(default="unseen schedules on the same device", description="what they are")
    schedules: list[str] = Field(default_factory=list, description="as text; the first is the unpruned model")
    predicted_ms: list[float] = Field(default_factory=list, description="of each")
    measured_ms: list[float] = Field(
        default_factory=list, description="medians, relative to the pace of the machine at the time"
    )
    samples_us: list[list[float]] = Field(default_factory=list, description="timings of each in microseconds")
    pace: list[list[float]] = Field(
        default_factory=list, description="how fast the machine was at each timing (1: as usual)"
    )

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Of one precision alone it is written as it was before there were several."""
        found: dict[str, Any] = handler(self)
        if not self.by_precision:
            found.pop("by_precision", None)
        return found


PROMISED = 0.05  # mean relative error of a measured table on schedules that it has not seen


class TableFacts(Record):
    """Everything about a cost table but its cells.

    `source`: where it comes from; `model`: what was measured, for people. `conditions`: `batch_size`, `dtype`,
    `attention`, `mode`, `threads`, `cores` (None where they do not apply), `tokens`, `device`. `device` is what
    `describe_device` said. `notes`: what was done to fit the table to a model that is not quite the one measured.
    """

    status: Literal["measured", "estimated"] = Field(description="`measured`, or `estimated`")
    source: str = Field(default="measured in this study", description="where it comes from")
    model: str = Field(default="", description="what was measured: a built-in shape, the name of a folder, a Hub id")
    shape: Shape = Field(description="what a table is keyed by")
    conditions: dict[str, Any] = Field(
        description="`batch_size`, `dtype`, `attention`, `mode` (`eager`, `cuda-graph`, `compile`), `concurrency` "
        "(forwards under way at once; 1 where nothing is said), `tokens`, `device`; on a CPU `threads` "
        "and `cores` (what the process could run on)"
    )
    device: dict[str, Any] = Field(description="as above, at the time of this table")
    noise: NoiseRecord = Field(description="how quiet the machine was")
    seconds: float = Field(ge=0, description="what measuring took")
    walks: int = Field(ge=0, description="forwards that count")
    validation: Validation | None = Field(default=None, description="its error on schedules that it has not seen")
    energy: EnergyFit | None = Field(default=None, description="power by kind of piece, fitted to measured schedules")
    notes: list[str] = Field(default_factory=list, description="how it was fitted to another model; empty in files")

    @property
    def broken_promise(self) -> str:
        """Why schedules must not be ranked by this table, in a clause; empty where its error is as promised.

        An estimate promises nothing but the error that it states.
        """
        if self.status == "estimated" or self.validation is None or self.validation.mape <= PROMISED:
            return ""
        return f"its mean error is {self.validation.mape:.1%} where {PROMISED:.0%} is promised"

    def validated(self) -> Validation:
        """Its error on schedules that it has not seen.

        Raises:
            PruneSearchError: if the table was not checked on any.
        """
        if self.validation is None:
            raise PruneSearchError("the cost table must be checked on unseen schedules: measure it with unseen > 0")
        return self.validation

    @model_validator(mode="after")
    def _complete(self) -> Self:
        missing = {"batch_size", "dtype", "attention", "mode", "tokens", "device"} - self.conditions.keys()
        if missing:
            raise ValueError(f"`conditions` must hold {', '.join(sorted(missing))}")
        odd = [name for name, value in self.conditions.items() if isinstance(value, list | dict)]
        if odd:
            raise ValueError(f"`conditions` are words and numbers, but {odd[0]} is {self.conditions[odd[0]]!r:.60}")
        return self


def first_error(error: ValidationError) -> str:
    """The first thing wrong with a file, with its place, on one line."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    place = ".".join(str(part) for part in errors[0]["loc"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"field `{place or 'file'}`: {errors[0]['msg'].removeprefix('Value error, ')}{more}"
