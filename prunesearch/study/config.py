"""`RunConfig`: every setting of a run, all checks of them, and the only home of their defaults."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from prunesearch.core.accuracy import ACCURACIES, STANDARD, Promise
from prunesearch.core.costs import find_cost
from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.tables.registry import ACROSS, ATTENTIONS, DTYPES, ENGINES, SAMPLERS
from prunesearch.cost.timing.modes import check_measurable, mode_of
from prunesearch.study.settings.as_typed import (
    BudgetSetting,
    Columns,
    Constraints,
    Free,
    Objectives,
    Paths,
    Precisions,
    Seconds,
    Views,
)
from prunesearch.study.settings.loads import Load, in_order, read_loads, spread_loads
from prunesearch.study.settings.resuming import PATHS, check_same, located
from prunesearch.study.storage.urls import hide_password
from prunesearch.tasks.table import METRICS, TASKS
from prunesearch.tasks.views.view_table import SEVERITIES

VIEW_ROWS = 500  # of a split, that are made in every view

_SEEDS = 24
_BY_ACCURACY = ("search_samples", "sensitivity_units", "robust_rows", "severity")  # where they are not given
_TABLES: dict[str, Any] = {
    "task": TASKS,
    "metric": METRICS,
    "dtype": DTYPES,
    "attention": ATTENTIONS,
    "sampler": SAMPLERS,
    "engine": ENGINES,
    "across": ACROSS,
    "over": ACROSS,
    "accuracy": ACCURACIES,
}

# as durations are called where they are typed with their unit
_AS_TYPED = {
    "timeout": "timeout_s",
    "patience": "patience_s",
    "energy_window": "energy_window_s",
    "table_time": "table_seconds",
}


class RunConfig(BaseModel):
    """Settings of a run, as a user asks for them; None stands for the default.

    Bad ones are refused in one line, however they are given. Times may be written `10m`, a budget `2x`, columns
    `text=review,label=stars`, and batch sizes `8`, `[1, 8]` or `{1: 0.7, 8: 0.3}`.

    Attributes:
        model: folder or Hub id; None with `data` None: the bundled demo.
        data: file, folder or Hub id, or `calibration,holdout`.
        weights: folder of a training (`tune --elastic`), whose weights are searched on in place of the model's own.
        given: what the model is called, where it is an object of the caller's (`run(config, task=...)`); else None.
            Python alone has objects, so that the command line has no such option.
        given_digest: of the weights and the rows, of such objects or of files that are here, so that a study goes on
            with the same ones alone; found by itself.
        task: a name in `TASKS`, or auto.
        columns: data columns by role (image, text, text_pair, label).
        delimiter: character that sets the columns of a CSV file apart; None: found out.
        header: whether the first row of a CSV or TSV file names its columns; None: unless it cannot.
        skip_bad: leave out rows that cannot be read or decoded, and count them, where they are an error otherwise.
        group: data column that says which group a row belongs to: results are told group by group; None: they are not.
        metric: a name in `METRICS` that the task has; None: its default.
        device: cpu, cuda or cuda:N, measured now; or the name of a profile (`prunesearch devices`).
        budget: `10ms`, `40mJ`, `2GMACs`, `64MiB`, `60%` or `2x`; None: the whole front.
        objectives: what is minimised beside the loss of quality: up to three of latency, energy, macs and memory, as a
            list or `latency,macs`; the first one is bounded by shares and speed-ups. None: latency, or the cost that
            the budget is in.
        constraints: bounds, as in `quality >= 0.99*unpruned` or `macs <= 60%`.
        percentile: of a forward's latency, which is minimised, bounded and reported; 50: the median.
        batch_size: rows in a batch whose latency is measured; several of them are `loads`.
        loads: several batch sizes and lengths whose latency counts, as numbers, mappings or `Load`s; empty:
            `batch_size` and `length` alone. The first has the greatest length, and its are `batch_size` and `length`:
            those of energy, MACs and memory. On the command line: several values of --batch-size and --length.
        across: a name in `ACROSS`: how the shares of the unpruned latency that several loads have become one.
        eval_batch_size: rows in a batch whose quality is measured.
        dtype: of the model's weights and activations.
        precision: what plans may put the model in beside its tokens, names in `PRECISIONS`, as a list or
            `float32,int8`; the model's own dtype is always among them. None: those of fewer bits that the device at
            hand has in this runtime.
        free: what plans may do: `tokens`, and kinds of `CHANGES`, as a list or `tokens,precision,width`. None: what the
            space's file says, or tokens and precision.
        attention: a name in `ATTENTIONS`.
        mode: how forwards are executed, a name in `RUNTIMES`; `runtime="onnxruntime"` says it too.
        concurrency: forwards under way at once, the measured one among them.
        length: tokens in a text whose latency is measured; None: from the data; several of them are `loads`.
        answer: tokens of an answer whose last is timed, of models that write; None: as many as in the data on average.
        length_buckets: measure at four lengths that stand for those of the data (`loads.bucket_loads`), which are then
            the `loads`. On the command line: --length buckets.
        space: YAML file of the search space, or the name of one in search_spaces/; None: default.
        sampler: a name in `SAMPLERS`.
        trials: schedules to evaluate, seeds included; None: until the front has converged.
        seeds: solved schedules that are tried before the sampler is asked; None: none for `guided`, which solves for
            itself, 24 for the others.
        start_from: files with a schedule of one's own, as `prunesearch import` writes, that are tried first of all.
        race: stop a schedule where it has lost to one that costs no more.
        engine: a name in `ENGINES`: where schedules are evaluated.
        workers: of the ray engine; None: one for each core, or for each GPU.
        ray_address: of a running Ray cluster; None: workers on this machine.
        storage: URL of a database that several processes share, as Optuna takes it; None: study.journal in the study
            folder. Its password is neither shown nor written down.
        timeout_s: no new trial starts after so long a search (`timeout="10m"`), seconds; None: no limit.
        calibration, holdout: rows of each split; None: from the data.
        accuracy: a name in `ACCURACIES`: how sure of everything the run wants to be.
        search_samples: calibration rows that a trial is evaluated on, at most; None: by `accuracy`.
        sensitivity_samples: of them, rows that a one-stage loss is measured on, at most.
        sensitivity_units: what the one-stage losses may cost, in evaluations of the unpruned model on the rows of the
            search; None: by `accuracy`.
        table_seconds: time for measuring the cost table (`table_time="50s"`), which stops sooner where it is known well
            enough for `accuracy`.
        patience_s: how long to wait for a busy CPU before measuring (`patience="30s"`), seconds.
        energy_window_s: length of a window over which energy is measured (`energy_window="5s"`), seconds.
        front_points: candidates that go to the holdout split and are re-measured.
        robust: views that rows are judged in beside themselves as they are: names in `VIEWS` or groups of them, as a
            list or `corruptions`; quality and loss are what all views come to. Empty: none.
        over: a name in `ACROSS`: how the qualities in several views become the one that counts.
        severity: of views, 1 to 5; 0: each of them in turn, row by row; None: by `accuracy`.
        robust_rows: rows of each view that results are of, 500 at most; None: by `accuracy`.
        seed: of everything random.

    Raises:
        PruneSearchError: one line that names the setting, the rule and the value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    data: str | None = None
    weights: str | None = None
    given: str | None = Field(default=None, min_length=1, max_length=60)
    given_digest: str | None = None
    task: str = "auto"
    columns: Columns = Field(default_factory=dict)
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    header: bool | None = None
    skip_bad: bool = False
    group: str | None = Field(default=None, min_length=1)
    metric: str | None = None
    device: str = "cpu"
    budget: BudgetSetting | None = None
    objectives: Objectives = Field(default_factory=lambda: ["latency"])
    constraints: Constraints = Field(default_factory=list)
    percentile: float = Field(default=50.0, ge=50, le=99)
    loads: list[Load] = Field(default_factory=list)
    across: str = "mean"
    batch_size: int = Field(default=8, ge=1)
    eval_batch_size: int = Field(default=64, ge=1)
    dtype: str = "float32"
    precision: Precisions | None = None
    free: Free | None = None
    attention: str = "sdpa"
    mode: str = "eager"
    concurrency: int = Field(default=1, ge=1)
    length: int | None = Field(default=None, ge=8)
    answer: int | None = Field(default=None, ge=2)
    length_buckets: bool = False
    space: str | None = None
    sampler: str = "guided"
    trials: int | None = Field(default=None, ge=1)
    seeds: int | None = Field(default=None, ge=0)
    start_from: Paths = Field(default_factory=list)
    race: bool = True
    engine: str = "local"
    workers: int | None = Field(default=None, ge=1)
    ray_address: str | None = None
    storage: str | None = None
    timeout_s: Seconds | None = Field(default=None, gt=0, allow_inf_nan=False)
    calibration: int | None = Field(default=None, ge=8)
    holdout: int | None = Field(default=None, ge=8)
    accuracy: str = STANDARD
    search_samples: int = Field(default=0, ge=8)
    sensitivity_samples: int = Field(default=64, ge=8)
    sensitivity_units: float = Field(default=0.0, gt=0)
    table_seconds: Seconds = Field(default=50.0, gt=0)
    patience_s: Seconds = Field(default=30.0, ge=0)
    energy_window_s: Seconds = Field(default=5.0, ge=5)
    front_points: int = Field(default=12, ge=1)
    robust: Views = Field(default_factory=list)
    over: str = "mean"
    severity: int = Field(default=3, ge=0, le=SEVERITIES)
    robust_rows: int = Field(default=0, ge=8, le=VIEW_ROWS)
    seed: int = Field(default=0, ge=0)

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise PruneSearchError(first_of(error, RunConfig.model_fields)) from None

    @model_validator(mode="before")
    @classmethod
    def _as_typed(cls, settings: Any) -> Any:
        """Settings as they may be written, in the form in which they are kept."""
        found = {_AS_TYPED.get(name, name): value for name, value in settings.items() if value is not None}
        for name in {*PATHS, "space"} & found.keys():
            if isinstance(found[name], os.PathLike):
                found[name] = os.fspath(found[name])
        if "runtime" in found:
            found["mode"] = mode_of(found.get("mode"), found.pop("runtime")) or cls.model_fields["mode"].default
        asked = found.get("accuracy", STANDARD)
        if isinstance(asked, str) and asked in ACCURACIES:  # else it is refused below
            found = {name: getattr(ACCURACIES[asked], name) for name in _BY_ACCURACY} | found
        if found.get("loads"):
            found["loads"] = read_loads(found["loads"])
        else:
            found |= spread_loads(found.pop("batch_size", None), found.pop("length", None))
        return found

    @field_validator("task", "metric", "dtype", "attention", "sampler", "engine", "mode", "across", "over", "accuracy")
    @classmethod
    def _known(cls, value: str | None, info: Any) -> str | None:
        """Names are those of the tables."""
        if info.field_name == "mode":
            check_measurable(str(value))
        elif info.field_name in _TABLES and value not in (None, "auto"):
            _TABLES[info.field_name].entry(str(value))
        return value

    @field_validator("device")
    @classmethod
    def _without_capitals(cls, device: str) -> str:
        """Devices and profiles have no capitals: `A100` is the same device, and the same study."""
        return device.lower()

    @field_validator("loads")
    @classmethod
    def _in_order(cls, loads: list[Load]) -> list[Load]:
        return in_order(loads)

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        """What one setting asks of another, and defaults that come from another."""
        for option, value in (("workers", self.workers), ("ray-address", self.ray_address)):
            if value is not None and not ENGINES.entry(self.engine).workers:
                able = " or ".join(f"--engine {name}" for name, row in ENGINES.entries().items() if row.workers)
                raise PruneSearchError(f"--{option} {value} needs {able}, but got --engine {self.engine}")
        if not ACROSS.entry(self.across).weighted and len({load.weight for load in self.loads}) > 1:
            raise PruneSearchError(
                f"weights are those of a mean, but got --across {self.across}: leave one of them out"
            )
        if (self.model is None) != (self.data is None):
            missing, given_one = ("--data", "--model") if self.data is None else ("--model", "--data")
            raise PruneSearchError(f"{given_one} needs {missing} beside it; neither of them: the bundled demo")
        views = [c for c in self.constraints if c.view]
        if views and not self.robust:
            raise PruneSearchError(f"constraint '{views[0].text}' needs --robust {views[0].view}, but got no --robust")
        settled = self.__dict__  # frozen for everybody else
        if "objectives" not in self.model_fields_set and self.budget is not None:
            settled["objectives"] = [self.budget.cost("latency")]
        if self.loads:
            settled["batch_size"], settled["length"] = self.loads[0].batch_size, self.loads[0].length
            settled["answer"] = self.loads[0].answer or self.answer
            settled["loads"] = self.loads if len(self.loads) > 1 else []
        return self

    @field_serializer("storage")
    def _without_password(self, storage: str | None) -> str | None:
        return None if storage is None else hide_password(storage)

    @property
    def promise(self) -> Promise:
        """What `accuracy` promises."""
        found: Promise = ACCURACIES.entry(self.accuracy).target
        return found

    @property
    def costs(self) -> set[str]:
        """Names of the costs that the run has to know, rows of `COSTS`."""
        bounded = {c.name for c in self.constraints if not c.on_quality}
        budget = set() if self.budget is None else {self.budget.cost(self.objectives[0])}
        return {*self.objectives, *bounded, "latency"} | budget

    @property
    def needs_energy(self) -> bool:
        """Whether the run has to know energies, or others that the device's meter measures."""
        return any(find_cost(name).metered for name in self.costs)

    @property
    def first_seeds(self) -> int:
        """How many solved schedules are tried first."""
        return self.seeds if self.seeds is not None else 0 if SAMPLERS.entry(self.sampler).solves else _SEEDS

    @property
    def asked(self) -> str:
        """Every bound on a cost as typed, for messages: `budget 10ms and macs <= 60%`."""
        bounds = [] if self.budget is None else [f"budget {self.budget.text}"]
        return " and ".join([*bounds, *(c.text for c in self.constraints if not c.on_quality)])

    @property
    def space_path(self) -> Path | None:
        """The space file, or the name of a space that is shipped; None for the default space."""
        return None if self.space is None else Path(self.space)

    def located(self) -> RunConfig:
        """The same with absolute paths to what is here, so that it means the same in any folder."""
        return self.model_copy(update=located({name: getattr(self, name) for name in (*PATHS, "space", "start_from")}))

    def to_dict(self) -> dict[str, Any]:
        """As plain data: what `config.yaml` and `front.json` hold, and `RunConfig(**...)` takes."""
        return self.model_dump(mode="json")

    def check_same_files(self, digest: str | None) -> None:
        """Raise if a study's model or data, which have the `digest` now, are not those that it was begun with."""
        if self.given is None and self.given_digest is not None and digest not in (None, self.given_digest):
            raise PruneSearchError(
                f"a study is of the weights and rows that it was begun with, but files of model {self.model} or data "
                f"{self.data} have changed since: put them back, or run another --study"
            )

    def check_resumes(self, before: dict[str, Any], study: str, *, tried: bool) -> None:
        """Raise if a study that was begun with the settings `before`, and has `tried` schedules, cannot go on so."""
        found = ("loads", "length") if self.length_buckets else ()  # in the data, once that is loaded
        check_same(before, self.located().to_dict(), study, tried=tried, found=found)


def first_of(error: ValidationError, known: Iterable[str]) -> str:
    """The first of the errors in one line: the setting, one of those that are `known`, the rule and the value."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, PruneSearchError):
        return str(cause)
    name = ".".join(map(str, first["loc"])) or "setting"
    if first["type"] == "extra_forbidden":
        return f"unknown setting '{name}': {did_you_mean(name, known)}"
    return f"`{name}`: {first['msg'].lower()}, but got {first.get('input')!r}"
