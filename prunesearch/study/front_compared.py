"""What `prunesearch compare` found, methods at equal latency, and `prunesearch stress`, points on other rows.

docs/front-schema.md is made of what is said here.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from prunesearch.study.front_items import ClassQuality, Difference, FrontRecord, Measured, MetricValue
from prunesearch.study.front_records import RowLatency


class SaidBySurvey(FrontRecord):
    """A cell of a survey's table, and whether our figures agree: with every method that it ranks higher or lower."""

    column: str = Field(description="`cost`, `adaptability` or `complexity`")
    said: str = Field(description="`low`, `moderate` or `high`")
    ours: float | None = Field(
        description="our figure: seconds to find or train, `varies`, `kernels`; null where not known"
    )
    pairs: int = Field(ge=0, description="methods that the survey ranks higher or lower, and that have a figure")
    agree: int = Field(ge=0, description="of them, those that our figures have in the survey's order")


class ComparedMethod(FrontRecord):
    """A method at the latency that all are compared at."""

    name: str = Field(description="a name of `prunesearch names rivals`")
    plan: dict[str, Any] | None = Field(description="as `Plan.to_dict()`; null where rows run several plans")
    text: str = Field(description="the plan in one line")
    quality: MetricValue = Field(description="on the holdout rows, with its change from the unpruned model")
    to_ours: Difference | None = Field(
        default=None, description="quality minus that of the search's stages, paired by row; null where that has none"
    )
    latency: Measured = Field(description="milliseconds of a batch, timed interleaved with all others")
    speedup: float = Field(gt=0, description="the unpruned model's latency divided by it")
    macs: float | None = Field(default=None, description="GMACs an input; null where there is no closed form")
    seconds: float = Field(ge=0, description="to find or to train it, beyond the cost table that all need")
    rows: int = Field(ge=0, description="that the model ran for it, in forwards of the unpruned model")
    stages: int = Field(ge=0, description="of its plan")
    kernels: float | None = Field(default=None, description="operations that a stage adds to a forward of one row")
    varies: float | None = Field(
        default=None,
        description="how unlike the fate of tokens is in two inputs of one length, over stages: 0 the same in all, "
        "1 none in common",
    )
    by_row: RowLatency | None = Field(
        default=None,
        description="spread of latency over inputs, where it hangs on them; null: the same for every input",
    )
    views: dict[str, Difference] = Field(
        default_factory=dict, description="change of the quality in every view of the rows (`--robust`)"
    )
    survey: list[SaidBySurvey] = Field(default_factory=list, description="empty where the survey has no such method")


class Compared(FrontRecord):
    """Methods side by side at equal measured latency (`prunesearch compare`)."""

    budget: str = Field(description="the latency, as typed")
    share: float = Field(gt=0, le=1, description="of the unpruned model's latency that plans may take")
    unpruned: Measured = Field(description="milliseconds of a batch of the unpruned model, in the same run")
    macs: float | None = Field(default=None, description="GMACs an input of the unpruned model; null likewise")
    rows: int = Field(ge=1, description="holdout rows of the qualities")
    methods: list[ComparedMethod] = Field(description="by falling quality")
    left_out: dict[str, str] = Field(default_factory=dict, description="why other methods have no plan here")
    table_seconds: float = Field(ge=0, description="that measuring the cost table took, which all methods need")
    notes: list[str] = Field(default_factory=list, description="what a reader should know")
    verdict: str = Field(description="in one or two sentences")


class AttackedPlan(FrontRecord):
    """A plan on rows that were changed, within a bound, so that answers come out wrong."""

    name: str = Field(description="`unpruned`, the id of a point, or a plan by row that `adapt` found")
    attack: str = Field(description="`fgsm` or `pgd`")
    own: float = Field(description="quality on rows that were changed to mislead this plan")
    from_unpruned: float = Field(description="quality on rows that were changed to mislead the unpruned model")
    to_unpruned: float = Field(description="of the unpruned model, on rows that were changed to mislead this plan")
    tokens: float = Field(description="behind the last block, on average over rows that were changed to mislead it")


class DearerPlan(FrontRecord):
    """A plan, cascade or router on rows that were changed, within a bound, so that one of them computes more."""

    name: str = Field(description="`unpruned`, the id of a point, or what `adapt` found")
    made_for: str = Field(default="by-score", description="the plan, cascade or router that the rows were made for")
    tokens: float | None = Field(
        default=None,
        description="behind the last block, on average over rows as they are; null where plans are several",
    )
    attacked_tokens: float | None = Field(default=None, description="the same over the changed rows")
    slow: float | None = Field(
        default=None, description="share of rows as they are that go to the slowest plan; null for one plan"
    )
    attacked_slow: float | None = Field(default=None, description="the same of the changed rows")
    ms: float = Field(description="mean of the same batches as they are, timed side by side with the changed ones")
    attacked_ms: float = Field(description="mean of the changed batches")
    quality: float = Field(description="on rows as they are")
    attacked_quality: float = Field(description="on the changed rows")


class StressedPlan(FrontRecord):
    """A plan on rows as they are, class by class, and on those of other data."""

    name: str = Field(description="`unpruned`, the id of a point, or a plan by row that `adapt` found")
    quality: MetricValue = Field(description="on rows as they are, with its change from the unpruned model's")
    tokens: float = Field(description="behind the last block, on average over rows as they are")
    classes: list[ClassQuality] = Field(default_factory=list, description="the class that lost most first")
    groups: list[ClassQuality] = Field(
        default_factory=list, description="likewise, of a study with groups (`run --group`)"
    )
    shifted: MetricValue | None = Field(default=None, description="on the other data; null where none was given")


class Stressed(FrontRecord):
    """What `prunesearch stress` found."""

    rows: int = Field(description="holdout rows that were judged, class by class")
    attacked_rows: int = Field(description="of them, those that were attacked; 0 where none were")
    eps: float | None = Field(default=None, description="most that a channel of a pixel changes, of 1")
    data: str | None = Field(default=None, description="the other data")
    shifted_rows: int = Field(default=0, description="holdout rows of the other data")
    plans: list[StressedPlan] = Field(description="the unpruned model first")
    attacked: list[AttackedPlan] = Field(default_factory=list, description="one a plan and attack")
    dearer: list[DearerPlan] = Field(default_factory=list, description="one a plan, under an attack on compute")
    notes: list[str] = Field(default_factory=list, description="what a reader should know, and the verdict")
