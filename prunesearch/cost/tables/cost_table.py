"""The cost table: latencies of a model's pieces on one device, under stated conditions, with a stored error."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationError, model_validator

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import write_text_atomic
from prunesearch.core.registry import MERGES
from prunesearch.core.schedule import Schedule
from prunesearch.cost.shape import BLOCK_KEY, Shape
from prunesearch.cost.tables.surface import Line, ReducePoint, ReduceSurface, fit_straight_line
from prunesearch.cost.tables.table_records import Cells, TableFacts, first_error

_VERSION = 2


class CostTable(TableFacts):
    """Latency of a model's pieces, which `predict` adds up to whole schedules.

    All latencies are milliseconds for one batch under `conditions`.
    """

    format: Literal["prunesearch.cost_table"] = "prunesearch.cost_table"
    version: Literal[2] = 2
    cells: Cells

    @model_validator(mode="after")
    def _sampled(self) -> Self:
        bare = [row["piece"] for row in self.cells.rows() if row["samples"] == 0]
        if bare and self.status == "measured":
            raise ValueError(f"a measured cell has samples, but {bare[0]} has none")
        return self

    # -- pieces ----------------------------------------------------------------------------------------

    @property
    def stem(self) -> float:
        """What every schedule pays: all before the first block, and the head at full length."""
        return self._fixed

    def head(self, n: int) -> float:
        """What the head costs with `n` tokens more (or, negative, less) than with all of them."""
        return self._head_slope * (n - self.shape.tokens)

    def attention(self, n: int, biased: bool) -> float:
        """One block's attention half at `n` tokens; `biased` with `+ log(size)` on the keys."""
        return self._memo(self._seen_attention, (n, biased), lambda: self._attention[biased](n))

    def mlp(self, n: int) -> float:
        """One block's MLP half at `n` tokens."""
        return self._memo(self._seen_mlp, n, lambda: self._mlp(n))

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """One stage from `n_in` to `n_out` tokens; 0 if it removes nothing."""
        key = (scorer, merge, n_in, n_out)
        return self._memo(self._seen_reduce, key, lambda: self._reduce(scorer, merge, n_in, n_out))

    def predict(self, schedule: Schedule) -> float:
        """Latency of a whole forward under `schedule`, in ms.

        Raises:
            PruneSearchError: if the schedule names a method that was not measured, or a width outside the grid.
        """
        return sum(self.breakdown(schedule).values())

    def breakdown(self, schedule: Schedule) -> dict[str, float]:
        """Where a forward's time goes, in ms: `attention`, `mlp`, `reduce` over all blocks, and the `rest`."""
        shape = self.shape
        counts = schedule.counts(shape.depth, shape.tokens, shape.protected)
        stages = {s.layer: s for s in schedule}
        n, biased, attention, mlp, reduce = shape.tokens, False, 0.0, 0.0, 0.0
        for layer, n_out in enumerate(counts):
            attention += self.attention(n, biased)
            stage = stages.get(layer)
            if stage is not None and n_out < n:
                reduce += self.reduce(stage.scorer, stage.merge, n, n_out)
                biased = biased or MERGES.entry(stage.merge).makes_sizes
            mlp += self.mlp(n_out)
            n = n_out
        return {"attention": attention, "mlp": mlp, "reduce": reduce, "rest": self.stem + self.head(n)}

    @cached_property
    def _attention(self) -> dict[bool, Line]:
        lines = {}
        plain = {c.n: c.ms for c in self.cells.attention if not c.biased}
        sized = {c.n: c.ms for c in self.cells.attention if c.biased}
        top, shared = max(plain, default=0), plain.keys() & sized.keys()
        if shared and top > max(sized):
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
        points = [ReducePoint(c.scorer, c.merge, c.n_in, c.n_out, c.ms, max(c.samples, 1)) for c in self.cells.reduce]
        return ReduceSurface(points, self.shape.tokens, self.shape.protected)

    @cached_property
    def _head_line(self) -> tuple[float, float]:
        return fit_straight_line([(c.n, c.ms, max(c.samples, 1)) for c in self.cells.head])

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

    def for_shape(self, shape: Shape) -> CostTable:
        """The table for a model of the same blocks that may be deeper, shorter in tokens, or of another family.

        Blocks add up, so another depth is sound; fewer tokens lie within the measured grid; the stem is taken to grow
        with the tokens. What was done is said in `notes`.

        Raises:
            PruneSearchError: if the blocks differ, or the model has more tokens than were measured.
        """
        mine = self.shape
        for name in BLOCK_KEY:
            if getattr(mine, name) != getattr(shape, name):
                raise PruneSearchError(
                    f"the cost table is of blocks with {name}={getattr(mine, name)}, but this model's have "
                    f"{name}={getattr(shape, name)}: measure a table of it (prunesearch profile --model ...)"
                )
        if shape == mine:
            return self
        if shape.tokens > mine.tokens:
            raise PruneSearchError(
                f"the cost table goes up to {mine.tokens} tokens, but this model has {shape.tokens}: "
                "measure a table of it (prunesearch profile --model ...)"
            )
        notes, cells = list(self.notes), self.cells
        if shape.depth != mine.depth:
            notes.append(f"table of {mine.depth} blocks, added up for {shape.depth}")
        if shape.family != mine.family:
            notes.append(f"embeddings and head are those of {mine.family}, not of {shape.family}")
        if shape.tokens != mine.tokens:
            notes.append(f"table of {mine.tokens} tokens, interpolated for {shape.tokens}")
            share = shape.tokens / mine.tokens
            stem = {k: getattr(cells.stem, k) * share for k in ("ms", "median_ms", "p10_ms", "p90_ms")}
            cells = cells.model_copy(update={"stem": cells.stem.model_copy(update={**stem, "samples_us": []})})
        facts = {name: getattr(self, name) for name in TableFacts.model_fields}
        conditions = {**self.conditions, "tokens": shape.tokens}
        return CostTable(**{**facts, "shape": shape, "conditions": conditions, "cells": cells, "notes": notes})

    def summary(self) -> dict[str, Any]:
        """How good the table is, flat, for `front.json`; the errors are NaN before a validation."""
        checked, nan = self.validation, float("nan")
        return {
            "status": self.status,
            "source": self.source,
            "against": checked.against if checked else "nothing yet",
            "notes": self.notes,
            "mape": checked.mape if checked else nan,
            "worst": checked.worst if checked else nan,
            "rank_correlation": checked.rank_correlation if checked else nan,
            "schedules": checked.unseen if checked else 0,
            "noisy": self.noise.noisy,
            "noise": self.noise.spread,
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
            raise CorruptFileError(f"cost table {path}, {first_error(error)}: {way_out}") from None
