"""The unpruned model and the points of `front.json`. docs/front-schema.md is made of what is said here."""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from prunesearch.core.costs import find_cost
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule


def _known(name: str) -> str:
    find_cost(name)
    return name


CostName = Annotated[str, AfterValidator(_known)]  # a row of `COSTS`


class FrontRecord(BaseModel):
    """A frozen part of the file: no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Interval(FrontRecord):
    """A value with its two-sided 95 % confidence interval."""

    value: float = Field(description="the point estimate")
    low: float | None = Field(description="lower end of the interval; null where nothing is known of it")
    high: float | None = Field(description="upper end of the interval; null likewise")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("`low` and `high` must both be given or both be null")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"`low <= high` must hold, but got {self.low} > {self.high}")
        return self

    @property
    def ends(self) -> tuple[float, float] | None:
        """Both ends; None where nothing is known of them, as of one number for a whole model."""
        return None if self.low is None or self.high is None else (self.low, self.high)


class Difference(Interval):
    """Pruned minus unpruned quality, paired row by row on the holdout split."""

    at_least: float | None = Field(
        default=None,
        description="one-sided 95 % lower bound of the difference; null in files that are older than version 4",
    )
    promised: float | None = Field(
        default=None,
        description="the least `at_least` of this candidate and of all slower ones, those that were dropped among "
        "them: a share of the unpruned quality, fixed beforehand, is kept at 95 % confidence by whichever point has "
        "this above what the share allows to lose; null where the point takes no part in promises",
    )

    @property
    def bound(self) -> float:
        """The lower bound that a promise rests on; of old files the two-sided one, which promises less."""
        found = self.low if self.at_least is None else self.at_least
        return -math.inf if found is None else found


class MetricValue(Interval):
    """A metric on the holdout split."""

    at_least: float | None = Field(default=None, description="one-sided 95 % lower bound; null where not recorded")
    difference: Difference | None = Field(
        default=None, description="to the unpruned model; null for that model itself, and where it is not known"
    )
    calibration: float | None = Field(
        default=None, description="the metric on the calibration rows that the search saw; null where not recorded"
    )


class Measured(FrontRecord):
    """A cost as it was measured end to end; what does not fit a cost is null."""

    value: float = Field(ge=0, description="what counts: the median, the percentile that was minimised, or the mean")
    median: float | None = Field(default=None, ge=0, description="the median, where another percentile counts")
    p10: float | None = Field(default=None, ge=0, description="10th percentile of single forwards")
    p90: float | None = Field(default=None, ge=0, description="90th percentile of single forwards")
    low: float | None = Field(default=None, description="lower end of the 95 % interval of `value`")
    high: float | None = Field(default=None, description="upper end of that interval")
    net: float | None = Field(default=None, description="what of an energy is above the idle device's")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for low, high in (("p10", "p90"), ("low", "high")):
            if (getattr(self, low) is None) != (getattr(self, high) is None):
                raise ValueError(f"`{low}` and `{high}` must both be given or both be null")
        return self

    @property
    def middle(self) -> float:
        """The median, whatever counts."""
        return self.value if self.median is None else self.median


class CostAmount(FrontRecord):
    """What a cost comes to, in the unit of its row."""

    predicted: float | None = Field(
        default=None,
        ge=0,
        description="by the cost table, the fitted powers, a count or shapes: of a latency the median, or the "
        "percentile that is minimised; null for a cost that is known only after an evaluation",
    )
    measured: Measured | None = Field(
        default=None, description="null where the device was not at hand or has no counter"
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.predicted is None and self.measured is None:
            raise ValueError("one of `predicted` and `measured` must be given")
        return self

    @property
    def value(self) -> float:
        """What counts: as measured, or the prediction where nothing was."""
        found = self.predicted if self.measured is None else self.measured.value
        return math.nan if found is None else found  # one of them is there, or the record was refused


Amounts = dict[CostName, CostAmount]


class Fidelity(FrontRecord):
    """How close outputs stay to the unpruned model's."""

    kl: float = Field(
        description="mean divergence from the unpruned model on the holdout split: KL of what it predicts, in nats; "
        "`1 - cosine` for models without a head"
    )
    agreement: float = Field(
        ge=0,
        le=1,
        description="share of holdout rows (of words, frames or tokens where a row has many) with the same prediction",
    )
    agreement_at_least: float | None = Field(
        default=None, description="one-sided 95 % lower bound of `agreement`; null where not recorded"
    )
    calibration_kl: float = Field(description="mean divergence on the calibration rows that the search saw")


