"""Energy of whole forwards under schedules, and the fit that prices all others from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.devices.device import kind_of
from prunesearch.cost.energy.counters import EnergyCounter, open_counter
from prunesearch.cost.energy.fit import fit_energy
from prunesearch.cost.energy.pricing import by_kind
from prunesearch.cost.energy.window import EnergyMeter, EnergyRun, measure_energy
from prunesearch.cost.shape import device_of
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.energy_fit import EnergyFit
from prunesearch.cost.timing.modes import Eager, runner_for
from prunesearch.cost.timing.unseen import draw_unseen
from prunesearch.pruning.borders import borrowed

FITTED = 9  # schedules that the powers are fitted to, the unpruned model among them


def open_meter(
    device: str | torch.device, find: Callable[[str | torch.device], EnergyCounter | Unavailable] | None = None
) -> EnergyMeter | Unavailable:
    """A meter of `device`, whose counter `find` finds (None: `open_counter`), or why there is none."""
    counter = (find or open_counter)(device)
    return counter if isinstance(counter, Unavailable) else EnergyMeter(counter)


def measure_schedule_energy(
    meter: EnergyMeter,
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    schedules: Sequence[Plan | Schedule],
    *,
    mode: str = "eager",
    window_s: float = 5.0,
    repeats: int = 3,
) -> EnergyRun[Plan | Schedule]:
    """Gross and net mJ of ONE ROW of the batch under each schedule, interleaved; see `measure_energy`.

    Args:
        meter: of the device that the model lies on.
        model: a supported model; left as it was.
        inputs: a batch.
        schedules: what to measure.
        mode: a name in `RUNTIMES`.
        window_s: least length of a window in seconds.
        repeats: windows of each schedule.
    """
    device = device_of(inputs)
    kind = kind_of(device)
    with borrowed(model) as handle:
        runner = runner_for(mode, model, handle, inputs)
        return measure_energy(
            meter,
            {schedule: _job(runner, schedule) for schedule in schedules},
            rows=len(next(iter(inputs.values()))),
            window_s=window_s,
            repeats=repeats,
            synchronize=lambda: kind.synchronize(device),
            slowed=lambda: kind.slowed(device),
        )


def _job(runner: Eager, schedule: Plan | Schedule) -> Callable[[], object]:
    def forward() -> object:
        if runner.current != schedule:
            runner.prepare(schedule)
        return runner.run()

    return forward


def fit_table_energy(
    table: CostTable,
    meter: EnergyMeter,
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    methods: Sequence[str],
    window_s: float = 5.0,
    repeats: int = 3,
    schedules: int = FITTED,
    seed: int = 0,
    measure: Callable[..., EnergyRun[Plan | Schedule]] = measure_schedule_energy,
) -> EnergyFit:
    """Measure a few schedules' energy and fit the power of each kind of piece, for the conditions of `table`.

    Args:
        methods: what the schedules are drawn from.
        schedules: how many are measured, the unpruned model among them.
        seed: of the draw.
        measure: as `measure_schedule_energy`.
    """
    widths = {cell.n for cell in table.cells.mlp}
    chosen: list[Plan | Schedule] = [
        Schedule(),
        *draw_unseen(table.shape, widths, methods, count=schedules - 1, seed=seed + 2, between=False),
    ]
    run = measure(
        meter,
        model,
        inputs,
        chosen,
        mode=table.conditions["mode"],
        window_s=window_s,
        repeats=repeats,
    )
    return fit_energy(run, {schedule: by_kind(table, schedule.flow(table.geometry)) for schedule in chosen})
