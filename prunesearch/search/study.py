"""The study: an Optuna study that is asked, projected onto the budget, evaluated and told, one trial at a time."""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
import sqlalchemy.exc

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.pareto import non_dominated
from prunesearch.core.schedule import Schedule
from prunesearch.search.evaluate import Evaluation
from prunesearch.search.objectives import UNITS, Objective
from prunesearch.search.projection import ProjectedSampler
from prunesearch.search.samplers import SAMPLERS, SamplerContext
from prunesearch.search.sensitivity import Sensitivities
from prunesearch.search.space import Space

_STUDY = "prunesearch"
_STALE_ASKS = 50  # proposals in a row that brought nothing new
_MOVES = 100  # random moves away from a known schedule before giving up


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial: quality and loss on the calibration split, latency and energy by the cost table.

    `values` are what the study minimises beside the loss.
    """

    number: int
    schedule: Schedule
    quality: float
    loss: float
    predicted_ms: float
    predicted_mj: float | None
    values: tuple[float, ...]
    source: str
    seconds: float


def open_study(path: Path, objectives: Sequence[str] = ("latency",)) -> optuna.Study:
    """Create or resume the SQLite study at `path`; trials that a killed run left running are marked as failed.

    The loss and the `objectives` are minimised together.

    Raises:
        CorruptFileError: if the file is not a study.
    """
    with _database(path) as url:
        study = optuna.create_study(
            study_name=_STUDY, storage=url, directions=["minimize"] * (1 + len(objectives)), load_if_exists=True
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["loss", *(f"{name}_{UNITS[name].lower()}" for name in objectives)])
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def read_trials(path: Path) -> list[TrialRecord]:
    """The finished trials of the study at `path`, which may have a run going on: nothing is written.

    Raises:
        CorruptFileError: if the file is not a study.
    """
    with _database(path) as url:
        return finished_trials(optuna.load_study(study_name=_STUDY, storage=url))


@contextmanager
def _database(path: Path) -> Iterator[str]:
    """The URL of the database at `path`; within the block, one line for whatever is wrong with it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield f"sqlite:///{path}"
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CorruptFileError(
            f"'{path}' is not a readable study ({reason}): move it away, or use another --study"
        ) from None


def finished_trials(study: optuna.Study) -> list[TrialRecord]:
    """All complete trials of a study, one for each schedule, in their order."""
    records: dict[Schedule, TrialRecord] = {}
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
        attrs = trial.user_attrs
        schedule = Schedule.from_dict(attrs["schedule"])
        loss, *values = trial.values
        record = TrialRecord(
            number=trial.number,
            schedule=schedule,
            quality=attrs["quality"],
            loss=loss,
            predicted_ms=attrs["latency"],
            predicted_mj=attrs.get("energy"),
            values=tuple(values),
            source=attrs["source"],
            seconds=attrs["seconds"],
        )
        records.setdefault(schedule, record)
    return list(records.values())


def failed_trials(study: optuna.Study) -> int:
    """How many trials failed or were cut off."""
    return len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.FAIL,)))


