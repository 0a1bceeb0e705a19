"""Schedules that a search is given to begin with, such as `prunesearch import` writes, as members of its space."""

from __future__ import annotations

from pathlib import Path

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import BEFORE, Stage
from prunesearch.search.space.space import Space


def given_seed(path: Path, space: Space) -> tuple[Plan, list[str]]:
    """Read a native JSON schedule or plan, and move its stages to the nearest numbers of tokens that the space has.

    Args:
        path: what `prunesearch import` or `export --to json` wrote.
        space: fitted to the model.

    Returns:
        The member of the space, and one line for each stage that was moved or left out.

    Raises:
        CorruptFileError: if the file holds no schedule.
        PruneSearchError: if it cannot be read, or has a block or method that the space has not, or too many stages.
    """
    try:
        plan = Plan.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PruneSearchError(f"seed {path} cannot be read ({error.strerror}): check the path") from None
    except (UnicodeDecodeError, CorruptFileError) as error:
        raise CorruptFileError(f"seed {path} is no schedule ({error}): write one with prunesearch import") from None
    told = plan.schedule
    _check(path, told, space)
    flow = told.flow(space.geometry)
    stages: list[Stage] = []
    notes: list[str] = []
    last = 0
    for stage in told:
        site = stage.place.site
        count = flow.counts[stage.layer] if site > BEFORE else flow.n_in if site == BEFORE else flow.n_given
        level = min(range(len(space.counts)), key=lambda place: abs(space.counts[place] - count))
        if level <= last:
            notes.append(f"seed {path}: the stage at block {stage.place} is left out, the space has no step so small")
            continue
        last = level
        stages.append(space.stage(stage.place.site, level, stage.method))
        if space.counts[level] != count:
            notes.append(f"seed {path}: block {stage.place} leaves {space.counts[level]} tokens, not {count}")
    found = Schedule(stages)
    if space.encode(found) is None:
        raise PruneSearchError(f"seed {path} is no member of a space of kind {space.file.kind}: use one of kind free")
    return Plan(found, plan.changes), notes


def _check(path: Path, told: Schedule, space: Space) -> None:
    """Refuse what no nearest member of the space could stand for."""
    if len(told) > space.max_stages:
        raise PruneSearchError(
            f"seed {path} has {len(told)} stages, but the space allows {space.max_stages}: raise its max_stages"
        )
    for stage in told:
        if stage.place.site not in space.layers:
            raise PruneSearchError(f"seed {path} has a stage at block {stage.place}, but the space has {space.layers}")
        if stage.method not in space.methods:
            raise PruneSearchError(
                f"seed {path} uses {stage.method}, which the space has not: add its scorer and merge to the space file"
            )
