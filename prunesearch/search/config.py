"""`RunConfig`: every setting of a run, and the only home of their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prunesearch.core.budget import Budget
from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.modes import MODES
from prunesearch.search.samplers import SAMPLERS

# Settings that may differ when a study is resumed: they change how long it goes on, not what its trials mean.
_FREE_TO_CHANGE = ("trials", "timeout_s")
# and those that nothing depends on before the first trial, so that a budget that was refused can be raised
_FREE_BEFORE_TRIALS = ("budget", "objectives", "sampler", "seeds")


class RunConfig(BaseModel):
    """Settings of `prunesearch run`.

    Attributes:
        model: folder or Hub id; None with `data` None: the bundled demo.
        data: file, folder or Hub id, or `calibration,holdout`.
        task: a name in `prunesearch.tasks.TASKS`, or auto.
        columns: data columns by role (image, text, text_pair, label).
        device: cpu, cuda or cuda:N, measured now; or the name of a profile (`prunesearch devices`).
        budget: `10ms`, `40mJ`, `60%` or `2x`; None: the whole front.
        objectives: what is minimised beside the loss of quality: latency, energy or both; the first one is bounded by
            shares and speed-ups. None: latency, or energy where the budget is one.
        batch_size: rows in a batch whose latency is measured.
        eval_batch_size: rows in a batch whose quality is measured.
        dtype: of the model's weights and activations.
        attention: a name in `tasks.models.ATTENTIONS`.
        mode: how forwards are executed, a name in `cost.modes.MODES`.
        concurrency: forwards under way at once, the measured one among them.
        length: tokens in a text whose latency is measured; None: from the data.
        space: YAML file of the search space; None: search_spaces/default.yaml.
        sampler: a name in `SAMPLERS`.
        trials: schedules to evaluate, seeds included.
        seeds: how many of them score-and-solve proposes.
        timeout_s: no new trial starts after so many seconds of search; None: no limit.
        calibration, holdout: rows of each split; None: from the data.
        search_samples: calibration rows that a trial is evaluated on.
        sensitivity_samples: of them, rows that the one-stage sensitivities are measured on.
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
    device: str = "cpu"
    budget: str | None = None
    objectives: list[str] | None = None
    batch_size: int = Field(default=8, ge=1)
    eval_batch_size: int = Field(default=64, ge=1)
    dtype: str = "float32"
    attention: str = "sdpa"
    mode: str = "eager"
    concurrency: int = Field(default=1, ge=1)
    length: int | None = Field(default=None, ge=8)
    space: str | None = None
    sampler: str = "tpe"
    trials: int = Field(default=60, ge=1)
    seeds: int = Field(default=24, ge=0)
    timeout_s: float | None = Field(default=None, gt=0)
    calibration: int | None = Field(default=None, ge=8)
    holdout: int | None = Field(default=None, ge=8)
    search_samples: int = Field(default=1024, ge=8)
    sensitivity_samples: int = Field(default=128, ge=8)
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
        MODES.entry(config.mode)
        budget = None if config.budget is None else Budget.parse(config.budget)
        if config.objectives is None:
            by_budget = "energy" if budget is not None and budget.kind == "energy" else "latency"
            config = config.model_copy(update={"objectives": [by_budget]})
        if (config.model is None) != (config.data is None):
            missing, given_one = ("--data", "--model") if config.data is None else ("--model", "--data")
            raise PruneSearchError(f"{given_one} needs {missing} beside it; neither of them: the bundled demo")
        return config

    @property
    def minimised(self) -> list[str]:
        """The objectives beside the loss of quality."""
        return self.objectives or ["latency"]

    @property
    def needs_energy(self) -> bool:
        """Whether the run has to know energies."""
        budget = self.parsed_budget
        return "energy" in self.minimised or (budget is not None and budget.kind == "energy")

    @property
    def parsed_budget(self) -> Budget | None:
        """The budget, read."""
        return None if self.budget is None else Budget.parse(self.budget)

    @property
    def space_path(self) -> Path | None:
        """The space file; None for the default space."""
        return None if self.space is None else Path(self.space)

    def check_resumes(self, before: dict[str, Any], study: str, *, tried: bool) -> None:
        """Raise if a study that was begun with the settings `before`, and has `tried` schedules, cannot go on so."""
        now = self.model_dump(mode="json")
        free = _FREE_TO_CHANGE if tried else (*_FREE_TO_CHANGE, *_FREE_BEFORE_TRIALS)
        differing = [k for k in now if k not in free and k in before and before[k] != now[k]]
        if differing:
            name = differing[0]
            raise PruneSearchError(
                f"study '{study}' was begun with {name}={before[name]!r}, but got {now[name]!r}: "
                "give the same settings to resume it, or another --study"
            )
