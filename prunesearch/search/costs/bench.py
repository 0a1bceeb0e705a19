"""How each cost is priced before a schedule runs, measured when it does, or found out by an evaluation.

One class a row of `core.costs.COSTS`, which names it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import say
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.stage import ENCODER
from prunesearch.cost.costs import Costs
from prunesearch.cost.counting.cache_costs import CacheCosts
from prunesearch.cost.counting.flops import MacCosts, TowerMacs, count_macs
from prunesearch.cost.counting.memory import peak_activation_mib
from prunesearch.cost.counting.memory_costs import MemoryCosts
from prunesearch.cost.counting.size import SizeCosts
from prunesearch.cost.devices.device import kind_of
from prunesearch.cost.energy.pricing import EnergyCosts
from prunesearch.cost.energy.schedules import measure_schedule_energy
from prunesearch.cost.energy.window import EnergyMeter
from prunesearch.cost.shape import device_of
from prunesearch.cost.tables.percentile import MEDIAN
from prunesearch.cost.timing.samples import Samples
from prunesearch.cost.timing.validate import measure_schedules
from prunesearch.pruning.apply import Handle
from prunesearch.search.costs.latency import Across, LoadCosts
from prunesearch.study.config import RunConfig
from prunesearch.study.front_items import Measured
from prunesearch.study.setup import Setting
from prunesearch.tasks.base import Task

_MACS_OFF = 0.03  # of the counted multiply-adds; heads and poolers are in them, and not in the closed form
_ROUNDS = 10
_BEYOND = 2  # forwards above a percentile, at least


@dataclass(frozen=True)
class Bench:
    """What costs are priced and measured with.

    Attributes:
        setting: of the run; conditions of a measurement are its own.
        handle: of the task's model.
        tables: every load with its cost table; empty where there is none.
        meter: of the device's energy; None without one.
        seconds: wall time of a measurement of latency.
        keep: file of what is timed, until what comes of it is kept; None: none.
    """

    setting: Setting
    handle: Handle
    tables: Sequence[LoadCosts] = ()
    meter: EnergyMeter | None = None
    seconds: float = 25.0
    keep: Path | None = None

    @property
    def config(self) -> RunConfig:
        """What was asked for."""
        return self.setting.config

    @property
    def task(self) -> Task:
        """The model with its data."""
        return self.setting.task

    def under(self, index: int) -> Bench:
        """The same under one of the loads."""
        return self if index == 0 else replace(self, setting=self.setting.under(self.setting.loads[index]))


class Pricing:
    """What a cost is before, while and after a schedule runs; what a row cannot tell is None."""

    def costs(self, bench: Bench) -> Costs | None:
        """What prices schedules for the search; of a batch or an input, in the row's unit.

        Raises:
            PruneSearchError: if the cost cannot be told for this model or device.
        """
        return None

    def told(self, bench: Bench) -> Costs | None:
        """What prices the schedules of a front where nobody asked for this cost, at no expense."""
        return None

    def measure(self, bench: Bench, schedules: Sequence[Plan]) -> list[Measured] | None:
        """Measure schedules on the device at hand: all of them or none, since others cannot be compared."""
        return None

    def found(self, evaluation: Any) -> Measured | None:
        """What a `search.trials.evaluate.Evaluation` on the holdout split tells, of a cost known only after it."""
        return None


class LatencyPricing(Pricing):
    """Milliseconds of a forward: the median, or the percentile that the run minimises."""

    def costs(self, bench: Bench) -> Costs | None:
        """Of the only load, or what several come to together."""
        if not bench.tables:
            return None
        return bench.tables[0].costs if len(bench.tables) == 1 else Across(bench.tables, bench.config.across)

    def measure(self, bench: Bench, schedules: Sequence[Plan]) -> list[Measured]:
        """End to end, interleaved."""
        config, rounds = bench.config, _ROUNDS
        if config.percentile != MEDIAN:
            rounds = max(rounds, math.ceil(_BEYOND / (1 - config.percentile / 100)))
        samples = measure_schedules(
            bench.task.model,
            bench.task.timing_inputs(config.batch_size),
            list(schedules),
            time_budget_s=bench.seconds,
            min_rounds=rounds,
            label="re-measuring",
            mode=config.mode,
            concurrency=config.concurrency,
            keep=bench.keep,
            tolerance=config.promise.latency_error,
        )
        return [measured_latency(s, config.percentile) for s in samples]


def measured_latency(samples: Samples, percentile: float = MEDIAN) -> Measured:
    """The `percentile` of some timings, with their quantiles."""
    if percentile == MEDIAN:
        return Measured(value=samples.median_ms, p10=samples.p10_ms, p90=samples.p90_ms)
    value = samples.quantile_ms(percentile / 100)
    return Measured(value=value, median=samples.median_ms, p10=samples.p10_ms, p90=samples.p90_ms)


class EnergyPricing(Pricing):
    """Gross millijoules of an input, by the powers that were fitted to the first load's table."""

    def costs(self, bench: Bench) -> Costs | None:
        """None where the table has no energy."""
        table = bench.tables[0].table if bench.tables else None
        if table is None or table.energy is None:
            return None
        table.energy.check_valid()
        return EnergyCosts(table, table.energy)

    def measure(self, bench: Bench, schedules: Sequence[Plan]) -> list[Measured] | None:
        """Over windows by the device's meter; None without one, and where a window is not valid."""
        if bench.meter is None:
            return None
        found = measure_schedule_energy(
            bench.meter,
            bench.task.model,
            bench.task.timing_inputs(bench.config.batch_size),
            schedules,
            mode=bench.config.mode,
            window_s=bench.config.energy_window_s,
        )
        doubts = {result.why for result in found.results.values() if not result.valid}
        if doubts:
            said = "; ".join(sorted(doubts))
            say(f"energy is not measured validly, and stays predicted: {said}")
            return None
        results = [found.results[schedule] for schedule in schedules]
        if any(result.low_mj is None or result.high_mj is None for result in results):
            return None
        return [
            Measured(value=result.energy_mj, low=result.low_mj, high=result.high_mj, net=result.net_mj)
            for result in results
        ]