def front_records(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials on the front of the objectives and the loss, or of the objectives and the quality; slowest first."""
    if not records:
        return []
    by_loss = non_dominated([(*r.values, r.loss) for r in records])
    by_quality = non_dominated([(*r.values, -r.quality) for r in records])
    chosen = [r for r, a, b in zip(records, by_loss, by_quality, strict=True) if a or b]
    return sorted(chosen, key=lambda r: -r.predicted_ms)


class Search:
    """The ask / evaluate / tell loop; what is asked was projected onto the budget by the sampler.

    Args:
        study: where trials are kept.
        sampler: a name in `SAMPLERS`.
        space: what may be proposed.
        objectives: what is minimised beside the loss, with the bounds that no trial breaks; latency is among them.
        evaluate: a schedule's quality on the calibration split.
        fallback: schedules inside the budget, for proposals that cannot be brought inside; may be empty.
        sensitivities: for samplers that use them.
        seed: of everything random.
    """

    def __init__(
        self,
        study: optuna.Study,
        sampler: str,
        space: Space,
        objectives: Sequence[Objective],
        evaluate: Callable[[Schedule], Evaluation],
        fallback: Sequence[Schedule] = (),
        sensitivities: Sensitivities | None = None,
        seed: int = 0,
    ) -> None:
        self.study, self.space, self.objectives, self.evaluate = study, space, objectives, evaluate
        self.fallback = fallback
        self.known = {r.schedule: r for r in finished_trials(study)}
        # a resumed run must not draw again what it drew before
        seed += len(study.get_trials(deepcopy=False))
        self._random = random.Random(seed)
        context = SamplerContext(space, objectives, sensitivities, seed)
        study.sampler = ProjectedSampler(SAMPLERS.load(sampler)(context), space, self.repair)

    def enqueue(self, seeds: Sequence[Schedule]) -> None:
        """Queue seeds that were not evaluated or queued before."""
        for schedule in seeds:
            params = self.space.encode(schedule)
            if params is not None:
                self.study.enqueue_trial(params, user_attrs={"source": "seed"}, skip_if_exists=True)

    def run(self, trials: int, deadline: float | None) -> Iterator[TrialRecord]:
        """Evaluate until `trials` schedules are finished, or the clock (`time.monotonic`) passes `deadline`.

        A schedule that was evaluated before is told its known values at once and does not count; neither does one
        that fails. Many of either in a row end the search: there is nothing new to try.
        """
        stale = 0
        while len(self.known) < trials and stale < _STALE_ASKS:
            if deadline is not None and time.monotonic() > deadline:
                return
            trial = self.study.ask(self.space.distributions())
            schedule = self.space.decode(trial.params)
            known = self.known.get(schedule)
            record = self._finish(trial, schedule, known)
            stale += 1
            if record is not None and known is None:
                self.known[schedule], stale = record, 0
                yield record

    def repair(self, schedule: Schedule) -> Schedule:
        """Bring a proposal inside the budget, and if that schedule is known already, walk on to one that is not."""
        found = self.project(schedule)
        for _ in range(_MOVES):
            if found not in self.known:
                break
            found = self.project(self.space.neighbour(found, self._random))
        return found

    def project(self, schedule: Schedule) -> Schedule:
        """Bring a proposal inside the budget: all stages step down together until the cost table says it fits."""
        candidate: Schedule | None = schedule
        while candidate is not None:
            if all(objective.fits(candidate) for objective in self.objectives):
                return candidate
            candidate = self.space.shrink(candidate)
        if not self.fallback:
            bounds = ", ".join(f"{o.limit:.3g} {o.unit}" for o in self.objectives if math.isfinite(o.limit))
            raise PruneSearchError(f"no schedule of the space meets {bounds}: raise the budget")
        # the nearest in kind: same number of stages if there is one
        costs = self.objectives[0].costs
        return min(self.fallback, key=lambda s: (abs(len(s) - len(schedule)), -costs.predict(s)))

    def _finish(self, trial: optuna.Trial, schedule: Schedule, known: TrialRecord | None) -> TrialRecord | None:
        source = trial.user_attrs.get("source", "sampler")
        trial.set_user_attr("schedule", schedule.to_dict())
        trial.set_user_attr("source", source)
        if known is not None:
            trial.set_user_attr("quality", known.quality)
            trial.set_user_attr("seconds", 0.0)
            trial.set_user_attr("duplicate_of", known.number)
            self._note_costs(trial, schedule)
            self.study.tell(trial, [known.loss, *known.values])
            return known
        costs, started = self._note_costs(trial, schedule), time.monotonic()
        try:
            evaluation = self.evaluate(schedule)
        except RuntimeError as error:  # out of memory, or a kernel that refuses a shape: the run goes on
            trial.set_user_attr("error", str(error)[:500])
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return None
        if not evaluation.finite:
            trial.set_user_attr("error", "outputs are not finite")
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return None
        seconds = time.monotonic() - started
        trial.set_user_attr("quality", evaluation.quality)
        trial.set_user_attr("seconds", seconds)
        values = tuple(costs[o.name] for o in self.objectives if o.minimised)
        self.study.tell(trial, [evaluation.loss, *values])
        return TrialRecord(
            number=trial.number,
            schedule=schedule,
            quality=evaluation.quality,
            loss=evaluation.loss,
            predicted_ms=costs["latency"],
            predicted_mj=costs.get("energy"),
            values=values,
            source=source,
            seconds=seconds,
        )

    def _note_costs(self, trial: optuna.Trial, schedule: Schedule) -> dict[str, float]:
        """Predict what the schedule costs in every objective, and write it into the trial."""
        costs = {objective.name: objective.costs.predict(schedule) for objective in self.objectives}
        for name, value in costs.items():
            trial.set_user_attr(name, value)
        return costs
