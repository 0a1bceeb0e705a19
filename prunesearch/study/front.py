"""`front.json`: the result of a study, as typed models. Every field and its unit: docs/front-schema.md."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import parse_json, write_text_atomic
from prunesearch.core.tables.registry import ACROSS
from prunesearch.study.front_compared import Compared, Stressed
from prunesearch.study.front_items import CostName, FrontItem, FrontRecord, Point, Unpruned
from prunesearch.study.front_records import (
    Adapted,
    BudgetInfo,
    Conditions,
    ConstraintInfo,
    Device,
    Hypervolume,
    LoadInfo,
    ModelInfo,
    Percentile,
    Rung,
    SearchInfo,
    Selection,
    TableInfo,
    TaskInfo,
    Verdict,
)
from prunesearch.study.front_versions import UPGRADES

FRONT_FORMAT = "prunesearch.front"
FRONT_VERSION = 4
_REWRITE = "run the study again to rewrite it (finished trials are kept in study.journal)"


def _combining(name: str) -> str:
    ACROSS.entry(name)
    return name


AcrossName = Annotated[str, AfterValidator(_combining)]  # a row of `ACROSS`


class Front(FrontRecord):
    """The whole of `front.json`."""

    format: Literal["prunesearch.front"] = Field(default="prunesearch.front", description="always `prunesearch.front`")
    version: Literal[4] = Field(default=4, description="version of this schema")
    study: str = Field(description="name of the study")
    created: str = Field(description="when the front was made, ISO 8601")
    prunesearch: str = Field(description="version of prunesearch that made it")
    config: dict[str, Any] = Field(description="configuration of the run, as in `config.yaml`")
    model: ModelInfo = Field(description="the model")
    task: TaskInfo = Field(description="what quality means")
    device: Device = Field(description="where costs were measured")
    conditions: Conditions = Field(description="how latency was measured")
    cost_table: TableInfo = Field(description="how good the latency predictions are")
    objectives: list[CostName] = Field(
        min_length=1,
        description="what was minimised beside the loss of quality, up to three costs; the first one is what shares "
        "and "
        "speed-ups bound",
    )
    percentile: Percentile | None = Field(
        default=None, description="the percentile of latency that was minimised; null for the median"
    )
    loads: list[LoadInfo] = Field(default_factory=list, description="the loads; empty for a single one")
    across: AcrossName | None = Field(
        default=None, description="how several loads become one latency: `mean` or `worst`; null for a single one"
    )
    combined: AcrossName | None = Field(
        default=None,
        description="how several qualities become the one that counts, which is the first of `qualities`: `mean` or "
        "`worst`; null for a single one",
    )
    budget: BudgetInfo | None = Field(description="the budget; null when none was given")
    constraints: list[ConstraintInfo] = Field(default_factory=list, description="the constraints")
    unpruned: Unpruned = Field(description="the reference")
    points: list[Point] = Field(description="the front, sorted by latency, slowest first")
    dropped: int = Field(
        ge=0,
        description="candidates removed because holdout data and re-measuring showed them dominated, or outside a "
        "bound",
    )
    hypervolume: Hypervolume | None = Field(default=None, description="size of the front; null when not recorded")
    selection: Selection | None = Field(
        default=None, description="whether the choice of the candidates flattered them; null when there was none"
    )
    notes: list[str] = Field(
        default_factory=list,
        description="what a reader should know of the result, such as a visible winner's curse",
    )
    verdict: Verdict = Field(description="the answer in one sentence")
    ladder: list[Rung] = Field(
        default_factory=list,
        description="what one line of each runtime and precision would give the unpruned model here; empty where the "
        "device was not at hand, and in older files",
    )
    adapted: Adapted | None = Field(
        default=None, description="plans chosen row by row (`prunesearch adapt`); null where nobody asked"
    )
    compared: Compared | None = Field(
        default=None,
        description="methods at equal measured latency (`prunesearch compare`); null where nobody asked",
    )
    stressed: Stressed | None = Field(
        default=None,
        description="points on attacked rows, on other data and class by class (`prunesearch stress`); null where "
        "nobody asked",
    )
    search: SearchInfo = Field(description="what the search spent")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [p.id for p in self.points]
        if len(set(ids)) < len(ids):
            raise ValueError(f"point ids must differ, but got {ids}")
        for name in (self.verdict.point, self.verdict.by_estimate):
            if name is not None and name not in ids:
                raise ValueError(f"the verdict names point '{name}', which is not in {ids}")
        for name, tokens in [("unpruned", self.unpruned.tokens)] + [(p.id, p.tokens) for p in self.points]:
            if len(tokens) != self.model.depth:
                raise ValueError(
                    f"`tokens` has one count for each of {self.model.depth} blocks, but {name} has {len(tokens)}"
                )
        return self

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        """Every item has the same costs, loads and qualities, found in the same way."""
        items: list[FrontItem] = [self.unpruned, *self.points]
        if any(set(item.costs) != set(self.unpruned.costs) for item in items):
            raise ValueError(f"every point must have the costs of the unpruned model: {', '.join(self.unpruned.costs)}")
        for name in dict.fromkeys(["latency", *self.objectives]):
            if name not in self.unpruned.costs:
                raise ValueError(f"where {name} is an objective, every point must have one")
        for name in self.unpruned.costs:
            if len({item.costs[name].measured is None for item in items}) > 1:
                raise ValueError(f"{name} must have been measured for all points and the unpruned model, or for none")
        if any(len(item.loads) != len(self.loads) for item in items):
            raise ValueError(f"every point must have one latency for each of {len(self.loads)} loads")
        if any(list(item.qualities) != list(self.unpruned.qualities) for item in items):
            raise ValueError(f"every point must have the qualities {', '.join(self.unpruned.qualities)}, in this order")
        if (self.combined is None) != (len(self.unpruned.qualities) == 1):
            raise ValueError("`combined` must say how several qualities became the first, and be null for one")
        latencies = [p.latency.value for p in self.points]
        if latencies != sorted(latencies, reverse=True):
            raise ValueError("points must be sorted by latency, slowest first")
        return self

    def point(self, point_id: str) -> Point | None:
        """Return the point of that id, or None."""
        return next((p for p in self.points if p.id == point_id), None)

    @property
    def views(self) -> list[str]:
        """The views that rows were judged in; empty where they were judged as they are alone."""
        return list(self.unpruned.qualities)[1:]

    @property
    def measured(self) -> bool:
        """Whether latencies were measured end to end on the device, not only predicted."""
        return self.unpruned.latency.measured is not None

    def within_budget(self) -> list[Point]:
        """Return the points that meet the budget (all, when there is none)."""
        budget = self.budget
        if budget is None:
            return self.points
        return [p for p in self.points if budget.met_by(p)]

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
            data = parse_json(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise PruneSearchError(
                f"{path} does not exist: the study has not finished; run the same `prunesearch run` again"
            ) from None
        except OSError as error:
            raise PruneSearchError(f"{path} cannot be read ({error.strerror}): check the path") from None
        except ValueError as error:
            raise CorruptFileError(f"{path} is not JSON ({error}): {_REWRITE}") from None
        _check_header(path, data)
        version = data["version"]
        try:
            return cls.model_validate(UPGRADES[version](data) if version in UPGRADES else data)
        except (KeyError, TypeError, AttributeError) as error:
            raise CorruptFileError(f"{path} is no front of version {version} ({error!r}): {_REWRITE}") from None
        except ValidationError as error:
            raise CorruptFileError(f"{path}: {_first_error(error)}: {_REWRITE}") from None


def trust(table: TableInfo) -> str:
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
    if version not in (*UPGRADES, FRONT_VERSION) or isinstance(version, bool):
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
