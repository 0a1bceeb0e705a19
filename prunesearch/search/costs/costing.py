"""What schedules cost in a run: its tables, one for each load, and every cost that is minimised or bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunesearch.core.costs import COSTS
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import say, step
from prunesearch.core.plans.plan import Options, Plan, variant_of
from prunesearch.core.plans.stage import ENCODER
from prunesearch.core.tables.registry import FREE, TOKENS
from prunesearch.cost.costs import Costs
from prunesearch.cost.counting.flops import MacCosts
from prunesearch.cost.energy.schedules import FITTED, fit_table_energy
from prunesearch.cost.energy.window import EnergyMeter
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.percentile import MEDIAN, tail_of
from prunesearch.cost.tables.plateaus import block_curve, plateaus
from prunesearch.pruning.apply import Handle, runnable
from prunesearch.search.costs.bench import Bench, MacPricing
from prunesearch.search.costs.half_options import half_costs_missing, options_to_search
from prunesearch.search.costs.kept_halves import with_kept
from prunesearch.search.costs.latency import Across, LoadCosts
from prunesearch.search.costs.objectives import Objective, make_objectives
from prunesearch.search.costs.precisions import Variants, variants_to_search
from prunesearch.search.costs.study_table import cost_table
from prunesearch.search.space.plan_space import PlanSpace
from prunesearch.search.space.space import Space, SpaceFile
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.settings.loads import Load
from prunesearch.study.setup import Setting

_BY_MACS = (
    "nothing is ranked by the cost table: schedules are sought by multiply-adds, and timed end to end for the front"
)


@dataclass(frozen=True)
class Costing:
    """The costs of a run.

    Attributes:
        table: of the first load, with the energy of its pieces where that is asked for.
        loads: every load with its table.
        objectives: what is minimised, and bounds.
        space: what is worth proposing: methods that run, counts that differ in cost, precisions that are here.
    """

    table: CostTable
    loads: list[LoadCosts]
    objectives: list[Objective]
    space: PlanSpace

    def costs_of(self, name: str) -> Costs | None:
        """The costs of that name; None if the run has no use for them."""
        return next((o.costs for o in self.objectives if o.name == name), None)

    @property
    def ranking_note(self) -> str:
        """What the schedules were sought by, where a table was not fit for it; empty otherwise."""
        broken = next((load.table.broken_promise for load in self.loads if load.macs is not None), "")
        return f"{_BY_MACS}; {broken}" if broken else ""

    @property
    def across(self) -> Across | None:
        """How the latencies of several loads become one; None for one load."""
        latency = self.costs_of("latency")
        return latency if isinstance(latency, Across) else None

    @property
    def unpruned_ms(self) -> float:
        """The unpruned model's latency, as it is minimised."""
        return next(o.costs.predict(Plan()) for o in self.objectives if o.name == "latency")


def free_of(config: RunConfig, file: SpaceFile) -> Sequence[str]:
    """What plans of a run may do: as it was asked for, or the space's file says."""
    return file.free or FREE if config.free is None else config.free


