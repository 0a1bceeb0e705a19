"""`prunesearch profile`: measure cost tables of model shapes on the device at hand and keep them in a profile."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import say
from prunesearch.core.plans.amount import kept_count
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import EFFORTS
from prunesearch.core.tables.row_kinds import EffortRow
from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.devices.device import describe_device, kind_called
from prunesearch.cost.energy.schedules import fit_table_energy, open_meter
from prunesearch.cost.energy.window import EnergyMeter
from prunesearch.cost.measure import measure_table
from prunesearch.cost.shape import Shape, conditions_of, describe_shape
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.device_profile import (
    Energy,
    OutOfMemory,
    Profile,
    check_profile_name,
    spec_called,
    user_root,
)
from prunesearch.cost.tables.energy_fit import EnergyFit
from prunesearch.cost.timing.modes import check_measurable, mode_of
from prunesearch.pruning.apply import runnable
from prunesearch.pruning.borders import borrowed
from prunesearch.report.curves import check_plot, write_curves
from prunesearch.search.space.space import SpaceFile
from prunesearch.tasks.batching.batches import Inputs
from prunesearch.tasks.loading import check_attention, check_device, check_dtype
from prunesearch.tasks.shapes import load_shape, random_inputs, shape_config
from prunesearch.tasks.table import SHAPES

_LEAST_KEEP = 0.05  # of the reducible tokens: a margin below what spaces ask for


@dataclass(frozen=True)
class ProfileConfig:
    """What is to be measured.

    Args:
        models: names of built-in shapes, folders or Hub ids.
        device: cpu, cuda or cuda:N.
        name: of the profile; None for one made from the device's name.
        batch_sizes, dtypes: every combination is measured.
        attention: sdpa, eager or flash.
        mode: a name in `RUNTIMES`, by torch; None: eager.
        runtime: torch, or another name in `RUNTIMES`, in place of a mode.
        concurrency: forwards under way at once, the measured one among them.
        length: tokens of a text; None for 128.
        effort: a name in `EFFORTS`; None: normal.
        quick, full: those efforts.
        energy: measure energy too, where a counter is readable.
        redo: measure again what the profile has.
        root: folder of profiles; None for the user's.
        patience_s: how long to wait for a busy machine before each table.
        plot: file for the latency-token curves of all tables, `.html` or `.png`.
    """

    models: Sequence[str] = tuple(SHAPES)
    device: str = "cpu"
    name: str | None = None
    batch_sizes: Sequence[int] = (1, 8, 32)
    dtypes: Sequence[str] = ("float32",)
    attention: str = "sdpa"
    mode: str | None = None
    runtime: str | None = None
    concurrency: int = 1
    length: int | None = None
    effort: str | None = None
    quick: bool = False
    full: bool = False
    energy: bool = False
    redo: bool = False
    root: Path | None = None
    patience_s: float = 60.0
    plot: Path | None = None

    @property
    def executed(self) -> str:
        """What runs the models: a name in `RUNTIMES`."""
        return mode_of(self.mode, self.runtime) or "eager"

    @property
    def work(self) -> EffortRow:
        """How much goes into a table.

        Raises:
            PruneSearchError: if several efforts are asked for, or one that is none.
        """
        asked = [name for name, on in ((self.effort, self.effort), ("quick", self.quick), ("full", self.full)) if on]
        if len(set(asked)) > 1:
            raise PruneSearchError(f"efforts exclude each other, but got {' and '.join(map(str, asked))}: choose one")
        return EFFORTS.entry(asked[0] or "normal" if asked else "normal")

    def check(self) -> None:
        """Raise `PruneSearchError` for what cannot be measured, before anything is."""
        check_device(self.device)
        for model in self.models:
            shape_config(model)
        _ = self.work
        for dtype in self.dtypes:
            check_dtype(dtype)
        check_measurable(self.executed, self.device)
        check_attention(self.attention)
        for rows in self.batch_sizes:
            if rows < 1:
                raise PruneSearchError(f"`batch size >= 1` must hold, but got {rows}")
        if self.concurrency < 1:
            raise PruneSearchError(f"`concurrency >= 1` must hold, but got {self.concurrency}")
        if self.name is not None:
            check_profile_name(self.name)
        if self.plot is not None:
            check_plot(self.plot)


def profile(
    config: ProfileConfig,
    meter: EnergyMeter | Unavailable | None = None,
    fit: Callable[..., EnergyFit] = fit_table_energy,
) -> Profile:
    """Measure every model, dtype and batch size that the profile lacks; each table is written when it is done.

    Interrupted, the same call goes on where it was.

    Args:
        meter: of the device's energy, or why there is none; None opens the device's own if energy is asked for.
        fit: as `fit_table_energy`.

    Raises:
        PruneSearchError: for bad input, in one line.
    """
    config.check()
    found = open_profile(config)
    cells = list(itertools.product(config.models, config.dtypes, config.batch_sizes))
    say(f"profile {found.name}: {len(cells)} tables on {found.device['name']}, {_bound(config, len(cells))}")
    opened = _energy_meter(config, found, meter) if config.energy else None
    try:
        for number, cell in enumerate(cells, start=1):
            model, dtype, rows = cell
            label = f"[{number}/{len(cells)}] {model}, batch {rows}, {dtype}"
            _measure_cell(config, found, opened, cell, label, fit)
    finally:
        if opened is not None and opened is not meter:
            opened.counter.close()
    if config.plot is not None:
        write_curves(config.plot, [found.read(entry) for entry in found.tables], found.name)
        say(f"written: {config.plot}")
    return found


def _energy_meter(config: ProfileConfig, found: Profile, meter: EnergyMeter | Unavailable | None) -> EnergyMeter | None:
    """The meter of the device; where there is none, the profile says why, and latency is measured all the same."""
    opened = meter or open_meter(config.device)
    if isinstance(opened, Unavailable):
        found.energy = Energy(status="unavailable", reason=opened.reason)
        if found.tables or found.out_of_memory:  # else there is nothing yet that it could be said of
            found.save()
        say(f"energy is unavailable: {opened.reason}")
        return None
    found.energy = Energy(status="measured", source=f"{opened.counter.name} ({opened.counter.covers})")
    return opened


def _bound(config: ProfileConfig, cells: int) -> str:
    minutes = cells * config.work.target / 60
    return f"about {minutes:.0f} min" if minutes >= 1 else f"about {60 * minutes:.0f} s"


def open_profile(config: ProfileConfig, facts: dict[str, Any] | None = None) -> Profile:
    """The profile of the device, as it is on disk or new; its facts are those of the device now (None: looked up)."""
    facts = facts or describe_device(config.device)
    name = config.name or kind_called(facts["kind"]).profile_name(facts)
    folder = (config.root or user_root()) / check_profile_name(name)
    spec = spec_called(facts["name"], facts.get("sm_count"))
    if (folder / "profile.json").exists():
        found = Profile.load(folder)
        same = found.device.get("name") == facts["name"] or (spec is not None and found.spec == spec)
        if not same:
            raise PruneSearchError(
                f"profile '{name}' is of {found.device.get('name')}, but this device is {facts['name']}: "
                "choose another --name"
            )
        found.device = facts
        return found
    energy = Energy(status="unavailable", reason="not asked for: add --energy")
    # with the datasheet, models that nobody measured here can still be estimated
    return Profile(name=name, status="measured", device=facts, spec=spec, energy=energy, folder=folder)


def grid(shape: Shape, counts: int) -> list[int]:
    """Token counts to measure: `counts` evenly spaced ones below the full width, and those the default space asks for.

    On a GPU whole tiles matter, so multiples of 8 are among them; a few just below the full width are always.
    """
    reducible = shape.tokens - shape.protected
    keeps = {_LEAST_KEEP, *SpaceFile.load(None).keep}
    asked = {shape.protected + kept_count(k, reducible) for k in keeps}
    step = max(1, reducible // counts)
    even = range(shape.protected + step, shape.tokens, step)
    return sorted(n for n in asked | set(even) if shape.protected < n < shape.tokens)


def _measure_cell(
    config: ProfileConfig,
    found: Profile,
    meter: EnergyMeter | None,
    cell: tuple[str, str, int],
    label: str,
    fit: Callable[..., EnergyFit],
) -> None:
    model, dtype, rows = cell
    attention = check_attention(config.attention)
    built = load_shape(model, attention=attention, dtype=check_dtype(dtype), device=config.device)
    shape, conditions = _facts(built, random_inputs(built, 1, config.length), rows, config)
    if found.has(shape, conditions, energy=meter is not None) and not config.redo:
        say(f"{label}: kept from before")
        return
    started, unfinished = time.monotonic(), found.folder / "unfinished.part"
    try:
        table = _measure(config, built, random_inputs(built, rows, config.length), shape, meter, label, fit, unfinished)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        found.put_out_of_memory(OutOfMemory(model=_name(model), shape=shape, conditions=conditions))
        say(f"{label}: out of memory, recorded as such")
        return
    found.put(CostTable(**{**dict(table), "model": _name(model), "source": f"profile '{found.name}'"}))
    unfinished.unlink(missing_ok=True)
    say(f"{label}: {describe(table)} ({time.monotonic() - started:.0f} s)")


def _name(model: str) -> str:
    """What a model is called in a profile: paths of this machine stay out."""
    return model if model in SHAPES or not os.path.isdir(model) else Path(model).resolve().name


def _facts(built: nn.Module, one: Inputs, rows: int, config: ProfileConfig) -> tuple[Shape, dict[str, Any]]:
    """Shape and conditions of a model at a batch size, read off a single row."""
    with borrowed(built) as handle:
        shape = describe_shape(built, handle, one)
        found = conditions_of(handle, one, shape.tokens, config.executed, config.concurrency)
        return shape, {**found, "batch_size": rows}


def _measure(
    config: ProfileConfig,
    built: nn.Module,
    inputs: Inputs,
    shape: Shape,
    meter: EnergyMeter | None,
    label: str,
    fit: Callable[..., EnergyFit],
    unfinished: Path,
) -> CostTable:
    effort = config.work
    bar_label = label.partition("] ")[2]
    methods = runnable(SpaceFile.load(None).methods(), check_attention(config.attention))
    table = measure_table(
        built,
        inputs,
        counts=grid(shape, effort.counts),
        methods=methods,
        time_budget_s=effort.target,
        mode=config.executed,
        concurrency=config.concurrency,
        min_rounds=effort.rounds,
        patience_s=config.patience_s,
        label=f"measuring {bar_label}",
        keep=unfinished,
    )
    if meter is None:
        return table
    fitted = fit(table, meter, built, inputs, methods=methods, repeats=effort.windows)
    return CostTable(**{**dict(table), "energy": fitted})


def describe(table: CostTable) -> str:
    """One line about a table: the unpruned latency, and how far it can be trusted."""
    text = f"{table.predict(Schedule()):.4g} ms unpruned"
    if table.validation is not None:
        v = table.validation
        text += f", mean error {v.mape:.1%}, worst {v.worst:.1%}, rank {v.rank_correlation:.3f} on {v.unseen} unseen"
    if table.broken_promise:
        text += f"; NOT to be ranked by: {table.broken_promise}"
    if table.noise.noisy:
        text += f"; noisy: {table.noise.why}"
    return text


def out_of_memory(error: Exception) -> bool:
    """True if the device (or the machine) had no memory left; torch's CPU allocator says so in a RuntimeError."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(w in str(error).lower() for w in words)