class MacPricing(Pricing):
    """Multiply-adds of an input, by the closed form."""

    def costs(self, bench: Bench) -> Costs:
        """The closed form, where it holds.

        Raises:
            PruneSearchError: if a count of a forward says otherwise: the blocks compute more than the closed form
                knows of (position products, an encoder's decoder, convolutions).
        """
        task = bench.task
        costs, plan = self.told(bench) or self.behind_a_tower(bench), Plan()
        if costs.part != ENCODER:  # whose own share was read off the unpruned forward: another must say that it holds
            front = "tower/0:0.7 key_norm+drop > " if costs.tower is not None else ""
            plan = Plan.parse(f"{front}{costs.part}/{costs.geometry.depth // 2}:0.5 key_norm+drop")
        with bench.handle.under(plan):
            closed, counted = costs.predict(plan), count_macs(task.model, task.timing_inputs(1)) / 1e9
        if abs(closed - counted) > _MACS_OFF * counted:
            raise PruneSearchError(
                f"multiply-adds of {type(task.model).__name__} have no closed form here ({closed:.3g} GMACs, "
                f"{counted:.3g} counted): use --objective latency, and prunesearch flops for a schedule by hand"
            )
        return costs

    def told(self, bench: Bench) -> MacCosts | None:
        """The closed form of embeddings, blocks and what follows in the encoder; None of a decoder behind a tower."""
        geometry = bench.setting.geometry
        return MacCosts.of(bench.handle.encoder, bench.task.tokens) if geometry.part == ENCODER else None

    def behind_a_tower(self, bench: Bench) -> MacCosts:
        """The closed form of a decoder's blocks, and what is counted of everything else that a prompt goes through.

        Of a tower where tokens may leave, its blocks and projector have a closed form too.
        """
        task, encoder, geometry = bench.task, bench.handle.encoder, bench.setting.geometry
        blocks = MacCosts.of(encoder, task.tokens, protected=geometry.protected)
        if geometry.tower is not None:
            blocks = replace(blocks, passed=geometry.tower, tower=TowerMacs.of(encoder, geometry.tower))
        with bench.handle.under(Plan()):
            counted = count_macs(task.model, task.timing_inputs(1))
        return replace(blocks, around=round(counted - 1e9 * blocks.predict(Plan())))


class SizePricing(Pricing):
    """MB of the model's weights."""

    def costs(self, bench: Bench) -> SizeCosts:
        """Counted."""
        return self.told(bench)

    def told(self, bench: Bench) -> SizeCosts:
        """Counted."""
        return SizeCosts(bench.task.model, bench.setting.geometry)


class MemoryPricing(Pricing):
    """MiB of a batch's activations at their peak, weights and inputs apart; of a decoder, its cache of a prompt."""

    def costs(self, bench: Bench) -> Costs:
        """Estimated from the shapes in a forward, or counted."""
        task, geometry = bench.task, bench.setting.geometry
        if geometry.part != ENCODER:
            say("memory: keys and values of a batch of prompts in the cache, counted; what is written adds to them")
            return CacheCosts.of(bench.handle.encoder, geometry, bench.config.batch_size)
        say("memory: peak activations, estimated from the shapes of a forward")
        return MemoryCosts(task.model, bench.handle, task.timing_inputs(bench.config.batch_size), task.tokens)

    def measure(self, bench: Bench, schedules: Sequence[Plan]) -> list[Measured] | None:
        """Measured where the device tells; elsewhere the estimate stands."""
        inputs = bench.task.timing_inputs(bench.config.batch_size)
        if bench.setting.geometry.part != ENCODER or not kind_of(device_of(inputs)).measures_memory:
            return None
        found = []
        for schedule in schedules:
            with bench.handle.under(schedule):
                found.append(Measured(value=peak_activation_mib(bench.task.model, inputs).value_mib))
        return found