class FrontItem(FrontRecord):
    """What the unpruned model and a point have in common."""

    qualities: dict[str, MetricValue] = Field(
        min_length=1,
        description="by name, the one that counts first: the metric, or what several come to (`combined`), then these",
    )
    costs: Amounts = Field(description="an amount for each cost of the study; of several loads what they come to")
    loads: list[Amounts] = Field(
        default_factory=list, description="under each of several loads, the costs that every load has its own of"
    )
    tokens: list[int] = Field(description="tokens leaving each block, protected ones included")
    rows: int | None = Field(
        default=None,
        ge=1,
        description="holdout rows that it was evaluated on, all or as many as what is said of it needs: a point's "
        "quality is the unpruned model's with the change on these; null in older files: all",
    )

    @property
    def quality(self) -> MetricValue:
        """The quality that counts."""
        return next(iter(self.qualities.values()))

    def quality_in(self, view: str) -> MetricValue:
        """The quality in a view of the rows; empty: the one that counts.

        Raises:
            PruneSearchError: if the study has no such view.
        """
        if view and view not in list(self.qualities)[1:]:
            raise PruneSearchError(f"this study has no view '{view}' of its rows: run it with --robust {view}")
        return self.qualities[view] if view else self.quality

    @property
    def latency(self) -> CostAmount:
        """Of a batch, which every study knows."""
        return self.costs["latency"]

    def cost(self, name: str) -> CostAmount:
        """What a cost comes to.

        Raises:
            PruneSearchError: if it was not part of the study.
        """
        if name not in self.costs:
            where = " on a device that has it" if find_cost(name).on_device else ""
            raise PruneSearchError(f"this study knows no {name}: run it with --objective {name}{where}")
        return self.costs[name]

    def dearest(self, name: str) -> float:
        """The amount that an absolute bound is held against: of several loads, the worst one's."""
        if any(name in load for load in self.loads):
            worst = max if find_cost(name).smaller_is_better else min
            return worst(load[name].value for load in self.loads)
        return self.cost(name).value


class Tuned(FrontRecord):
    """How the weights of a point were trained, and what it was before; quality has two references then.

    The one is the user's model (`difference` of the point's quality, as of every point), the other the unpruned model
    after the same training.
    """

    shared: bool = Field(
        default=False,
        description="whether the weights are those of every point, which the run searched on (`run --weights`); else "
        "the point's own",
    )
    parameters: str = Field(description="what was trained: `full`, `norms` (with biases) or `lora`")
    data: str = Field(description="where the rows come from; none of them is a calibration or holdout row")
    rows: int = Field(ge=1, description="rows that were trained on")
    labels: bool = Field(description="whether their labels were part of the loss, beside the unpruned model's outputs")
    epochs: float = Field(ge=0, description="passes over the rows")
    steps: int = Field(ge=0, description="steps of the optimiser")
    seconds: float = Field(ge=0, description="wall-clock time of the training, evaluations while it ran included")
    batch_size: int = Field(ge=1, description="rows in a step")
    learning_rate: float = Field(gt=0, description="at its height")
    seed: int = Field(ge=0, description="of the order of rows, augmentation and dropout")
    before: MetricValue = Field(description="quality of the same plan on the model's own weights")
    equal: MetricValue = Field(
        description="quality of the unpruned model after the same training; without labels the user's model itself, "
        "which the loss leaves as it is"
    )
    difference: Difference = Field(description="the point minus the unpruned model after the same training")
    speedup_before: float | None = Field(
        default=None,
        description="speed-up over the unpruned model on the model's own weights, measured beside `speedup`; null "
        "where the device was not at hand",
    )
    speedup: float | None = Field(default=None, description="the same with the trained weights in place")

    @property
    def text(self) -> str:
        """How it was trained, in a few words."""
        time = f"{self.seconds / 60:.1f} min" if self.seconds >= 60 else f"{self.seconds:.0f} s"
        return f"{self.parameters}, {self.epochs:.3g} epochs of {self.rows:,} rows, {time}"


