"""The cost table: latencies of a model's pieces on one device, under stated conditions, with a stored error."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import load_json, write_text_atomic
from prunesearch.core.plans.flow import Flow, Geometry
from prunesearch.core.plans.plan import HALVES, Change, Halves, Plan, variant_of
from prunesearch.core.tables.registry import CHANGES
from prunesearch.cost.costs import OfOneModel, breakdown
from prunesearch.cost.shape import Shape
from prunesearch.cost.tables.surface import Line, ReducePoint, ReduceSurface, fit_straight_line
from prunesearch.cost.tables.table_records import Cells, TableFacts, first_error
from prunesearch.cost.tables.tower_costs import TowerCosts

_VERSION = 3
_READ = (2, 3)  # in version 2 all blocks were alike


class CostTable(TableFacts, OfOneModel):
    """Latency of a model's pieces, which `price` adds up to whole forwards.

    All latencies are milliseconds for one batch under `conditions`. `changed` has the cells of the model with changes
    (`Plan.variant`), measured in the same run; `tower`, by the same names and "", those of the tower before a decoder.
    """

    format: Literal["prunesearch.cost_table"] = "prunesearch.cost_table"
    version: Literal[3] = 3
    cells: Cells
    changed: dict[str, Cells] = Field(default_factory=dict)
    tower: dict[str, Cells] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name not in ("changed", "tower") or value}

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, data: Any) -> Any:
        """Version 2 says the same where no block has a variant, and it knew of none."""
        return {**data, "version": _VERSION} if isinstance(data, dict) and data.get("version") == 2 else data

    @model_validator(mode="after")
    def _sampled(self) -> Self:
        every = [self.cells, *self.changed.values(), *self.tower.values()]
        bare = [row["piece"] for cells in every for row in cells.rows() if row["samples"] == 0]
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

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """The attention half of block `layer` at `n` tokens; `sized` with `+ log(size)` on the keys."""
        return self.attention_of(self.shape.blocks[layer].attention, n, sized)

    def attention_of(self, variant: str, n: int, sized: bool) -> float:
        """The attention half of blocks of a `shape.Variant`."""
        seen, key = self._seen_attention, (n, sized, variant)
        if key not in seen:
            seen[key] = self._attention_line(variant, sized)(n)
        return seen[key]

    def mlp(self, n: int, layer: int) -> float:
        """The MLP half of block `layer` at `n` tokens."""
        return self.mlp_of(self.shape.blocks[layer].mlp, n)

    def mlp_of(self, variant: str, n: int) -> float:
        """The MLP half of blocks of a `shape.Variant`."""
        seen, key = self._seen_mlp, (n, variant)
        if key not in seen:
            seen[key] = self._mlp_line(variant)(n)
        return seen[key]

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """One stage from `n_in` to `n_out` tokens; 0 if it removes nothing."""
        seen, key = self._seen_reduce, (scorer, merge, n_in, n_out)
        if key not in seen:
            seen[key] = self._reduce(*key)
        return seen[key]

    @property
    def geometry(self) -> Geometry:
        """Of the model that the table is of."""
        return self.shape.geometry

    @property
    def variants(self) -> tuple[str, ...]:
        """What the model was measured with, as `Plan.variant` says it; the first, nothing, is empty."""
        return ("", *self.changed)

    def under(self, changes: tuple[Change, ...]) -> CostTable | Narrowed:
        """The table of the model with these changes.

        Raises:
            PruneSearchError: if they were not measured.
        """
        table, halves = self._of_whole(variant_of(changes)), Plan(changes=changes).halves
        return Narrowed(table, halves, self) if halves else table

    def _of_whole(self, variant: str) -> CostTable:
        if not variant:
            return self
        if variant not in self._under:
            if variant not in self.changed:
                known = ", ".join(self.changed) or "none"
                raise PruneSearchError(
                    f"the cost table has nothing in {variant} (changes that it has: {known}): measure a new one "
                    "(another study name), or leave it out (--precision)"
                )
            facts = {name: getattr(self, name) for name in TableFacts.model_fields}
            tower = {"": self.tower[variant]} if variant in self.tower else {}
            self._under[variant] = CostTable(**{**facts, "cells": self.changed[variant], "tower": tower})
        return self._under[variant]

    @property
    def in_tower(self) -> TowerCosts | None:
        """Of the tower before a decoder, if the table has its pieces."""
        return self._in_tower

    @cached_property
    def _in_tower(self) -> TowerCosts | None:
        if self.shape.tower is None or "" not in self.tower:
            return None
        facts = {name: getattr(self, name) for name in TableFacts.model_fields}
        facts |= {"shape": self.shape.tower, "validation": None, "energy": None}
        blocks, cells = CostTable(**facts, cells=self.tower[""]), self.tower[""]
        line = Line("what follows the tower", {cell.n: cell.ms for cell in cells.head})
        return TowerCosts(blocks, cells.stem.ms, line)

    def price(self, flow: Flow) -> float:
        """Latency of a whole forward, in ms.

        Raises:
            PruneSearchError: if a stage's method was not measured, or a width lies outside the grid.
        """
        return sum(self.breakdown(flow).values())

    def breakdown(self, flow: Flow) -> dict[str, float]:
        """Where a forward's time goes, in ms: `attention`, `mlp`, `reduce` over all blocks, and the `rest`."""
        return breakdown(self, flow)

    def _attention_line(self, variant: str, sized: bool) -> Line:
        what = ("attention with token sizes" if sized else "attention without token sizes") + _of(variant)
        if what not in self._lines:
            self._lines[what] = Line(what, self._attention_points(variant, sized))
        return self._lines[what]

    def _attention_points(self, variant: str, sized: bool) -> dict[int, float]:
        cells = [c for c in self.cells.attention if c.variant == variant]
        points = {b: {c.n: c.ms for c in cells if c.biased == b} for b in (False, True)}
        plain, biased = points[False], points[True]
        top, shared = max(plain, default=0), plain.keys() & biased.keys()
        if shared and top > max(biased):
            # sizes never meet the whole sequence, so widths just below it have no cell above them: what the sizes cost
            # at the greatest width measured both ways is carried up
            widest = max(shared)
            biased[top] = plain[top] + biased[widest] - plain[widest]
        return points[sized]

    def _mlp_line(self, variant: str) -> Line:
        what = "the MLP" + _of(variant)
        if what not in self._lines:
            self._lines[what] = Line(what, {c.n: c.ms for c in self.cells.mlp if c.variant == variant})
        return self._lines[what]

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
    def _lines(self) -> dict[str, Line]:
        return {}

    @cached_property
    def _under(self) -> dict[str, CostTable]:
        return {}

    @cached_property
    def _seen_attention(self) -> dict[tuple[int, bool, str], float]:
        return {}

    @cached_property
    def _seen_mlp(self) -> dict[tuple[int, str], float]:
        return {}

    @cached_property
    def _seen_reduce(self) -> dict[tuple[str, str, int, int], float]:
        return {}

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
        mine, other = self.shape, self.shape.differs(shape)
        if other is not None:
            name, has, wants = other
            raise PruneSearchError(
                f"the cost table is of blocks with {name}={has}, but this model's have {name}={wants}: measure a table "
                "of it (prunesearch profile --model ...)"
            )
        if shape == mine:
            return self
        if shape.tokens > mine.tokens:
            raise PruneSearchError(
                f"the cost table goes up to {mine.tokens} tokens, but this model has {shape.tokens}: "
                "measure a table of it (prunesearch profile --model ...)"
            )
        notes, every = list(self.notes), {"": self.cells, **self.changed}
        if shape.depth != mine.depth:
            notes.append(f"table of {mine.depth} blocks, added up for {shape.depth}")
        if shape.family != mine.family:
            notes.append(f"embeddings and head are those of {mine.family}, not of {shape.family}")
        if shape.tokens != mine.tokens:
            notes.append(f"table of {mine.tokens} tokens, interpolated for {shape.tokens}")
            share = shape.tokens / mine.tokens
            every = {variant: cells.with_stem_times(share) for variant, cells in every.items()}
        facts = {name: getattr(self, name) for name in TableFacts.model_fields}
        conditions = {**self.conditions, "tokens": shape.tokens}
        facts |= {"shape": shape, "conditions": conditions, "notes": notes}
        return CostTable(**facts, cells=every.pop(""), changed=every)

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
            "cells": sum(map(len, [self.cells, *self.changed.values(), *self.tower.values()])),
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
        data = load_json(path, "cost table", way_out)
        if data.get("format") != "prunesearch.cost_table":
            raise CorruptFileError(f'cost table {path} must have "format": "prunesearch.cost_table": {way_out}')
        if data.get("version") not in _READ:
            known = " or ".join(map(str, _READ))
            raise CorruptFileError(
                f"cost table {path} must have version {known}, but has {data.get('version')!r}: {way_out}"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise CorruptFileError(f"cost table {path}, {first_error(error)}: {way_out}") from None


class Narrowed(OfOneModel):
    """A table's prices of the model with changes of halves of its blocks.

    Args:
        table: with the cells of such halves, by their words (`shape.Variant`).
        halves: the changes.
        unchanged: the table of the model as it is, which has what stays so.
    """

    def __init__(self, table: CostTable, halves: Halves, unchanged: CostTable) -> None:
        self.table, self.halves, self.unchanged = table, halves, unchanged
        self._blocks = table.shape.under(halves).blocks

    @property
    def geometry(self) -> Geometry:
        """Of the model."""
        return self.table.geometry

    def under(self, changes: tuple[Change, ...]) -> CostTable | Narrowed:
        """The table of the model with these changes instead."""
        return self.table.under(changes)

    def price(self, flow: Flow) -> float:
        """Latency of a whole forward, in ms."""
        return sum(self.breakdown(flow).values())

    def breakdown(self, flow: Flow) -> dict[str, float]:
        """See `CostTable`."""
        return breakdown(self, flow)

    def attention(self, n: int, sized: bool, layer: int) -> float:
        """The attention half of block `layer` at `n` tokens; `sized` with `+ log(size)` on the keys."""
        return self._of(layer, HALVES[0]).attention_of(self._blocks[layer].attention, n, sized)

    def mlp(self, n: int, layer: int) -> float:
        """The MLP half of block `layer` at `n` tokens."""
        return self._of(layer, HALVES[1]).mlp_of(self._blocks[layer].mlp, n)

    def _of(self, layer: int, half: str) -> CostTable:
        change = self.halves.get((layer, half))
        return self.unchanged if change is not None and CHANGES.entry(change.kind).keeps else self.table

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """One stage."""
        return self.table.reduce(scorer, merge, n_in, n_out)

    @property
    def stem(self) -> float:
        """Everything before the first block, and the head."""
        return self.table.stem

    def head(self, n: int) -> float:
        """What `n` tokens at the end cost more or less than the whole sequence."""
        return self.table.head(n)


def _of(variant: str) -> str:
    return f" of {variant} blocks" if variant else ""
