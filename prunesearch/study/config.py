"""`RunConfig`: every setting of a run, and the only home of their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer

from prunesearch.core.budget import Budget
from prunesearch.core.constraint import Constraint
from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.registry import ENGINES, SAMPLERS
from prunesearch.cost.timing.modes import check_measurable
from prunesearch.study.storage.urls import hide_password
from prunesearch.tasks.table import METRICS, TASKS

_SEEDS = 24
ACROSS = ("mean", "worst")

# Settings that may differ when a study is resumed: they change how long it goes on, not what its trials mean.
_FREE_TO_CHANGE = ("trials", "timeout_s", "race", "engine", "workers", "ray_address", "storage", "start_from")
# and those that nothing depends on before the first trial, so that a budget that was refused can be raised
_FREE_BEFORE_TRIALS = ("budget", "objectives", "constraints", "percentile", "across", "sampler", "seeds")


class Load(BaseModel):
    """Rows of a batch, tokens of a text (None: the model's own, or from the data), the weight in a mean of loads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: int = Field(ge=1)
    length: int | None = Field(default=None, ge=8)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)


class RunConfig(BaseModel):
    """Settings of `prunesearch run`.

    Attributes:
        model: folder or Hub id; None with `data` None: the bundled demo.
        data: file, folder or Hub id, or `calibration,holdout`.
        task: a name in `prunesearch.tasks.TASKS`, or auto.
        columns: data columns by role (image, text, text_pair, label).
        metric: a name in `prunesearch.tasks.METRICS` that the task has; None: its default.
        device: cpu, cuda or cuda:N, measured now; or the name of a profile (`prunesearch devices`).
        budget: `10ms`, `40mJ`, `2GMACs`, `64MiB`, `60%` or `2x`; None: the whole front.
        objectives: what is minimised beside the loss of quality: up to three of latency, energy, macs and memory; the
            first one is bounded by shares and speed-ups. None: latency, or the cost that the budget is in.
        constraints: bounds, as in `quality >= 0.99*unpruned` or `macs <= 60%`.
        percentile: of a forward's latency, which is minimised, bounded and reported; 50: the median.
        batch_size: rows in a batch whose latency is measured.
        loads: several batch sizes and lengths whose latency counts; empty: `batch_size` and `length` alone. The first
            has the greatest length, and its are `batch_size` and `length`: those of energy, MACs and memory.
        across: the one latency of several loads: the weighted mean of their shares of the unpruned latency, or the
            worst.
        eval_batch_size: rows in a batch whose quality is measured.
        dtype: of the model's weights and activations.
        attention: a name in `ATTENTIONS`.
        mode: how forwards are executed, a name in `RUNTIMES`.
        concurrency: forwards under way at once, the measured one among them.
        length: tokens in a text whose latency is measured; None: from the data.
        length_buckets: measure at four lengths that stand for those of the data (`lengths.bucket_loads`), which are
            then the `loads`.
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
        storage: URL of a database that several processes share, as Optuna takes it; None: study.journal in the
            study folder. Its password is neither shown nor written down.
        timeout_s: no new trial starts after so many seconds of search; None: no limit.
        calibration, holdout: rows of each split; None: from the data.
        search_samples: calibration rows that a trial is evaluated on.
        sensitivity_samples: of them, rows that a one-stage loss is measured on, at most.
        sensitivity_units: what the one-stage losses may cost, in evaluations of the unpruned model on the rows of the
            search.
        table_seconds: time for measuring the cost table.
        patience_s: how long to wait for a busy CPU before measuring.
        energy_window_s: length of a window over which energy is measured.
        front_points: candidates that go to the holdout split and are re-measured.
        seed: of everything random.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    data: str | None = None
    task: str = "auto"
    columns: dict[str, str] = Field(default_factory=dict)
    metric: str | None = None
    device: str = "cpu"
    budget: str | None = None
    objectives: list[str] | None = None
    constraints: list[str] = Field(default_factory=list)
    percentile: float = Field(default=50.0, ge=50, le=99)
    loads: list[Load] = Field(default_factory=list)
    across: str = "mean"
    batch_size: int = Field(default=8, ge=1)
    eval_batch_size: int = Field(default=64, ge=1)
    dtype: str = "float32"
    attention: str = "sdpa"
    mode: str = "eager"
    concurrency: int = Field(default=1, ge=1)
    length: int | None = Field(default=None, ge=8)
    length_buckets: bool = False
    space: str | None = None
    sampler: str = "guided"
    trials: int | None = Field(default=None, ge=1)
    seeds: int | None = Field(default=None, ge=0)
    start_from: list[str] = Field(default_factory=list)
    race: bool = True
    engine: str = "local"
    workers: int | None = Field(default=None, ge=1)
    ray_address: str | None = None
    storage: str | None = None
    timeout_s: float | None = Field(default=None, gt=0)
    calibration: int | None = Field(default=None, ge=8)
    holdout: int | None = Field(default=None, ge=8)
    search_samples: int = Field(default=1024, ge=8)
    sensitivity_samples: int = Field(default=64, ge=8)
    sensitivity_units: float = Field(default=5.0, gt=0)
    table_seconds: float = Field(default=50.0, gt=0)
    patience_s: float = Field(default=30.0, ge=0)
    energy_window_s: float = Field(default=5.0, ge=5)
    front_points: int = Field(default=12, ge=1)
    seed: int = Field(default=0, ge=0)

    @classmethod
    def build(cls, **settings: Any) -> RunConfig:
        """Check settings; None stands for the default.

        Raises:
            PruneSearchError: one line that names the setting, the rule and the value.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        try:
            config = cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "setting"
            raise PruneSearchError(f"`{name}`: {first['msg'].lower()}, but got {first.get('input')!r}") from None
        SAMPLERS.entry(config.sampler)
        ENGINES.entry(config.engine)
        if config.task != "auto":
            TASKS.entry(config.task)
        if config.metric is not None:
            METRICS.entry(config.metric)
        for option, value in (("workers", config.workers), ("ray-address", config.ray_address)):
            if value is not None and config.engine != "ray":
                raise PruneSearchError(f"--{option} {value} needs --engine ray, but got --engine {config.engine}")
        check_measurable(config.mode)
        if config.across not in ACROSS:
            raise PruneSearchError(f"unknown across '{config.across}': {did_you_mean(config.across, ACROSS)}")
        budget = config.parsed_budget
        if config.objectives is None:
            config = config.model_copy(update={"objectives": ["latency" if budget is None else budget.cost("latency")]})
        config = config.model_copy(update={"constraints": [c.text for c in config.parsed_constraints]})
        loads = _ordered(config.loads)
        if config.across == "worst" and len({load.weight for load in loads}) > 1:
            raise PruneSearchError("weights are those of a mean, but got --across worst: leave one of them out")
        if loads:
            several = loads if len(loads) > 1 else []
            one = {"batch_size": loads[0].batch_size, "length": loads[0].length}
            config = config.model_copy(update={"loads": several, **one})
        if (config.model is None) != (config.data is None):
            missing, given_one = ("--data", "--model") if config.data is None else ("--model", "--data")
            raise PruneSearchError(f"{given_one} needs {missing} beside it; neither of them: the bundled demo")
        return config

    @field_serializer("storage")
    def _without_password(self, storage: str | None) -> str | None:
        return None if storage is None else hide_password(storage)

    @property
    def minimised(self) -> list[str]:
        """The objectives beside the loss of quality."""
        return self.objectives or ["latency"]

    @property
    def costs(self) -> set[str]:
        """Names of the costs that the run has to know, `UNITS` their units."""
        budget = self.parsed_budget
        bounded = {c.name for c in self.parsed_constraints if not c.on_quality}
        return {*self.minimised, *bounded, "latency"} | ({budget.cost(self.minimised[0])} if budget else set())

    @property
    def needs_energy(self) -> bool:
        """Whether the run has to know energies."""
        return "energy" in self.costs

    @property
    def parsed_budget(self) -> Budget | None:
        """The budget, read."""
        return None if self.budget is None else Budget.parse(self.budget)

    @property
    def first_seeds(self) -> int:
        """How many solved schedules are tried first."""
        return self.seeds if self.seeds is not None else 0 if self.sampler == "guided" else _SEEDS

    @property
    def parsed_constraints(self) -> list[Constraint]:
        """The constraints, read."""
        return [Constraint.parse(text) for text in self.constraints]

    @property
    def asked(self) -> str:
        """Every bound on a cost as typed, for messages: `budget 10ms and macs <= 60%`."""
        bounds = [] if self.budget is None else [f"budget {self.budget}"]
        return " and ".join([*bounds, *(c.text for c in self.parsed_constraints if not c.on_quality)])

    def under(self, load: Load) -> RunConfig:
        """The same under one load."""
        return self.model_copy(update={"batch_size": load.batch_size, "length": load.length, "loads": []})

    @property
    def space_path(self) -> Path | None:
        """The space file; None for the default space."""
        return None if self.space is None else Path(self.space)

    def check_resumes(self, before: dict[str, Any], study: str, *, tried: bool) -> None:
        """Raise if a study that was begun with the settings `before`, and has `tried` schedules, cannot go on so."""
        now = self.model_dump(mode="json")
        free = _FREE_TO_CHANGE if tried else (*_FREE_TO_CHANGE, *_FREE_BEFORE_TRIALS)
        if self.length_buckets:  # found in the data, once that is loaded
            free = (*free, "loads", "length")
        differing = [k for k in now if k not in free and k in before and before[k] != now[k]]
        if differing:
            name = differing[0]
            raise PruneSearchError(
                f"study '{study}' was begun with {name}={before[name]!r}, but got {now[name]!r}: "
                "give the same settings to resume it, or another --study"
            )


def _ordered(loads: list[Load]) -> list[Load]:
    """The loads with the greatest length first, otherwise as they came.

    Raises:
        PruneSearchError: for a load that is named twice, and if some have a length and some have none.
    """
    if len({(load.batch_size, load.length) for load in loads}) < len(loads):
        raise PruneSearchError("a batch size, or a length, is named once: leave out the repeated one")
    if len({load.length is None for load in loads}) > 1:
        raise PruneSearchError("every load must name a length, or none may: give each one")
    return sorted(loads, key=lambda load: -(load.length or 0))
