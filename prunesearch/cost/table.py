"""The cost table: latencies of a model's pieces on one device, under stated conditions, with a stored error."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import write_text_atomic
from prunesearch.core.registry import MERGES
from prunesearch.core.schedule import Schedule
from prunesearch.cost.surface import Line, ReducePoint, ReduceSurface, fit_straight_line

_VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Shape(_Record):
    """What of a model decides its cost. `mlp_width`: hidden units of a block's MLP."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str
    depth: int = Field(ge=1)
    tokens: int = Field(ge=1)
    protected: int = Field(ge=0)
    width: int = Field(ge=1)
    heads: int = Field(ge=1)
    mlp_width: int = Field(ge=1)


class Cell(_Record):
    """Timings of one piece, in milliseconds.

    `ms` is what predictions add up: the mean over the forwards that were no outliers, scaled so that the median forward
    comes out right. The quantiles describe all samples; `samples_us` are the samples, in microseconds.
    """

    ms: float = Field(ge=0)
    median_ms: float = Field(ge=0)
    p10_ms: float = Field(ge=0)
    p90_ms: float = Field(ge=0)
    samples_us: list[float] = Field(min_length=1)

    @property
    def samples(self) -> int:
        """How many timings there are."""
        return len(self.samples_us)


class CountCell(Cell):
    """A piece at `n` tokens."""

    n: int = Field(ge=1)


class AttentionCell(CountCell):
    """A block's attention half at `n` tokens; `biased` with `+ log(size)` on the keys."""

    biased: bool


class ReduceCell(Cell):
    """A stage from `n_in` to `n_out` tokens."""

    scorer: str
    merge: str
    n_in: int = Field(ge=1)
    n_out: int = Field(ge=1)


class Cells(_Record):
    """All pieces of a model."""

    stem: Cell
    head: list[CountCell]
    attention: list[AttentionCell]
    mlp: list[CountCell]
    reduce: list[ReduceCell]

    def __len__(self) -> int:
        return 1 + len(self.head) + len(self.attention) + len(self.mlp) + len(self.reduce)


class NoiseRecord(_Record):
    """How quiet the machine was, see `samples.Noise`; infinite values are None."""

    spread: float | None
    drift: float | None
    others: float | None
    noisy: bool
    why: str


class Validation(_Record):
    """Predictions against whole forwards of schedules that the table had not seen.

    The lists begin with the unpruned model, which the errors (relative to the measured medians) leave out.
    """

    mape: float
    worst: float
    bias: float
    rank_correlation: float
    schedules: list[str]
    predicted_ms: list[float]
    measured_ms: list[float]
    samples_us: list[list[float]]


