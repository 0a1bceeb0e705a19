"""`run`: from a configuration to a study folder with a front that was evaluated on held-out data and re-measured."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from optuna import Study

from prunesearch.core.constraint import relative_bound
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import moving, plan, say, step
from prunesearch.core.registry import ENGINES
from prunesearch.core.schedule import Schedule
from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.devices.device import is_device, kind_of
from prunesearch.cost.energy.schedules import open_meter
from prunesearch.cost.energy.window import EnergyMeter
from prunesearch.pruning.apply import Handle, apply_
from prunesearch.search.costs.costing import Coster, Costing
from prunesearch.search.costs.lengths import with_buckets
from prunesearch.search.costs.objectives import Objective
from prunesearch.search.costs.reach import check_reachable, seeds_within
from prunesearch.search.engines.engine import Engine, EngineContext, Evaluate
from prunesearch.search.finish.candidates import blind_note
from prunesearch.search.finish.finish import Finish
from prunesearch.search.finish.remeasure import Remeasurer
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.seed import Seed
from prunesearch.search.solve.sensitivity import measure_sensitivities
from prunesearch.search.space.given import given_seed
from prunesearch.search.space.space import Space, SpaceFile
from prunesearch.search.trials.ask_tell import Search
from prunesearch.search.trials.constraints import QualityConstraints, feasible_records
from prunesearch.search.trials.convergence import Convergence
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.alone import Alone
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import DEFAULT_ROOT, StudyFolder
from prunesearch.study.front import Front, SearchInfo
from prunesearch.study.setup import Model, default_study, load_study_task, resolve_model
from prunesearch.study.target import Target, resolve_target
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
from prunesearch.tasks.base import Task
from prunesearch.tasks.batches import EvalSet

_FALLBACKS = 24  # schedules inside the budget, at hand for proposals that cannot be brought inside
_STEPS = 6  # loading, costs, sensitivities, search, holdout, measurement


def run(
    config: RunConfig,
    study: str | None = None,
    *,
    root: Path = DEFAULT_ROOT,
    task: Task | None = None,
    meter: EnergyMeter | None = None,
) -> Front:
    """Search the model's schedules and return the front, which is also written to `root/study/`.

    The same call resumes a study that was interrupted: table, sensitivities and finished trials are kept.

    Args:
        config: all settings.
        study: name of the study; None for `default_study(config)`.
        root: folder of studies.
        task: a task made by the caller, in place of loading `config.model` and `config.data`.
        meter: of the device's energy; None opens the device's own where energy is an objective or a budget.

    Raises:
        PruneSearchError: for bad input, in one line; nothing that was finished is lost.
    """
    plan(_STEPS)
    folder = StudyFolder.create(study or default_study(config), root)
    with Alone(folder) as lock:
        return _run(config, folder, lock, task, meter)


def _run(
    config: RunConfig,
    folder: StudyFolder,
    lock: Alone,
    task: Task | None,
    meter: EnergyMeter | None,
) -> Front:
    if folder.config.exists():
        tried = study_exists(**study_place(folder, config.storage))
        config.check_resumes(folder.load_config(), folder.name, tried=tried)
    if folder.front.exists():
        front = Front.load(folder.front)
        if _is_complete(front, config):
            say(f"study {folder.name} is complete; --trials N goes on, another --study starts anew")
            return front
    space_file = SpaceFile.load(config.space_path)
    model, target = resolve_model(config), resolve_target(config.device)
    opened = _open_meter(target) if target.here and meter is None and config.needs_energy else None
    step(f"loading {model.name}")
    if task is None:
        task = load_study_task(config)
    elif config.engine != "local":
        raise PruneSearchError(f"a task made by the caller is evaluated by engine 'local', but got '{config.engine}'")
    config, task = with_buckets(config, task)
    for note in task.notes:
        say(f"{note}")
    if target.dtype(config.dtype) != config.dtype:
        say(f"quality is evaluated in float32 on this CPU; costs are those of {config.dtype}")
    handle = apply_(task.model, Schedule(), seed=config.seed)
    try:
        return _Run(config, folder, lock, model, task, handle, space_file, target, meter or opened).go()
    finally:
        handle.remove()
        if opened is not None:
            opened.counter.close()


def load_evaluate(settings: dict[str, Any]) -> Evaluate:
    """What a worker of another process evaluates with: model and rows of a configuration, loaded there."""
    config = RunConfig(**settings)
    if is_device(config.device):  # a worker sees its own GPU alone
        config = config.model_copy(update={"device": config.device.partition(":")[0]})
    task = load_study_task(config)
    handle = apply_(task.model, Schedule(), seed=config.seed)
    evaluator = Evaluator(task, handle, task.calibration.take(config.search_samples))
    return lambda schedule, rival: evaluator.evaluate(schedule, rival=rival)


def _open_meter(target: Target) -> EnergyMeter:
    meter = open_meter(target.device)
    if isinstance(meter, Unavailable):
        raise PruneSearchError(f"energy is unavailable on '{target.device}': {meter.reason}; use --objective latency")
    return meter


class _Run:
    """The steps of one run, with what they share."""

    def __init__(
        self,
        config: RunConfig,
        folder: StudyFolder,
        lock: Alone,
        model: Model,
        task: Task,
        handle: Handle,
        space_file: SpaceFile,
        target: Target,
        meter: EnergyMeter | None,
    ) -> None:
        self.config, self.folder, self.lock, self.model, self.task = config, folder, lock, model, task
        self.handle, self.target, self.meter = handle, target, meter
        encoder = handle.encoder
        self.space = space_file.fit(encoder.depth, task.tokens, encoder.protected)
        self.unpruned_quality = 0.0  # on the search's calibration rows

    def go(self) -> Front:
        place = study_place(self.folder, self.config.storage)
        resumed = self._open_study() if study_exists(**place) else None  # a broken one is said at once
        for path in self.config.start_from:
            given_seed(Path(path), self.space)  # so is a seed that the space cannot hold, before anything is measured
        costing = Coster(
            self.config,
            self.folder,
            self.model.shown,
            self.task,
            self.handle,
            self.space,
            self.target,
            self.meter,
        ).find()
        self.space = costing.space
        self.folder.save_config(self.config.model_dump(mode="json"))  # what was refused until here leaves no trace
        objectives = costing.objectives
        check_reachable(self.space, objectives, self.config.asked)
        split = self.task.calibration.take(self.config.search_samples)
        sensitivities = self._sensitivities(objectives[0], split)
        space = self.space.with_methods(sensitivities.methods)
        seeds = seeds_within(
            space, sensitivities, objectives, max(self.config.first_seeds, _FALLBACKS), self.config.asked
        )
        self.study = resumed or self._open_study()
        if self.config.storage is not None:
            check_same_costs(self.study, self.folder)
        self.lock.release()
        stopped = self._search(space, costing, split, sensitivities, seeds)
        waited = self.lock.take()
        records = finished_trials(self.study)
        if waited and self.folder.front.exists():
            front = Front.load(self.folder.front)
            if front.search.trials >= len(records):
                return front
        return Finish(
            config=self.config,
            folder=self.folder,
            model_id=self.model.id,
            model_shown=self.model.shown,
            task=self.task,
            handle=self.handle,
            costing=costing,
            remeasurer=self._remeasurer(costing),
            records=records,
            candidates=feasible_records(self.study, records),
            unpruned_calibration=self.unpruned_quality,
            calibration_rows=split.n,
            search=self._search_info(costing, sensitivities, split.n, stopped),
        ).go()

    def _remeasurer(self, costing: Costing) -> Remeasurer | None:
        """None where the device whose costs count is not at hand."""
        if not self.target.here:
            return None
        return Remeasurer(self.config, self.task, self.handle, costing, self.meter)

    def _open_study(self) -> Study:
        return open_study(objectives=self.config.minimised, **study_place(self.folder, self.config.storage))

    def _search_info(
        self, costing: Costing, sensitivities: Sensitivities, rows: int, stopped: str | None
    ) -> SearchInfo:
        """What the search spent, over all sessions; a unit is one evaluation of the unpruned model on `rows` rows."""
        records = finished_trials(self.study)
        spent, saved = evaluation_units(records, costing.unpruned_ms)
        return SearchInfo.model_validate(
            {
                "sampler": self.config.sampler,
                "trials": len(records),
                "seeds": sum(r.source == "seed" for r in records),
                "failed": failed_trials(self.study),
                "evaluations": spent + sensitivities.passes / rows,
                "saved": saved,
                "seconds": sum(r.seconds for r in records) + sensitivities.seconds,
                "stopped": stopped,
            }
        )

    def _sensitivities(self, objective: Objective, split: EvalSet) -> Sensitivities:
        path = self.folder.path / "sensitivities.json"
        if path.exists():
            step("sensitivities: kept from before")
            return Sensitivities.load(path)
        config, space = self.config, self.space
        cells = len(space.layers) * (len(space.keeps) - 1) * len(space.methods)
        step(f"sensitivities: one-stage losses where the front could change ({cells} cells in all)")
        with moving("sensitivities", config.sensitivity_units) as bar:
            found = measure_sensitivities(
                self.task,
                self.handle,
                split,
                space,
                objective.costs,
                min(objective.limit, objective.costs.predict(Schedule())),
                samples=config.sensitivity_samples,
                units=config.sensitivity_units,
                seed=config.seed,
                advance=bar.advance,
            )
        found.save(path)
        say(f"{found.measured} cells on {found.samples} rows, in {found.passes / split.n:.1f} full evaluations")
        return found

    def _search(
        self,
        space: Space,
        costing: Costing,
        split: EvalSet,
        sensitivities: Sensitivities,
        seeds: list[Seed],
    ) -> str | None:
        """Evaluate until a limit is reached; return which."""
        config = self.config
        evaluator = Evaluator(self.task, self.handle, split)
        found = [seed.schedule for seed in seeds]
        bounds = [c for c in config.parsed_constraints if c.on_quality]
        search = Search(
            self.study,
            config.sampler,
            space,
            costing.objectives,
            found,
            sensitivities,
            config.seed,
            race=config.race,
            constraints=QualityConstraints(bounds, evaluator.unpruned()) if bounds else None,
        )
        engine: Engine = ENGINES.load(config.engine)(
            EngineContext(
                evaluate=lambda schedule, rival: evaluator.evaluate(schedule, rival=rival),
                load=partial(load_evaluate, config.model_dump(mode="json")),
                workers=config.workers,
                address=config.ray_address,
                on_gpu=kind_of(self.target.device).accelerator,
            )
        )
        search.enqueue([*self._given(space, search), *found[: config.first_seeds]])
        done = len(search.known)
        known = f", {done} kept from before" if done else ""
        many = "schedules until the front has converged" if config.trials is None else f"{config.trials} schedules"
        step(f"search: {many} on {split.n} calibration rows ({config.sampler}{known})")
        unpruned_ms, quality = costing.unpruned_ms, evaluator.unpruned().quality
        self.unpruned_quality = quality
        blind = blind_note(self.task.metric, evaluator.unpruned(), split.labels)
        if blind is not None:
            say(f"{blind}")
        deadline = None if config.timeout_s is None else time.monotonic() + config.timeout_s
        stop = Convergence(costing.objectives) if config.trials is None else None
        best: TrialRecord | None = None
        with moving("trials", config.trials) as bar:
            bar.advance(done)
            for record in engine.run(search, config.trials, deadline, stop):
                bar.advance(len(search.known) - done)  # with those that other processes finished meanwhile
                done = len(search.known)
                within = record.quality >= relative_bound(0.99, quality)
                if within and (best is None or record.predicted_ms < best.predicted_ms):
                    best = record
                    bar.best(f"best within 1 %: {unpruned_ms / best.predicted_ms:.2f}x")
        return search.stopped

    def _given(self, space: Space, search: Search) -> list[Schedule]:
        """The schedules to start from, as members of the space and inside the budget."""
        found = []
        for path in self.config.start_from:
            schedule, notes = given_seed(Path(path), space)
            for note in notes:
                say(f"{note}")
            found.append(search.project(schedule))
        return found


def _is_complete(front: Front, config: RunConfig) -> bool:
    """Whether the same call would add nothing: it has the trials asked for, or came to its own end."""
    if config.trials is not None:
        return front.search.trials >= config.trials
    return front.search.stopped in ("converged", "exhausted")