@dataclass
class Coster:
    """Finds the costs of a run; what was measured before is kept.

    Attributes:
        folder: of the study, where the tables are.
        handle: of the setting's model.
        space: of the run, as its file has it.
        meter: of the device's energy, where that is asked for and the device is at hand.
    """

    setting: Setting
    folder: StudyFolder
    handle: Handle
    space: Space
    meter: EnergyMeter | None

    def find(self) -> Costing:
        """Read or measure all tables, and price by them what the configuration names.

        Raises:
            PruneSearchError: if a cost is asked for that the device, or its profile, cannot tell.
        """
        config = self.setting.config
        free = free_of(config, self.space.file)
        variants: Variants = variants_to_search(self.setting, self.handle) if FREE[1] in free else [()]
        options = options_to_search(self.setting, self.handle, self.folder, self.space.file, free)
        if not options and len(variants) == 1 and TOKENS not in free:
            raise PruneSearchError(f"--free {','.join(free)} leaves nothing to search here: add {TOKENS}")
        loads = [self._load(load, variants, options) for load in self.setting.loads]
        table = loads[0].table
        _check_had(table, variants)
        options = with_kept(options, table, [] if half_costs_missing(self.setting, self.space.file) else variants)
        methods = runnable(self.space.methods, str(table.conditions["attention"]))
        known = [changes for changes in variants if all(variant_of(changes) in load.table.variants for load in loads)]
        if config.precision is not None:  # a table of before may lack one, and says so
            known = variants
            for load in loads:
                list(map(load.table.under, variants))
        stages = self.space.with_methods(methods)
        space = PlanSpace(stages if TOKENS in free else stages.without_stages(), known, config.dtype, options)
        if len(loads) == 1:  # with several, what saves nothing under one may save under another
            space = self._at_edges(space, table)
        several = {load.name: load.costs for load in loads} if len(loads) > 1 else None
        objectives = make_objectives(config.objectives, config.budget, self._costs(loads), config.constraints, several)
        return Costing(table, loads, objectives, space)

    def _load(self, load: Load, variants: Variants, options: Options) -> LoadCosts:
        """One load's table; the first has the energy."""
        setting, first = self.setting.under(load), load == self.setting.loads[0]
        config, task, geometry = setting.config, setting.task, setting.geometry
        sizes = geometry.depth, geometry.tokens, geometry.protected
        space = self.space.file.fit(*sizes, self.space.methods, geometry.tower)
        path = self.folder.cost_table
        if not first:
            path = path.with_name(f"{path.stem}-b{load.batch_size}-n{task.tokens}{path.suffix}")
        announce = step if first else say
        table = cost_table(path, setting, self.handle, space, announce, variants, options)
        if first and config.needs_energy and not self._energy_known(table):
            table = self._with_energy(table)
        tail = None
        if config.percentile != MEDIAN:
            tail = tail_of(table, config.percentile)
            say(
                f"percentile {tail.percentile:g}: {tail.factor:.3f} x the median (mean error {tail.mape:.1%}, "
                f"{tail.coverage:.1%} of {tail.timings} unseen forwards took no longer)"
            )
        macs = None
        if table.broken_promise:
            macs = self._macs(setting)
            say(f"{_BY_MACS}; {table.broken_promise} (close what else runs here, or give --table-time)")
        return LoadCosts(load.batch_size, task.tokens, load.weight, table, tail, macs)

    def _macs(self, setting: Setting) -> MacCosts:
        """The closed form, of a decoder that of all that a prompt goes through."""
        if setting.geometry.part != ENCODER:
            return MacPricing().behind_a_tower(Bench(setting, self.handle))
        return MacCosts.of(self.handle.encoder, setting.task.tokens, protected=setting.geometry.protected)

    def _at_edges(self, space: PlanSpace, table: CostTable) -> PlanSpace:
        """Move counts to the edges of the table's plateaus, where more tokens cost the same."""
        if table.noise.noisy or table.broken_promise:  # noise makes plateaus of its own
            return space
        found = space.at_edges(plateaus(block_curve(table, biased=False)))
        before = len(space.schedules.counts)
        gone = before - len(found.schedules.counts)
        if gone:
            say(f"{gone} of {before - 1} token counts save nothing here: left out")
        return found

    def _costs(self, loads: list[LoadCosts]) -> dict[str, Costs]:
        """Every cost that the run has to know before it evaluates, by name."""
        bench, wanted = Bench(self.setting, self.handle, loads, self.meter), self.setting.config.costs
        known = {name: row.make_pricing().costs(bench) for name, row in COSTS.entries().items() if name in wanted}
        return {name: costs for name, costs in known.items() if costs is not None}

    def _energy_known(self, table: CostTable) -> bool:
        """Whether the table has energy; one that is not valid is measured again where it can be."""
        return table.energy is not None and (table.energy.valid or not self.setting.target.here)

    def _with_energy(self, table: CostTable) -> CostTable:
        """Measure the energy of a few schedules and fit the table's powers.

        Raises:
            PruneSearchError: if the device is not at hand and its profile has no energy.
        """
        config, task, target = self.setting.config, self.setting.task, self.setting.target
        if self.meter is None or not target.here:
            profile = target.profile
            reason = None if profile is None else profile.energy.reason
            raise PruneSearchError(
                f"profile '{config.device}' has no energy for this model ({reason or 'not measured'}): measure it "
                "there with prunesearch profile --energy, or use --objective latency"
            )
        say(f"energy: {FITTED} schedules over windows of {config.energy_window_s:.0f} s")
        fit = fit_table_energy(
            table,
            self.meter,
            task.model,
            task.timing_inputs(self.setting.loads[0].batch_size),
            methods=runnable(self.space.methods, str(table.conditions["attention"])),
            window_s=config.energy_window_s,
            seed=config.seed,
        )
        table = CostTable(**{**dict(table), "energy": fit})
        table.save(self.folder.cost_table)
        say(f"energy: mean error {fit.validation.mape:.1%}, worst {fit.validation.worst:.1%}")
        return table


def _check_had(table: CostTable, variants: Variants) -> None:
    """Refuse to go on with a study whose plans are in precisions that are not here: its trials are of them."""
    lost = [name for name in table.variants if name not in set(map(variant_of, variants))]
    if lost:
        raise PruneSearchError(
            f"the study was begun with plans in {' and '.join(lost)}, which cannot be had here: go on where they can, "
            "or begin another --study"
        )
