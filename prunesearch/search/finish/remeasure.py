"""The costs of the candidates, measured end to end where the device is at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prunesearch.core.events import say, step
from prunesearch.core.schedule import Schedule
from prunesearch.cost.counting.memory import peak_activation_mib
from prunesearch.cost.devices.device import kind_of
from prunesearch.cost.energy.result import EnergyResult
from prunesearch.cost.energy.schedules import measure_schedule_energy
from prunesearch.cost.energy.window import EnergyMeter
from prunesearch.cost.shape import device_of
from prunesearch.cost.tables.percentile import MEDIAN
from prunesearch.cost.timing.samples import Samples
from prunesearch.cost.timing.validate import measure_schedules
from prunesearch.pruning.apply import Handle
from prunesearch.search.costs.costing import Costing
from prunesearch.study.setup import Setting
from prunesearch.tasks.batches import Inputs

_ROUNDS = 10
_BEYOND = 2  # forwards above a percentile, at least


@dataclass(frozen=True)
class Measured:
    """What was measured of one schedule: latencies by load; None where the device, or its counter, is not at hand."""

    latencies: list[Samples] | None = None
    energy: EnergyResult | None = None
    memory_mib: float | None = None


@dataclass
class Remeasurer:
    """Measures schedules on the device at hand."""

    setting: Setting
    handle: Handle
    costing: Costing
    meter: EnergyMeter | None

    def measure(self, schedules: list[Schedule]) -> list[Measured]:
        """Latency under every load, energy where there is a meter, memory where it is an objective and can be."""
        step(f"re-measuring {len(schedules)} schedules end to end")
        by_load = [self._latencies(load, schedules) for load in range(len(self.costing.loads))]
        latencies = [list(samples) for samples in zip(*by_load, strict=True)]
        energies = self._energies(schedules)
        memories = [self._memory(schedule) for schedule in schedules]
        return [Measured(*costs) for costs in zip(latencies, energies, memories, strict=True)]

    def _latencies(self, index: int, schedules: list[Schedule]) -> list[Samples]:
        load, config = self.costing.loads[index], self.setting.config
        task = self.setting.under(self.setting.loads[index]).task
        rounds = _ROUNDS
        if config.percentile != MEDIAN:
            rounds = max(rounds, math.ceil(_BEYOND / (1 - config.percentile / 100)))
        return measure_schedules(
            task.model,
            task.timing_inputs(load.batch_size),
            schedules,
            time_budget_s=config.table_seconds / 2,
            min_rounds=rounds,
            label="re-measuring",
            mode=config.mode,
            concurrency=config.concurrency,
        )

    def _energies(self, schedules: list[Schedule]) -> list[EnergyResult | None]:
        """All of them or none: points of which some were measured and some were not cannot be compared."""
        if self.meter is None:
            return [None for _ in schedules]
        config = self.setting.config
        energies = measure_schedule_energy(
            self.meter,
            self.setting.task.model,
            self._inputs(),
            schedules,
            mode=config.mode,
            window_s=config.energy_window_s,
        )
        doubts = {result.why for result in energies.results.values() if not result.valid}
        if doubts:
            say(f"energy is not measured validly, and stays predicted: {'; '.join(sorted(doubts))}")
            return [None for _ in schedules]
        return [energies.results[schedule] for schedule in schedules]

    def _inputs(self) -> Inputs:
        """A batch of the first load, which energy and memory are of."""
        return self.setting.task.timing_inputs(self.setting.loads[0].batch_size)

    def _memory(self, schedule: Schedule) -> float | None:
        """Measured where the device tells; elsewhere the estimate stands."""
        inputs = self._inputs()
        if not kind_of(device_of(inputs)).measures_memory or all(o.name != "memory" for o in self.costing.objectives):
            return None
        with self.handle.under(schedule):
            return peak_activation_mib(self.setting.task.model, inputs).value_mib
