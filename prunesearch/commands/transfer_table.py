"""The table that a study's schedules are priced with on another device."""

from __future__ import annotations

from torch import nn

from prunesearch.commands.transfer import PricedTrial, Transfer, transfer, trust_of
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.device_profile import find_profile
from prunesearch.pruning.apply import apply_
from prunesearch.search.costs.study_table import profile_table
from prunesearch.search.space.space import SpaceFile
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.setup import make_setting
from prunesearch.study.target import Target
from prunesearch.study.trials import read_trials, study_place
from prunesearch.tasks.base import Task


def transfer_study(
    folder: StudyFolder,
    front: Front,
    to: str,
    *,
    dtype: str | None = None,
    mode: str | None = None,
    task: Task | None = None,
    model: nn.Module | None = None,
) -> Transfer:
    """Price a study's front and trials on the device of the profile `to`.

    `dtype` and `mode` are those there; all other conditions, and these where None, are the study's. A study of a
    caller's own model takes it again: `task` is the model with its data, `model` alone goes with the data that the
    study names.

    Raises:
        PruneSearchError: if the profile has no table for the model under these conditions, or cannot estimate one; if
            the study's trials are not here.
    """
    profile = find_profile(to)
    place = study_place(folder, front.config.get("storage"))
    if place["where"] == folder.journal and folder.trials is None:
        raise PruneSearchError(
            f"study '{folder.name}' has no {folder.journal.name}, whose trials are priced anew: run the same "
            "`prunesearch run` again"
        )
    config = RunConfig(**{**front.config, "device": "cpu"})
    there = RunConfig(**{**front.config, "dtype": dtype or config.dtype, "mode": mode or config.mode})
    trials = read_trials(**place)
    setting = make_setting(config, task=task, model=model)
    task, geometry = setting.task, setting.geometry
    with apply_(task.model, Schedule()) as handle:
        space_file = SpaceFile.load(config.space_path or handle.encoder.family.space)
        space = space_file.fit(geometry.depth, geometry.tokens, geometry.protected)
        used = {stage.method for trial in trials for stage in trial.schedule}
        space = space.with_methods([m for m in space.methods if m in used] or space.methods)
        asked = {**Target("cpu", profile, False).conditions(there), "tokens": task.tokens}
        table = profile_table(profile, task, handle, space, asked, front.model.id)
    known = [t for t in trials if t.plan.variant in table.variants and not t.plan.halves]
    priced = [PricedTrial(t.plan, t.quality, t.predicted_ms) for t in known]
    plans = {point.id: point.to_plan() for point in front.points}
    points = [p for p in front.points if plans[p.id].variant in table.variants and not plans[p.id].halves]
    left_out = len(front.points) - len(points)
    if left_out and not points:
        raise PruneSearchError(
            f"no point of study '{front.study}' can be priced on '{profile.name}', whose table is of "
            f"{table.conditions['dtype']} alone: transfer a study that was run with --precision {config.dtype}"
        )
    if left_out:
        said = f"{left_out} points are left out: the table there is of {table.conditions['dtype']} alone"
        table = CostTable(**{**dict(table), "notes": [*table.notes, said]})
    return transfer(front.model_copy(update={"points": points}), priced, table, profile.name, trust_of(table))
