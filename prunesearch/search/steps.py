"""The steps of a run: price, probe, search, conclude. Each takes what the one before it returned."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from optuna import Study

from prunesearch import __version__
from prunesearch.core.appended import Appended
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import moving, say, step
from prunesearch.core.plans.plan import Plan
from prunesearch.core.tables.registry import ACROSS, CHANGES, ENGINES
from prunesearch.cost.devices.device import is_device, kind_of
from prunesearch.pruning.apply import apply_
from prunesearch.search.costs.costing import Coster, Costing
from prunesearch.search.costs.reach import check_reachable, seeds_within
from prunesearch.search.engines.engine import Engine, EngineContext, Evaluate
from prunesearch.search.engines.time_limit import trial_limit
from prunesearch.search.finish.candidates import blind_note
from prunesearch.search.finish.finish import Finish
from prunesearch.search.finish.robustness import searched_rows
from prunesearch.search.handed_on import Priced, Probed, Run, Searched
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.sensitivity import measure_halves, measure_sensitivities
from prunesearch.search.space.given import given_seed
from prunesearch.search.space.plan_space import PlanSpace
from prunesearch.search.trials.ask_tell import Search
from prunesearch.search.trials.constraints import QualityConstraints
from prunesearch.search.trials.convergence import Convergence
from prunesearch.search.trials.evaluate import Evaluation, Evaluator
from prunesearch.search.trials.growing import GrowingFront
from prunesearch.search.trials.search_rows import SEARCH_ROWS, pilots_of, rows_for
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front
from prunesearch.study.setup import Setting, make_setting
from prunesearch.study.trials import (
    check_same_costs,
    finished_trials,
    study_exists,
    study_place,
)
from prunesearch.tasks.batching.batches import EvalSet

_TYPICAL = 40  # trials that searches of one model took to converge, for the time that is left
_HALF_ROWS = 48  # that what a change of half a block loses is measured on
_FALLBACKS = 24  # schedules inside the budget, at hand for proposals that cannot be brought inside


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
    most = searched_rows(run.setting)
    split = most.take(_begun_with(priced, most) or _enough_rows(priced, most))
    sensitivities = _sensitivities(run, costing, split, begun=priced.resumed is not None)
    evaluator = Evaluator(run.setting.task, run.handle, split)
    sensitivities = _with_base(run, costing.space, sensitivities, evaluator)
    sensitivities = _with_halves(run, costing, sensitivities, split)
    space = costing.space.with_methods(sensitivities.methods)
    wanted = max(config.first_seeds, _FALLBACKS)
    seeds = seeds_within(space, sensitivities, costing.objectives, wanted, config.asked)
    return Probed(priced, space, split, sensitivities, [seed.plan for seed in seeds], evaluator)


def _begun_with(priced: Priced, most: EvalSet) -> int | None:
    """Rows of the trials that a study has; those of before the rows were written down are on all that may be taken."""
    study = priced.resumed
    if study is None:
        return None
    rows: int | None = study.user_attrs.get(SEARCH_ROWS)
    return most.n if rows is None and finished_trials(study) else rows


def _enough_rows(priced: Priced, most: EvalSet) -> int:
    setting, pilots = priced.run.setting, pilots_of(priced.costing.space.schedules)
    return rows_for(setting.task, priced.run.handle, most, pilots, setting.config.promise.loss_error)


def _with_base(run: Run, space: PlanSpace, found: Sensitivities, evaluator: Evaluator) -> Sensitivities:
    """With what every change of the model loses by itself, on all rows of the search."""
    missing = [plan for plan in space.unpruned if plan.changes and plan.variant not in found.base]
    if not missing:
        return found
    for plan in missing:
        base = {**found.base, plan.variant: evaluator.evaluate(plan).loss}
        found = replace(found, base=base, passes=found.passes + evaluator.split.n)
        found.save(_kept(run))
    said = ", ".join(f"{plan.variant} {found.base[plan.variant]:.3g}" for plan in missing)
    say(f"divergence of the unpruned model by precision, nats: {said}")
    return found


def _with_halves(run: Run, costing: Costing, found: Sensitivities, split: EvalSet) -> Sensitivities:
    """With what every change of half a block loses by itself."""
    # what is kept as it is loses nothing beside the model in fewer bits, whose loss is known by itself
    kept = {str(c): 0.0 for known in costing.space.options.values() for c in known if CHANGES.entry(c.kind).keeps}
    found = replace(found, halves={**found.halves, **kept})
    options = {key: [c for c in known if str(c) not in found.halves] for key, known in costing.space.options.items()}
    many = sum(map(len, options.values()))
    if not many:
        return found
    with moving("losses of halves of blocks", many) as progress:
        halves = measure_halves(
            run.setting.task,
            run.handle,
            split.take(_HALF_ROWS),
            costing.space.schedules,
            costing.objectives[0].costs,
            options,
            progress.advance,
        )
    found = replace(found, halves={**found.halves, **halves})
    found.save(_kept(run))
    return found


def _kept(run: Run) -> Path:
    return run.folder.path / "sensitivities.json"


def _sensitivities(run: Run, costing: Costing, split: EvalSet, *, begun: bool) -> Sensitivities:
    path = _kept(run)
    config, space, objective = run.setting.config, costing.space.schedules, costing.objectives[0]
    if path.exists():
        found = Sensitivities.load(path)
        if found.is_of(space):
            step("sensitivities: kept from before")
            return found
        if begun:
            raise PruneSearchError(
                f"study '{run.folder.name}' was begun in another space than --space {config.space} describes now: "
                "restore the file, or begin another --study"
            )
    if not space.max_stages:
        return Sensitivities.free(space)
    cells = len(space.layers) * (len(space.keeps) - 1) * len(space.methods)
    step(f"sensitivities: one-stage losses where the front could change ({cells} cells in all)")
    asked = [__version__, space.layers, space.keeps, space.methods, split.n, config.sensitivity_samples, config.dtype]
    keep = Appended(path.with_suffix(".part"), asked)
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
            keep=keep,
        )
    found.save(path)
    keep.remove()
    say(f"{found.measured} cells on {found.samples} rows, in {found.passes / split.n:.1f} full evaluations")
    return found


def search(probed: Probed) -> Searched:
    """Ask, evaluate and tell until a limit is reached; other processes may do so at the same time."""
    priced, split = probed.priced, probed.split
    run, config = priced.run, priced.run.setting.config
    study = priced.resumed or run.open_study()
    if config.storage is not None:
        check_same_costs(study, run.folder)
    study.set_user_attr(SEARCH_ROWS, split.n)
    run.lock.release()
    started, evaluator = time.monotonic(), probed.evaluator
    unpruned = evaluator.unpruned()
    limit_s = trial_limit(evaluator.seconds + time.monotonic() - started)
    asking = _asking(probed, study, unpruned)
    engine: Engine = ENGINES.load(config.engine)(_context(run.setting, evaluator, limit_s))
    given, rivals = _given(config, probed.space, asking), probed.space.unpruned[1:]
    asking.enqueue([*given, *rivals, *probed.seeds[: config.first_seeds]])
    known = f", {len(asking.known)} kept from before" if asking.known else ""
    many = "schedules until the front has converged" if config.trials is None else f"{config.trials} schedules"
    step(f"search: {many} on {split.n} calibration rows ({config.sampler}{known})")
    blind = blind_note(run.setting.task, unpruned, split.labels)
    if blind is not None:
        say(blind)
    deadline = None if config.timeout_s is None else time.monotonic() + config.timeout_s
    stop = Convergence(priced.costing.objectives, config.promise.growth) if config.trials is None else None
    with moving("trials", config.trials) as progress:
        task = run.setting.task
        front = GrowingFront(priced.costing.unpruned_ms, unpruned.quality, task.metric, progress, run.began)
        progress.reach(len(asking.known))
        for record in engine.run(asking, config.trials, deadline, stop):
            if config.trials is None:
                progress.expect(max(_TYPICAL, len(asking.known) + 1))
            progress.reach(len(asking.known))  # with those that other processes finished meanwhile
            front.see(record)
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
        race=config.race and (not config.robust or ACROSS.entry(config.over).weighted),  # races go by means
        constraints=QualityConstraints(bounds, unpruned) if bounds else None,
    )


def _context(setting: Setting, evaluator: Evaluator, limit_s: float) -> EngineContext:
    config = setting.config
    return EngineContext(
        evaluate=lambda schedule, rival: evaluator.evaluate(schedule, rival=rival),
        load=partial(load_evaluate, config.to_dict(), evaluator.split.n),
        workers=config.workers,
        address=config.ray_address,
        on_gpu=kind_of(setting.target.device).accelerator,
        limit_s=limit_s,
    )


def load_evaluate(settings: dict[str, Any], rows: int) -> Evaluate:
    """What a worker of another process evaluates with: model and rows of a configuration, loaded there."""
    config = RunConfig(**settings)
    if is_device(config.device):  # a worker sees its own GPU alone
        config = config.model_copy(update={"device": config.device.partition(":")[0]})
    setting = make_setting(config)
    handle = apply_(setting.task.model, Plan(), seed=config.seed)
    evaluator = Evaluator(setting.task, handle, searched_rows(setting).take(rows))
    return lambda schedule, rival: evaluator.evaluate(schedule, rival=rival)


def _given(config: RunConfig, space: PlanSpace, asking: Search) -> list[Plan]:
    """The plans to start from, as members of the space and inside the budget."""
    found = []
    for path in config.start_from:
        plan, notes = given_seed(Path(path), space.schedules)
        if plan.variant not in space.variants or (plan.halves and space.encode(plan) is None):
            raise PruneSearchError(f"seed {path} is in {plan.variant}, which is not searched: use --precision")
        for note in notes:
            say(note)
        found.append(asking.project(plan))
    return found


def conclude(searched: Searched) -> Front:
    """Evaluate the candidates on the holdout split, re-measure them, and write the front and the report."""
    run = searched.probed.priced.run
    waited = run.lock.take()
    records = finished_trials(searched.study)
    if waited and run.folder.front.exists():
        front = Front.load(run.folder.front)
        if front.search.trials >= len(records):  # another process has concluded, with all of ours
            return front
    return Finish(searched, records).go()


Step = Callable[[Any], Any]  # of what the step before it returned; the first of a `Run`, the last to a `Front`
STEPS: tuple[Step, ...] = (price, probe, search, conclude)
