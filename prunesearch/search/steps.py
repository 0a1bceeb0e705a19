"""The steps of a run: price, probe, search, conclude. Each takes what the one before it returned."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optuna import Study

from prunesearch.core.constraint import relative_bound
from prunesearch.core.events import Moving, moving, say, step
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import ENGINES
from prunesearch.cost.devices.device import is_device, kind_of
from prunesearch.cost.energy.window import EnergyMeter
from prunesearch.pruning.apply import Handle, apply_
from prunesearch.search.costs.bench import Bench
from prunesearch.search.costs.costing import Coster, Costing
from prunesearch.search.costs.reach import check_reachable, seeds_within
from prunesearch.search.engines.engine import Engine, EngineContext, Evaluate
from prunesearch.search.finish.candidates import blind_note
from prunesearch.search.finish.finish import Finish
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.sensitivity import measure_sensitivities
from prunesearch.search.space.given import given_seed
from prunesearch.search.space.space import Space
from prunesearch.search.trials.ask_tell import Search
from prunesearch.search.trials.constraints import QualityConstraints, feasible_records
from prunesearch.search.trials.convergence import Convergence
from prunesearch.search.trials.evaluate import Evaluation, Evaluator
from prunesearch.study.alone import Alone
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.front_records import SearchInfo
from prunesearch.study.setup import Setting, make_setting
from prunesearch.study.trials import (
    TrialRecord,
    check_same_costs,
    evaluation_units,
    failed_trials,
    finished_trials,
    open_study,
    study_exists,
    study_place,
)
from prunesearch.tasks.batching.batches import EvalSet

_FALLBACKS = 24  # schedules inside the budget, at hand for proposals that cannot be brought inside
_WITHIN = 0.99  # of the unpruned quality: what the best so far must have


@dataclass(frozen=True)
class Run:
    """What every step of a run stands on.

    Attributes:
        setting: what the run is of.
        folder: of the study, where a step finds what was done before, and leaves what it does.
        lock: of the folder; it is free while schedules are searched.
        handle: of the setting's model, without a schedule between two steps.
        space: of the run, as its file has it.
        meter: of the device's energy, where that is asked for and the device is at hand.
    """

    setting: Setting
    folder: StudyFolder
    lock: Alone
    handle: Handle
    space: Space
    meter: EnergyMeter | None = None

    def open_study(self) -> Study:
        """The Optuna study of the folder, made or resumed."""
        config = self.setting.config
        return open_study(objectives=config.objectives, **study_place(self.folder, config.storage))


@dataclass(frozen=True)
class Priced:
    """After the first step: every schedule of the space has a price, and some are within the bounds.

    Attributes:
        resumed: the study, where there is one.
    """

    run: Run
    costing: Costing
    resumed: Study | None


@dataclass(frozen=True)
class Probed:
    """After the second: what single stages lose, and the schedules that this says are worth a try.

    Attributes:
        space: the methods that are worth proposing.
        split: calibration rows that trials are evaluated on.
        seeds: schedules inside every bound, solved for.
    """

    priced: Priced
    space: Space
    split: EvalSet
    sensitivities: Sensitivities
    seeds: list[Schedule]


@dataclass(frozen=True)
class Searched:
    """After the third: a study with finished trials.

    Attributes:
        unpruned: the unpruned model on the rows of the search.
        stopped: why the search ended.
    """

    probed: Probed
    study: Study
    unpruned: Evaluation
    stopped: str | None


def price(run: Run) -> Priced:
    """Measure the cost tables, or read them; refuse bounds that no schedule keeps.

    Raises:
        PruneSearchError: if a cost cannot be known here, or a bound cannot be kept.
    """
    config = run.setting.config
    resumed = None
    if study_exists(**study_place(run.folder, config.storage)):
        resumed = run.open_study()  # a broken one is said at once
    for path in config.start_from:
        given_seed(Path(path), run.space)  # so is a seed that the space cannot hold, before anything is measured
    costing = Coster(run.setting, run.folder, run.handle, run.space, run.meter).find()
    run.folder.save_config(config.to_dict())  # what was refused until here leaves no trace
    check_reachable(costing.space, costing.objectives, config.asked)
    return Priced(run, costing, resumed)


def probe(priced: Priced) -> Probed:
    """Measure what single stages lose, where it could matter, and solve for seeds."""
    run, costing = priced.run, priced.costing
    config = run.setting.config
    split = run.setting.task.calibration.take(config.search_samples)
    sensitivities = _sensitivities(run, costing, split)
    space = costing.space.with_methods(sensitivities.methods)
    wanted = max(config.first_seeds, _FALLBACKS)
    seeds = seeds_within(space, sensitivities, costing.objectives, wanted, config.asked)
    return Probed(priced, space, split, sensitivities, [seed.schedule for seed in seeds])


def _sensitivities(run: Run, costing: Costing, split: EvalSet) -> Sensitivities:
    path = run.folder.path / "sensitivities.json"
    if path.exists():
        step("sensitivities: kept from before")
        return Sensitivities.load(path)
    config, space, objective = run.setting.config, costing.space, costing.objectives[0]
    cells = len(space.layers) * (len(space.keeps) - 1) * len(space.methods)
    step(f"sensitivities: one-stage losses where the front could change ({cells} cells in all)")
    with moving("sensitivities", config.sensitivity_units) as progress:
        found = measure_sensitivities(
            run.setting.task,
            run.handle,
            split,
            space,
            objective.costs,
            objective.bound,
            samples=config.sensitivity_samples,
            units=config.sensitivity_units,
            seed=config.seed,
            advance=progress.advance,
        )
    found.save(path)
    say(f"{found.measured} cells on {found.samples} rows, in {found.passes / split.n:.1f} full evaluations")
    return found


def search(probed: Probed) -> Searched:
    """Ask, evaluate and tell until a limit is reached; other processes may do so at the same time."""
    priced, split = probed.priced, probed.split
    run, config = priced.run, priced.run.setting.config
    study = priced.resumed or run.open_study()
    if config.storage is not None:
        check_same_costs(study, run.folder)
    run.lock.release()
    evaluator = Evaluator(run.setting.task, run.handle, split)
    unpruned = evaluator.unpruned()
    asking = _asking(probed, study, unpruned)
    engine: Engine = ENGINES.load(config.engine)(_context(run.setting, evaluator))
    asking.enqueue([*_given(config, probed.space, asking), *probed.seeds[: config.first_seeds]])
    known = f", {len(asking.known)} kept from before" if asking.known else ""
    many = "schedules until the front has converged" if config.trials is None else f"{config.trials} schedules"
    step(f"search: {many} on {split.n} calibration rows ({config.sampler}{known})")
    blind = blind_note(run.setting.task.metric, unpruned, split.labels)
    if blind is not None:
        say(blind)
    deadline = None if config.timeout_s is None else time.monotonic() + config.timeout_s
    stop = Convergence(priced.costing.objectives) if config.trials is None else None
    with moving("trials", config.trials) as progress:
        best = _Best(priced.costing.unpruned_ms, relative_bound(_WITHIN, unpruned.quality), progress)
        progress.reach(len(asking.known))
        for record in engine.run(asking, config.trials, deadline, stop):
            progress.reach(len(asking.known))  # with those that other processes finished meanwhile
            best.see(record)
    return Searched(probed, study, unpruned, asking.stopped)


def _asking(probed: Probed, study: Study, unpruned: Evaluation) -> Search:
    config, costing = probed.priced.run.setting.config, probed.priced.costing
    bounds = [c for c in config.constraints if c.on_quality]
    return Search(
        study,
        config.sampler,
        probed.space,
        costing.objectives,
        probed.seeds,
        probed.sensitivities,
        config.seed,
        race=config.race,
        constraints=QualityConstraints(bounds, unpruned) if bounds else None,
    )


def _context(setting: Setting, evaluator: Evaluator) -> EngineContext:
    config = setting.config
    return EngineContext(
        evaluate=lambda schedule, rival: evaluator.evaluate(schedule, rival=rival),
        load=partial(load_evaluate, config.to_dict()),
        workers=config.workers,
        address=config.ray_address,
        on_gpu=kind_of(setting.target.device).accelerator,
    )


def load_evaluate(settings: dict[str, Any]) -> Evaluate:
    """What a worker of another process evaluates with: model and rows of a configuration, loaded there."""
    config = RunConfig(**settings)
    if is_device(config.device):  # a worker sees its own GPU alone
        config = config.model_copy(update={"device": config.device.partition(":")[0]})
    task = make_setting(config).task
    handle = apply_(task.model, Schedule(), seed=config.seed)
    evaluator = Evaluator(task, handle, task.calibration.take(config.search_samples))
    return lambda schedule, rival: evaluator.evaluate(schedule, rival=rival)


def _given(config: RunConfig, space: Space, asking: Search) -> list[Schedule]:
    """The schedules to start from, as members of the space and inside the budget."""
    found = []
    for path in config.start_from:
        schedule, notes = given_seed(Path(path), space)
        for note in notes:
            say(note)
        found.append(asking.project(schedule))
    return found


class _Best:
    """Tells of the fastest schedule so far that keeps nearly all of the quality."""

    def __init__(self, unpruned_ms: float, least_quality: float, progress: Moving) -> None:
        self._unpruned_ms, self._least, self._progress = unpruned_ms, least_quality, progress
        self._ms = float("inf")

    def see(self, record: TrialRecord) -> None:
        """Take a finished trial in."""
        if record.quality >= self._least and record.predicted_ms < self._ms:
            self._ms = record.predicted_ms
            self._progress.best(f"best within 1 %: {self._unpruned_ms / self._ms:.2f}x")


def conclude(searched: Searched) -> Front:
    """Evaluate the candidates on the holdout split, re-measure them, and write the front and the report."""
    probed, study = searched.probed, searched.study
    run, costing, setting = probed.priced.run, probed.priced.costing, probed.priced.run.setting
    waited = run.lock.take()
    records = finished_trials(study)
    if waited and run.folder.front.exists():
        front = Front.load(run.folder.front)
        if front.search.trials >= len(records):  # another process has concluded, with all of ours
            return front
    bench = Bench(setting, run.handle, costing.loads, run.meter, setting.config.table_seconds / 2)
    return Finish(
        config=setting.config,
        folder=run.folder,
        model_id=setting.source.id,
        model_shown=setting.source.shown,
        task=setting.task,
        handle=run.handle,
        costing=costing,
        bench=bench,
        here=setting.target.here,
        records=records,
        candidates=feasible_records(study, records),
        unpruned_calibration=searched.unpruned.quality,
        calibration_rows=probed.split.n,
        search=_spent(searched, records),
    ).go()


def _spent(searched: Searched, records: Sequence[TrialRecord]) -> SearchInfo:
    """What the search spent, over all sessions; a unit is one evaluation of the unpruned model on the same rows."""
    probed = searched.probed
    spent, saved = evaluation_units(records, probed.priced.costing.unpruned_ms)
    return SearchInfo.model_validate(
        {
            "sampler": probed.priced.run.setting.config.sampler,
            "trials": len(records),
            "seeds": sum(r.source == "seed" for r in records),
            "failed": failed_trials(searched.study),
            "evaluations": spent + probed.sensitivities.passes / probed.split.n,
            "saved": saved,
            "seconds": sum(r.seconds for r in records) + probed.sensitivities.seconds,
            "stopped": searched.stopped,
        }
    )


Step = Callable[[Any], Any]  # of what the step before it returned; the first of a `Run`, the last to a `Front`
STEPS: tuple[Step, ...] = (price, probe, search, conclude)
