"""`run`: from a configuration to a study folder with a front that was evaluated on held-out data and re-measured."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from optuna import Study

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.schedule import Schedule
from prunesearch.cost.counters import Unavailable
from prunesearch.cost.energy import EnergyMeter
from prunesearch.cost.energy_costs import EnergyCosts
from prunesearch.cost.energy_schedules import FITTED, fit_table_energy, open_meter
from prunesearch.cost.plateaus import block_curve, plateaus
from prunesearch.cost.table import CostTable
from prunesearch.pruning.apply import Handle, apply_, runnable
from prunesearch.results.front import Front, SearchInfo
from prunesearch.results.store import DEFAULT_ROOT, StudyFolder
from prunesearch.search.config import RunConfig
from prunesearch.search.evaluate import Evaluator
from prunesearch.search.finish import Finish
from prunesearch.search.measure import cost_table
from prunesearch.search.objectives import Objective, make_objectives
from prunesearch.search.progress import Reporter
from prunesearch.search.reach import check_reachable, seeds_within
from prunesearch.search.seeds import Costs, Seed
from prunesearch.search.sensitivity import Sensitivities, measure_sensitivities, screen_methods, screening_sites
from prunesearch.search.space import Space, SpaceFile
from prunesearch.search.study import Search, TrialRecord, failed_trials, finished_trials, open_study
from prunesearch.search.target import Target, resolve_target
from prunesearch.tasks import load_task
from prunesearch.tasks.base import EvalSet, Task

_SCREEN_SAMPLES = 64


@dataclass(frozen=True)
class Model:
    """Where the model and its data come from, once defaults are filled in; `shown` is how results call the model."""

    id: str
    data: str
    name: str
    shown: str


def demo() -> Model:
    """The bundled demo: a small ViT trained on CIFAR-10, with a calibration and a holdout split."""
    folder = Path(__file__).resolve().parents[1] / "demo"
    splits = ",".join(str(folder / f"cifar10-{split}.parquet") for split in ("calibration", "holdout"))
    return Model(str(folder / "vit-cifar10"), splits, "demo", "prunesearch/demo/vit-cifar10")


def resolve_model(config: RunConfig) -> Model:
    """Model and data of a configuration; neither given means the demo."""
    if config.model is None or config.data is None:
        return demo()
    return Model(config.model, config.data, Path(config.model.rstrip("/")).name, config.model)


def default_study(config: RunConfig) -> str:
    """Name of the study when none is given: model, device, batch size."""
    return f"{resolve_model(config).name}-{config.device.replace(':', '')}-b{config.batch_size}"


def run(
    config: RunConfig,
    study: str | None = None,
    *,
    root: Path = DEFAULT_ROOT,
    quiet: bool = False,
    task: Task | None = None,
    meter: EnergyMeter | None = None,
) -> Front:
    """Search the model's schedules and return the front, which is also written to `root/study/`.

    The same call resumes a study that was interrupted: table, sensitivities and finished trials are kept.

    Args:
        config: all settings.
        study: name of the study; None for `default_study(config)`.
        root: folder of studies.
        quiet: print nothing.
        task: a task made by the caller, in place of loading `config.model` and `config.data`.
        meter: of the device's energy; None opens the device's own where energy is an objective or a budget.

    Raises:
        PruneSearchError: for bad input, in one line; nothing that was finished is lost.
    """
    reporter = Reporter(quiet)
    folder = StudyFolder.create(study or default_study(config), root)
    if folder.config.exists():
        config.check_resumes(folder.load_config(), folder.name, tried=folder.database.exists())
    if folder.front.exists():
        front = Front.load(folder.front)
        if front.search.trials >= config.trials:
            reporter.say(f"study {folder.name} is complete; --trials N goes on, another --study starts anew")
            return front
    space_file = SpaceFile.load(config.space_path)
    model, target = resolve_model(config), resolve_target(config.device)
    opened = _open_meter(target) if target.here and meter is None and config.needs_energy else None
    reporter.step(f"loading {model.name}")
    if task is None:
        task = load_study_task(config, quiet=quiet)
    for note in task.notes:
        reporter.say(f"      {note}")
    if target.dtype(config.dtype) != config.dtype:
        reporter.say(f"      quality is evaluated in float32 on this CPU; costs are those of {config.dtype}")
    handle = apply_(task.model, Schedule(), seed=config.seed)
    try:
        return _Run(config, folder, model, task, handle, space_file, target, meter or opened, reporter).go()
    finally:
        handle.remove()
        if opened is not None:
            opened.counter.close()


def load_study_task(config: RunConfig, *, quiet: bool = False) -> Task:
    """Load the model and data of a configuration, on the device at hand."""
    model, target = resolve_model(config), resolve_target(config.device)
    return load_task(
        model.id,
        model.data,
        task=config.task,
        columns=config.columns,
        batch_size=config.eval_batch_size,
        dtype=target.dtype(config.dtype),
        device=target.device,
        attention=target.attention(config.attention),
        calibration=config.calibration,
        holdout=config.holdout,
        seed=config.seed,
        length=config.length,
        quiet=quiet,
    )


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
        model: Model,
        task: Task,
        handle: Handle,
        space_file: SpaceFile,
        target: Target,
        meter: EnergyMeter | None,
        reporter: Reporter,
    ) -> None:
        self.config, self.folder, self.model, self.task = config, folder, model, task
        self.handle, self.target, self.meter, self.reporter = handle, target, meter, reporter
        encoder = handle.encoder
        self.space = Space(space_file, encoder.depth, task.tokens, encoder.protected)
        self.unpruned_quality = 0.0  # on the search's calibration rows

    def go(self) -> Front:
        resumed = self._open_study() if self.folder.database.exists() else None  # a broken one is said at once
        table = self._table()
        self.folder.save_config(self.config.model_dump(mode="json"))  # what was refused until here leaves no trace
        objectives = make_objectives(self.config.minimised, self.config.parsed_budget, self._costs(table))
        check_reachable(self.space, objectives, self.config.budget)
        split = self.task.calibration.take(self.config.search_samples)
        sensitivities = self._sensitivities(table, split)
        space = self.space.with_methods(sensitivities.methods)
        seeds = seeds_within(space, sensitivities, objectives, self.config.seeds, self.config.budget)
        self.study = resumed or self._open_study()
        self._search(space, table, split, objectives, sensitivities, seeds)
        return Finish(
            config=self.config,
            folder=self.folder,
            model_id=self.model.id,
            model_shown=self.model.shown,
            task=self.task,
            handle=self.handle,
            table=table,
            objectives=objectives,
            here=self.target.here,
            meter=self.meter,
            budget=self.config.parsed_budget,
            records=finished_trials(self.study),
            unpruned_calibration=self.unpruned_quality,
            search=self._search_info(table, sensitivities, split.n),
            reporter=self.reporter,
        ).go()

    def _open_study(self) -> Study:
        return open_study(self.folder.database, self.config.minimised)

    def _table(self) -> CostTable:
        """The cost table, with energy where it is asked for; the space moves to the edges of its plateaus."""
        config, space = self.config, self.space
        table = cost_table(
            self.folder, self.task, self.handle, space, config, self.target, self.reporter, self.model.shown
        )
        if config.needs_energy and not self._energy_known(table):
            table = self._with_energy(table)
        methods = runnable(space.methods, str(table.conditions["attention"]))
        self.space = space.with_methods(methods).at_edges(plateaus(block_curve(table, biased=False)))
        gone = len(space.counts) - len(self.space.counts)
        if gone:
            self.reporter.say(f"      {gone} of {len(space.counts) - 1} token counts save nothing here: left out")
        return table

    def _energy_known(self, table: CostTable) -> bool:
        """Whether the table has energy; one that is not valid is measured again where it can be."""
        return table.energy is not None and (table.energy.valid or not self.target.here)

    def _with_energy(self, table: CostTable) -> CostTable:
        """Measure the energy of a few schedules and fit the table's powers.

        Raises:
            PruneSearchError: if the device is not at hand and its profile has no energy.
        """
        if self.meter is None or not self.target.here:
            profile = self.target.profile
            reason = None if profile is None else profile.energy.reason
            raise PruneSearchError(
                f"profile '{self.config.device}' has no energy for this model ({reason or 'not measured'}): measure it "
                "there with prunesearch profile --energy, or use --objective latency"
            )
        self.reporter.say(f"      energy: {FITTED} schedules over windows of {self.config.energy_window_s:.0f} s")
        fit = fit_table_energy(
            table,
            self.meter,
            self.task.model,
            self.task.timing_inputs(self.config.batch_size),
            methods=runnable(self.space.methods, str(table.conditions["attention"])),
            window_s=self.config.energy_window_s,
            seed=self.config.seed,
            quiet=self.reporter.quiet or not self.reporter.console.is_terminal,
        )
        table = CostTable(**{**dict(table), "energy": fit})
        table.save(self.folder.cost_table)
        self.reporter.say(f"      energy: mean error {fit.validation.mape:.1%}, worst {fit.validation.worst:.1%}")
        return table

    def _costs(self, table: CostTable) -> dict[str, Costs]:
        costs: dict[str, Costs] = {"latency": table}
        if table.energy is not None and self.config.needs_energy:
            table.energy.check_valid()
            costs["energy"] = EnergyCosts(table, table.energy)
        return costs

    def _search_info(self, table: CostTable, sensitivities: Sensitivities, rows: int) -> SearchInfo:
        """What the search spent, over all sessions; a unit is one evaluation of the unpruned model on `rows` rows."""
        records = finished_trials(self.study)
        unpruned_ms = table.predict(Schedule())
        units = sum(r.predicted_ms for r in records) / unpruned_ms
        units += _sensitivity_units(self.space, sensitivities, table, rows)
        return SearchInfo(
            sampler=self.config.sampler,
            trials=len(records),
            seeds=sum(r.source == "seed" for r in records),
            failed=failed_trials(self.study),
            evaluations=units,
            seconds=sum(r.seconds for r in records) + sensitivities.seconds,
        )

    def _sensitivities(self, table: CostTable, split: EvalSet) -> Sensitivities:
        path = self.folder.path / "sensitivities.json"
        if path.exists():
            self.reporter.step("sensitivities: kept from before")
            return Sensitivities.load(path)
        space, task, handle, started = self.space, self.task, self.handle, time.monotonic()
        few = split.take(_SCREEN_SAMPLES)
        sites = len(screening_sites(space)) * len(space.methods)
        self.reporter.step(f"sensitivities: screening {len(space.methods)} methods, then a grid of one-stage losses")
        with self.reporter.bar("screening", sites * few.n) as bar:
            methods = screen_methods(task, handle, few, space, bar.advance)
        self.reporter.say(f"      methods: {', '.join(methods)}")
        space = space.with_methods(methods)
        some = split.take(self.config.sensitivity_samples)
        cells = len(space.layers) * (len(space.keeps) - 1) * len(methods)
        with self.reporter.bar("sensitivities", cells * some.n) as bar:
            found = measure_sensitivities(task, handle, some, space, bar.advance)
        found = replace(found, seconds=time.monotonic() - started)
        found.save(path)
        return found

    def _search(
        self,
        space: Space,
        table: CostTable,
        split: EvalSet,
        objectives: list[Objective],
        sensitivities: Sensitivities,
        seeds: list[Seed],
    ) -> None:
        config, reporter = self.config, self.reporter
        evaluator = Evaluator(self.task, self.handle, split)
        found = [seed.schedule for seed in seeds]
        search = Search(
            self.study, config.sampler, space, objectives, evaluator.evaluate, found, sensitivities, config.seed
        )
        search.enqueue(found[: config.seeds])
        done = len(finished_trials(self.study))
        known = f", {done} kept from before" if done else ""
        reporter.step(f"search: {config.trials} schedules on {split.n} calibration rows ({config.sampler}{known})")
        unpruned_ms, quality = table.predict(Schedule()), evaluator.unpruned().quality
        self.unpruned_quality = quality
        deadline = None if config.timeout_s is None else time.monotonic() + config.timeout_s
        best: TrialRecord | None = None
        with reporter.bar("trials", config.trials) as bar:
            bar.advance(done)
            for record in search.run(config.trials, deadline):
                bar.advance()
                within = record.quality >= 0.99 * quality
                if within and (best is None or record.predicted_ms < best.predicted_ms):
                    best = record
                    bar.best(f"best within 1 %: {unpruned_ms / best.predicted_ms:.2f}x")


def _sensitivity_units(space: Space, sensitivities: Sensitivities, table: CostTable, rows: int) -> float:
    """Cost of screening and grid, in evaluations of the unpruned model on `rows` rows.

    Each measurement runs the blocks from its own layer on.
    """
    whole = table.predict(Schedule())
    block = table.attention(space.counts[0], False) + table.mlp(space.counts[0])

    def share(layer: int, level: int, method: str) -> float:
        return (table.predict(Schedule([space.stage(layer, level, method)])) - layer * block) / whole

    screened = sum(share(*site, m) for site in screening_sites(space) for m in space.methods)
    grid = sum(
        share(layer, level, m)
        for layer in space.layers
        for level in range(1, len(space.keeps))
        for m in sensitivities.methods
    )
    return (screened * min(_SCREEN_SAMPLES, rows) + grid * sensitivities.samples) / rows
