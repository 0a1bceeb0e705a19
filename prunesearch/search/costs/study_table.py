"""The study's cost table: read back, measured and validated now, read from a profile, or estimated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import say
from prunesearch.core.plans.plan import Change, Options
from prunesearch.core.plans.stage import parse_method
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.cost.devices.device import describe_device
from prunesearch.cost.estimate.estimate import estimate_table
from prunesearch.cost.measure import measure_table
from prunesearch.cost.shape import conditions_of, describe_shape
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.device_profile import Profile
from prunesearch.pruning.apply import Handle, runnable
from prunesearch.search.space.space import Space
from prunesearch.study.setup import Setting
from prunesearch.tasks.base import Task
from prunesearch.tasks.loading import check_attention


def cost_table(
    path: Path,
    setting: Setting,
    handle: Handle,
    space: Space,
    announce: Callable[[str], None],
    variants: Sequence[tuple[Change, ...]] = ((),),
    options: Options | None = None,
) -> CostTable:
    """Return the cost table of a setting's model under its load, with its error inside.

    Args:
        path: where the study keeps the table; it is read from there, or written.
        setting: under the load that counts.
        handle: of its model.
        space: its counts are measured.
        announce: told where the table comes from.
        variants: changes of the model that a table is measured with.
        options: of halves of its blocks, that it is measured with.

    Raises:
        PruneSearchError: if a table that is there was measured under other conditions or on another device, or the
            device's profile has none that fits; with the `prunesearch profile` line that would mend it.
    """
    task, config, target = setting.task, setting.config, setting.target
    asked = _asked(setting, handle)
    if path.exists():
        table = CostTable.load(path)
        table.check_conditions(**asked)
        if target.here and target.profile is None:
            table = _of_this_machine(
                table, str(describe_device(target.device)["name"]), shared=config.storage is not None
            )
        announce("cost table: kept from before")
    elif target.profile is not None:
        table = profile_table(target.profile, task, handle, space, asked, setting.source.shown)
        table.save(path)
        announce(f"cost table: {table.status}, {table.source}")
    else:
        announce(f"cost table: timing forwards of batch {config.batch_size}, {task.tokens} tokens, on this machine")
        unfinished = path.with_suffix(".part")
        table = measure_table(
            task.model,
            task.timing_inputs(config.batch_size),
            counts=space.counts[1:],
            methods=runnable(space.in_blocks, check_attention(config.attention)),
            in_tower=runnable(space.in_tower, check_attention(config.attention)),
            time_budget_s=config.table_seconds,
            error=config.promise.table_error,
            seed=config.seed,
            mode=config.mode,
            patience_s=config.patience_s,
            concurrency=config.concurrency,
            variants=variants,
            keep=unfinished,
            options=options,
        )
        table.save(path)
        unfinished.unlink(missing_ok=True)
    say_table(table)
    return table


def _of_this_machine(table: CostTable, here: str, *, shared: bool) -> CostTable:
    """A table that was kept, if it is of the device `here`; in a study that machines share, with a note if it is not.

    Raises:
        PruneSearchError: if a study would go on with the latencies of another device.
    """
    there = table.device.get("name", here)
    if there == here:
        return table
    said = f"the cost table was measured on {there}, but this is {here}"
    if not shared:
        raise PruneSearchError(f"{said}: go on with the study there, or begin another --study here")
    return CostTable(**{**dict(table), "notes": [*table.notes, said]})


def _asked(setting: Setting, handle: Handle) -> dict[str, Any]:
    task, config, target = setting.task, setting.config, setting.target
    if target.profile is not None:
        return {**target.conditions(config), "tokens": task.tokens}
    return conditions_of(handle, task.timing_inputs(config.batch_size), task.tokens, config.mode, config.concurrency)


def profile_table(
    profile: Profile, task: Task, handle: Handle, space: Space, asked: dict[str, Any], model: str
) -> CostTable:
    """The table of a profile that fits, else an estimate from its spec.

    Raises:
        PruneSearchError: if there is neither, or the table lacks a method of the space.
    """
    inputs = task.timing_inputs(1)
    shape = describe_shape(task.model, handle, inputs)
    methods = runnable(space.methods, asked["attention"])
    conditions = {name: value for name, value in asked.items() if name != "tokens"}
    if "input_ids" in inputs:
        conditions["length"] = shape.tokens
    table = profile.find(shape, conditions, model)
    if table is not None:
        _check_methods(table, methods, profile, model, conditions)
        if table.broken_promise:
            raise PruneSearchError(
                f"schedules cannot be ranked by the table of profile '{profile.name}': {table.broken_promise}; measure "
                f"it there while nothing else runs: {profile.command(model, conditions)} --redo"
            )
        between = [n for n in space.counts[1:] if n not in {cell.n for cell in table.cells.mlp}]
        notes = list(table.notes)
        if between:
            notes.append(f"{len(between)} of {len(space.counts) - 1} token counts lie between measured ones")
        return CostTable(**{**dict(table), "notes": notes, "source": f"from profile '{profile.name}'"})
    if profile.spec is None:
        known = ", ".join(sorted({t.model for t in profile.tables})) or "no table at all"
        raise PruneSearchError(
            f"profile '{profile.name}' has no table of this model's blocks ({shape.describe()}): it has {known}; "
            f"measure it there: {profile.command(model, conditions)}"
        )
    return estimate_table(
        profile.spec,
        task.model,
        task.timing_inputs(asked["batch_size"]),
        counts=space.counts[1:],
        methods=methods,
        dtype=asked["dtype"],
        attention=asked["attention"],
        mode=asked["mode"],
    )


def _check_methods(
    table: CostTable, methods: list[str], profile: Profile, model: str, conditions: dict[str, Any]
) -> None:
    scorers = {cell.scorer for cell in table.cells.reduce}
    merges = {cell.merge for cell in table.cells.reduce}
    for method in methods:
        scorer, merge = parse_method(method)
        if merge not in merges or (MERGES.entry(merge).uses_scores and scorer not in scorers):
            raise PruneSearchError(
                f"profile '{profile.name}' has not measured method '{method}' on this model's blocks: leave it out of "
                f"the space, or measure it there: {profile.command(model, conditions)} --redo"
            )


def say_table(table: CostTable) -> None:
    """Say how far the table can be trusted."""
    checked = table.validation
    if checked is not None:
        what = "estimated" if table.status == "estimated" else f"error on {checked.unseen} unseen schedules"
        say(
            f"{what}: mean {checked.mape:.1%}, worst {checked.worst:.1%}, "
            f"rank correlation {checked.rank_correlation:.3f}"
            + (f" ({checked.against})" if table.status == "estimated" else "")
        )
        if checked.by_precision:
            say("mean by precision: " + ", ".join(f"{name} {mape:.1%}" for name, mape in checked.by_precision.items()))
    for note in table.notes:
        say(f"{note}")
    if table.noise.waited_s:
        say(f"waited {table.noise.waited_s:.0f} s for other processes to leave the cores alone")
    if table.noise.noisy:
        say(f"the machine was noisy ({table.noise.why}): latencies may be off by more")