class CostTable(_Record):
    """Latency of a model's pieces, which `predict` adds up to whole schedules.

    All latencies are milliseconds for one batch under `conditions` (`batch_size`, `dtype`, `attention`, `mode`,
    `threads`, `tokens`, `device`). `device` is what `describe_device` said.
    """

    format: Literal["prunesearch.cost_table"] = "prunesearch.cost_table"
    version: Literal[1] = 1
    status: Literal["measured", "estimated"]
    shape: Shape
    conditions: dict[str, Any]
    device: dict[str, Any]
    cells: Cells
    noise: NoiseRecord
    seconds: float
    walks: int
    validation: Validation | None = None

    # -- pieces ----------------------------------------------------------------------------------------

    @property
    def stem_ms(self) -> float:
        """What every schedule pays: all before the first block, and the head at full length."""
        return self._fixed

    def head_ms(self, n: int) -> float:
        """What the head costs with `n` tokens more (or, negative, less) than with all of them."""
        return self._head_slope * (n - self.shape.tokens)

    def attention_ms(self, n: int, biased: bool) -> float:
        """One block's attention half at `n` tokens; `biased` with `+ log(size)` on the keys."""
        return self._memo(self._seen_attention, (n, biased), lambda: self._attention[biased](n))

    def mlp_ms(self, n: int) -> float:
        """One block's MLP half at `n` tokens."""
        return self._memo(self._seen_mlp, n, lambda: self._mlp(n))

    def reduce_ms(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """One stage from `n_in` to `n_out` tokens; 0 if it removes nothing."""
        key = (scorer, merge, n_in, n_out)
        return self._memo(self._seen_reduce, key, lambda: self._reduce(scorer, merge, n_in, n_out))

    def predict(self, schedule: Schedule) -> float:
        """Latency of a whole forward under `schedule`, in ms.

        Raises:
            PruneSearchError: if the schedule names a method that was not measured, or a width outside the grid.
        """
        shape = self.shape
        counts = schedule.counts(shape.depth, shape.tokens, shape.protected)
        stages = {s.layer: s for s in schedule}
        n, biased, total = shape.tokens, False, self.stem_ms
        for layer, n_out in enumerate(counts):
            total += self.attention_ms(n, biased)
            stage = stages.get(layer)
            if stage is not None and n_out < n:
                total += self.reduce_ms(stage.scorer, stage.merge, n, n_out)
                biased = biased or MERGES.entry(stage.merge).makes_sizes
            total += self.mlp_ms(n_out)
            n = n_out
        return total + self.head_ms(n)

    @cached_property
    def _attention(self) -> dict[bool, Line]:
        lines = {}
        plain = {c.n: c.ms for c in self.cells.attention if not c.biased}
        sized = {c.n: c.ms for c in self.cells.attention if c.biased}
        top, shared = self.shape.tokens, plain.keys() & sized.keys()
        if top in plain and shared and top not in sized:
            # sizes never meet the whole sequence, so widths just below it have no cell above them: what the sizes cost
            # at the greatest width measured both ways is carried up
            widest = max(shared)
            sized[top] = plain[top] + sized[widest] - plain[widest]
        for biased, points in ((False, plain), (True, sized)):
            lines[biased] = Line("attention with token sizes" if biased else "attention without token sizes", points)
        return lines

    @cached_property
    def _mlp(self) -> Line:
        return Line("the MLP", {c.n: c.ms for c in self.cells.mlp})

    @cached_property
    def _reduce(self) -> ReduceSurface:
        points = [ReducePoint(c.scorer, c.merge, c.n_in, c.n_out, c.ms, c.samples) for c in self.cells.reduce]
        return ReduceSurface(points, self.shape.tokens, self.shape.protected)

    @cached_property
    def _head_line(self) -> tuple[float, float]:
        return fit_straight_line([(c.n, c.ms, c.samples) for c in self.cells.head])

    @cached_property
    def _head_slope(self) -> float:
        return self._head_line[1]

    @cached_property
    def _fixed(self) -> float:
        intercept, slope = self._head_line
        return self.cells.stem.ms + intercept + slope * self.shape.tokens

    @cached_property
    def _seen_attention(self) -> dict[tuple[int, bool], float]:
        return {}

    @cached_property
    def _seen_mlp(self) -> dict[int, float]:
        return {}

    @cached_property
    def _seen_reduce(self) -> dict[tuple[str, str, int, int], float]:
        return {}

    @staticmethod
    def _memo(seen: dict[Any, float], key: Any, compute: Any) -> float:
        found = seen.get(key)
        if found is None:
            found = seen[key] = compute()
        return found

    # -- for whom it holds -----------------------------------------------------------------------------

    def check_conditions(self, **asked: Any) -> None:
        """Refuse conditions other than those measured under.

        Args:
            asked: any of `batch_size`, `dtype`, `attention`, `mode`, `threads`, `tokens`, `device`.

        Raises:
            PruneSearchError: naming the first that differs, with both values.
        """
        for name, value in asked.items():
            if name not in self.conditions:
                known = ", ".join(self.conditions)
                raise PruneSearchError(f"a cost table has no condition '{name}': it has {known}")
            if self.conditions[name] != value:
                raise PruneSearchError(
                    f"the cost table was measured with {name}={self.conditions[name]}, but {name}={value} is asked "
                    "for: measure a new one (another study name), or ask for what was measured"
                )

    def check_shape(self, shape: Shape) -> None:
        """Refuse a model of another shape than the one measured; the error names the first difference."""
        for name in Shape.model_fields:
            mine, other = getattr(self.shape, name), getattr(shape, name)
            if mine != other:
                raise PruneSearchError(
                    f"the cost table is of a model with {name}={mine}, but this one has {name}={other}: "
                    "measure a new one (another study name)"
                )

    def summary(self) -> dict[str, Any]:
        """How good the table is, flat, for `front.json`; the errors are NaN before a validation."""
        checked, nan = self.validation, float("nan")
        return {
            "status": self.status,
            "mape": checked.mape if checked else nan,
            "worst": checked.worst if checked else nan,
            "rank_correlation": checked.rank_correlation if checked else nan,
            "schedules": len(checked.schedules) - 1 if checked else 0,
            "noisy": self.noise.noisy,
            "noise": self.noise.spread if self.noise.spread is not None else nan,
            "seconds": self.seconds,
            "cells": len(self.cells),
        }

    # -- files -----------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON, atomically: a killed run leaves the old file or the new one."""
        write_text_atomic(path, self.model_dump_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CostTable:
        """Read what `save` wrote.

        Raises:
            PruneSearchError: if there is no such file.
            CorruptFileError: if it is no cost table of this version; names the first thing wrong.
        """
        way_out = "delete it to measure again"
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise PruneSearchError(f"cost table {path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise CorruptFileError(f"cost table {path} is not JSON ({error}): {way_out}") from None
        if not isinstance(data, dict) or data.get("format") != "prunesearch.cost_table":
            raise CorruptFileError(f'cost table {path} must have "format": "prunesearch.cost_table": {way_out}')
        if data.get("version") != _VERSION:
            raise CorruptFileError(
                f"cost table {path} must have version {_VERSION}, but has {data.get('version')!r}: {way_out}"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CorruptFileError(f"cost table {path}, '{where}': {first['msg']}: {way_out}") from None