class Unpruned(FrontItem):
    """The reference that every point is compared with."""


class ClassQuality(FrontRecord):
    """One class of rows, or one group."""

    name: str = Field(description="of the class or group")
    rows: int = Field(description="of the holdout split")
    quality: float = Field(description="of the plan on these rows")
    change: float = Field(description="from the unpruned model's there")
    low: float | None = Field(default=None, description="lower end of the change's 95 % interval, paired by row")
    high: float | None = Field(default=None, description="upper end")


class Point(FrontItem):
    """One plan of the front, re-evaluated on the holdout split, and re-measured where the device is at hand."""

    id: str = Field(min_length=1, description="name of the point in this file: `p1`, `p2`, ...")
    trial: int = Field(description="number of the trial in the study")
    plan: dict[str, Any] = Field(
        description="what is done to the model, as `Plan.to_dict()` writes it (`prunesearch.plan`, with its own "
        "version); "
        "its `stages` are the schedule"
    )
    text: str = Field(description="the plan in one line: `layer:kept method > ...`")
    fidelity: Fidelity = Field(description="closeness to the unpruned model's outputs")
    speedup: float = Field(
        gt=0,
        description="the unpruned model's latency divided by this point's: as measured, or of predictions where there "
        "is no measurement",
    )
    classes: list[ClassQuality] = Field(
        default_factory=list,
        description="of a task with classes whose rows are right or wrong, the class that lost most first: those of 20 "
        "rows or more, 20 of them at most; of rows as they are",
    )
    groups: list[ClassQuality] = Field(
        default_factory=list,
        description="of a run with `--group`, the group that lost most first, likewise",
    )
    tuned: Tuned | None = Field(
        default=None,
        description="how the plan's `weights` were trained, a file in the study's folder `weights/`; null for the "
        "model's own",
    )

    @field_validator("plan")
    @classmethod
    def _readable(cls, value: dict[str, Any]) -> dict[str, Any]:
        Plan.from_dict(value)
        return value

    @property
    def difference(self) -> Difference:
        """To the unpruned model, of the quality that counts."""
        found = self.quality.difference
        if found is None:
            raise PruneSearchError(f"point {self.id} has no difference to the unpruned model")
        return found

    def to_plan(self) -> Plan:
        """Return what is done to the model."""
        return Plan.from_dict(self.plan)

    def to_schedule(self) -> Schedule:
        """Return its stages alone.

        Raises:
            PruneSearchError: if the plan does more than its token stages.
        """
        return self.to_plan().tokens_only

    @property
    def recovered(self) -> Tuned | None:
        """How weights of its own were trained; None where it has none, or those of all points."""
        return None if self.tuned is None or self.tuned.shared else self.tuned

    @property
    def variant(self) -> str:
        """What is done to the model beside its tokens, for people: `int8`; empty where nothing is."""
        return self.to_plan().done

    @model_validator(mode="after")
    def _tuned_to_its_weights(self) -> Self:
        if (self.tuned is None) != (self.to_plan().weights is None):
            raise ValueError("a point has `tuned` where its plan has `weights`, and nowhere else")
        return self
