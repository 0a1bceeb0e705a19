"""`front.json`: the result of a study, as typed models. Every field and its unit: docs/front-schema.md."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import write_text_atomic
from prunesearch.study.front_records import (
    BudgetInfo,
    Calibration,
    Conditions,
    ConstraintInfo,
    Cost,
    CostTable,
    Device,
    Energy,
    Fidelity,
    Hypervolume,
    Interval,
    Latency,
    Load,
    Memory,
    ModelInfo,
    Percentile,
    Point,
    Record,
    SearchInfo,
    Selection,
    TaskInfo,
    Unpruned,
    Verdict,
)

__all__ = [
    "FRONT_FORMAT",
    "FRONT_VERSION",
    "BudgetInfo",
    "Calibration",
    "Conditions",
    "ConstraintInfo",
    "CostTable",
    "Device",
    "Energy",
    "Fidelity",
    "Front",
    "Hypervolume",
    "Interval",
    "Latency",
    "Load",
    "Memory",
    "ModelInfo",
    "Percentile",
    "Point",
    "SearchInfo",
    "Selection",
    "TaskInfo",
    "Unpruned",
    "Verdict",
    "cost_of",
    "dearest_of",
    "digits",
    "trust",
]

FRONT_FORMAT = "prunesearch.front"
FRONT_VERSION = 3
_READABLE = (2, FRONT_VERSION)  # what version 3 added has defaults
_REWRITE = "run the study again to rewrite it (finished trials are kept in study.journal)"


class Front(Record):
    """The whole of `front.json`. Points are sorted by latency, slowest first.

    `objectives` are what was minimised beside the loss of quality; `measured` says whether points were re-measured.
    With several `loads`, the latency of a point is what they come to together.
    """

    format: Literal["prunesearch.front"] = "prunesearch.front"
    version: Literal[3] = 3
    study: str
    created: str
    prunesearch: str
    config: dict[str, Any]
    model: ModelInfo
    task: TaskInfo
    device: Device
    conditions: Conditions
    cost_table: CostTable
    objectives: list[Cost] = Field(min_length=1)
    percentile: Percentile | None = None
    loads: list[Load] = Field(default_factory=list)
    across: Literal["mean", "worst"] | None = None
    budget: BudgetInfo | None
    constraints: list[ConstraintInfo] = Field(default_factory=list)
    unpruned: Unpruned
    points: list[Point]
    dropped: int = Field(ge=0)
    hypervolume: Hypervolume | None = None
    selection: Selection | None = None
    notes: list[str] = Field(default_factory=list)
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
        for name in ("energy", "memory"):
            if name in self.objectives and any(getattr(item, name) is None for item in items):
                raise ValueError(f"where {name} is an objective, every point must have one")
        if any(len(item.loads) != len(self.loads) for item in items):
            raise ValueError(f"every point must have one latency for each of {len(self.loads)} loads")
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
        if budget is None:
            return self.points
        cost = dearest_of if budget.each else cost_of
        return [p for p in self.points if cost(p, budget.unit) <= budget.limit]

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
            return cls.model_validate({**data, "version": FRONT_VERSION})
        except ValidationError as error:
            raise CorruptFileError(f"{path}: {_first_error(error)}: {_REWRITE}") from None


def cost_of(item: Unpruned | Point, unit: str) -> float:
    """Latency of a batch in `ms`, energy of one input in `mJ`, multiply-adds of one in `GMACs`, or memory in `MiB`.

    Raises:
        PruneSearchError: if energy or memory is asked for and was not part of the study.
    """
    if unit == "ms":
        return item.latency.ms
    if unit == "GMACs":
        return item.gmacs
    if unit == "MiB":
        if item.memory is None:
            raise PruneSearchError("this study knows no memory: run it with --objective memory")
        return item.memory.mib
    if item.energy is None:
        raise PruneSearchError("this study knows no energies: run it with --objective energy on a device that has them")
    return item.energy.mj


def dearest_of(item: Unpruned | Point, unit: str) -> float:
    """`cost_of`, but of several loads the longest latency: what a bound in ms is held against."""
    if unit == "ms" and item.loads:
        return max(latency.ms for latency in item.loads)
    return cost_of(item, unit)


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
    if version not in _READABLE or isinstance(version, bool):
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
