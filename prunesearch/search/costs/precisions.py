"""Which precisions a run searches: those of fewer bits that the runtime at hand really has, or those asked for."""

from __future__ import annotations

import importlib.util

import torch

from prunesearch.core.costs import find_cost
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import say
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.tables.registry import PRECISIONS, RUNTIMES
from prunesearch.cost.shape import device_of
from prunesearch.pruning.apply import Handle
from prunesearch.search.costs.in_runtime import unjudged_in
from prunesearch.study.config import RunConfig
from prunesearch.study.setup import Setting

Variants = list[tuple[Change, ...]]


def variants_to_search(setting: Setting, handle: Handle) -> Variants:
    """The changes of the model that are searched; the first is none.

    Without `--precision`, those that are here, on a device at hand; where a cost is asked for that is not told apart by
    precision, none. What fails on a batch is left out.

    Raises:
        PruneSearchError: for a precision that was asked for and cannot be had, with the reason.
    """
    config = setting.config
    asked = config.precision is not None
    names = [name for name in (config.precision or narrower(config)) if name != config.dtype]
    found: Variants = [()]
    for name in names:
        changes = (Change.parse(name),)
        why = _absent(setting, name) or _fails(setting, handle, changes)
        if not why:
            found.append(changes)
        elif asked:
            raise PruneSearchError(f"--precision {name} cannot be had ({why}): use --precision {config.dtype}")
        elif why == _no_quantiser(config.mode):
            say(f"{name} is left out: {why}")
    if len(found) > 1:
        device = device_of(setting.task.timing_inputs(1))
        made = [f"{changes[0]} ({PRECISIONS.load(str(changes[0])).by(device)})" for changes in found[1:]]
        row = RUNTIMES.entry(config.mode)
        there = "" if row.by_torch else f" while it searches; the front is judged in {row.shown}'s own"
        say(f"precisions: {config.dtype}, {', '.join(made)}{there}")
    return found


def narrower(config: RunConfig) -> list[str]:
    """The precisions of fewer bits than the model's own."""
    own = PRECISIONS.entry(config.dtype).bits
    return [name for name in PRECISIONS if PRECISIONS.entry(name).bits < own]


def _absent(setting: Setting, name: str) -> str:
    config = setting.config
    if not setting.target.here or setting.target.profile is not None:
        return f"costs on '{config.device}' are known in {config.dtype} alone"
    if config.needs_energy:
        return f"energy is fitted to schedules in {config.dtype} alone"
    blind = next((cost for cost in sorted(config.costs) if find_cost(cost).of_activations), None)
    if blind is not None and not PRECISIONS.entry(name).linear:
        return f"{blind} is estimated with activations in {config.dtype} alone"
    row = RUNTIMES.entry(config.mode)
    if row.precisions is not None and name not in row.precisions:
        return f"costs in '{config.mode}' are measured in {' and '.join((config.dtype, *row.precisions))}"
    if row.precisions and (missing := _no_quantiser(config.mode)):
        return missing
    if row.precisions and (unjudged := unjudged_in(config.mode, setting.task)):
        return f"what '{config.mode}' answers in {name} is judged there, but {unjudged}"
    why: str = PRECISIONS.load(name).absent(device_of(setting.task.timing_inputs(1)))
    return why


def _no_quantiser(mode: str) -> str:
    """Why a runtime's own quantiser is not here, in a clause; empty where it is, or there is none."""
    row = RUNTIMES.entry(mode)
    if not row.quantiser or importlib.util.find_spec(row.quantiser) is not None:
        return ""
    return f"{row.shown}'s quantiser is the package {row.quantiser}, not here: pip install 'prunesearch[{mode}]'"


def _fails(setting: Setting, handle: Handle, changes: tuple[Change, ...]) -> str:
    """Why a batch does not go through the model in that precision; empty if it does."""
    try:
        with torch.inference_mode(), handle.under(Plan(changes=changes)):
            setting.task.model(**setting.task.timing_inputs(1))
    except Exception as error:  # a library or a model that was not made for it may raise anything
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"a forward fails: {lines[0][:120]}"
    return ""
