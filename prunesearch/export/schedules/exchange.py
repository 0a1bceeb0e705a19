"""Taking a schedule to another tool and back, saying what changes on the way.

What an export changes is not typed in per format: the text is read back as the other tool would understand it, and the
difference is stated. A word of the schedule that changes (block, site, count, scorer, merge, protected tokens) is a
refusal unless `lossy`; how a tool computes the same word is said and no more.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import ENCODER, INPUT, TOWER, Stage
from prunesearch.core.tables.export_tables import FORMATS
from prunesearch.core.tables.token_tables import MERGES, SELECTIONS
from prunesearch.export.schedules.format import Format, ModelShape, Read, leaving, reducing, site
from prunesearch.export.schedules.parsing import read_text


@dataclass(frozen=True)
class Exported:
    """The text of a file; `changes` of the schedule's meaning, and what else to know of it (`losses`).

    `weights` is what the text calls the weights that go with it.
    """

    text: str
    changes: tuple[str, ...]
    losses: tuple[str, ...]
    weights: str | None = None


def export_schedule(plan: Plan | Schedule, to: Format, shape: ModelShape, *, lossy: bool = False) -> Exported:
    """Write a plan, or a schedule alone, for a model of `shape` in another tool's format.

    Args:
        plan: what to write; other tools know of its stages alone.
        to: the format.
        shape: the model that it is for.
        lossy: accept the nearest that the format can say.

    Raises:
        PruneSearchError: if the meaning would change and `lossy` is False, or the schedule does not fit the shape.
    """
    plan = Plan.of(plan)
    schedule = plan.schedule
    schedule.check_parts(shape.geometry.parts)
    if to.lossless:
        whole = plan.changes or plan.weights is not None
        return Exported(to.write(plan if whole else schedule, shape, ()), (), (), plan.weights)
    _check_part(to, shape)
    in_tower = next((stage for stage in schedule if stage.place.part == TOWER), None)
    if in_tower is not None:
        raise PruneSearchError(
            f"{to.tool} prunes behind the tower, but the stage at {in_tower.place} is in it: use --to json, or a point "
            "without such a stage"
        )
    back = to.read(to.write(schedule, shape, ()), shape, None)
    left_out = [f"{change}, which the model is in, is left out" for change in plan.changes]
    if plan.weights is not None:
        left_out.append("the weights that it was tuned to are left out (--to hf, onnx or another model holds them)")
    changes = (*left_out, *differences(schedule, back.schedule, shape), *back.notes, *_protection(to, schedule, shape))
    if changes and not lossy:
        raise PruneSearchError(
            f"{to.tool} cannot say this schedule ({to.limits}): {'; '.join(changes)}: "
            "choose another format, or accept the change with --lossy"
        )
    tied = f"holds for {shape.depth} blocks and {shape.tokens} tokens ({shape.protected} protected) only"
    losses = (tied, *to.variants, *_order(to, schedule, shape)) if schedule.stages else ()
    remarks = [*origin(shape.provenance), *(f"changed: {change}" for change in changes), *losses]
    return Exported(to.write(schedule, shape, remarks), changes, losses)


def import_schedule(text: str, source: Format, shape: ModelShape | None = None, entry: str | None = None) -> Read:
    """Read another tool's file as a schedule; `notes` say where it only comes near.

    Args:
        text: what is in the file. Nothing in it is executed.
        source: its format.
        shape: the model; formats that count tokens need it.
        entry: which of several schedules in the file.

    Raises:
        CorruptFileError: if the text is not in the format.
        PruneSearchError: if it does not fit the shape, or there is none.
    """
    if entry is not None and not source.entries:
        raise PruneSearchError(f"a {source.tool} file holds one schedule, but got entry '{entry}': leave it out")
    if shape is not None and not source.lossless:
        _check_part(source, shape)
    found = source.read(text, shape, entry)
    if shape is None or source.lossless:
        return found
    own = _protection(source, found.schedule, shape)
    if shape.in_order is not False:  # else it is the tool's own, and nothing comes near only
        own = [*own, *_order(source, found.schedule, shape)]
    return Read(found.schedule, (*found.notes, *own))


def import_file(
    path: str | os.PathLike[str], source: Format, shape: ModelShape | None = None, entry: str | None = None
) -> Read:
    """Read a file as `import_schedule` reads text; errors name the file."""
    try:
        return import_schedule(read_text(path), source, shape, entry)
    except PruneSearchError as error:
        raise type(error)(f"{source.tool} file '{os.fspath(path)}': {error}") from None


def origin(provenance: Mapping[str, Any]) -> list[str]:
    """Where a schedule comes from, for the comments of a file; nothing for one by hand."""
    if "study" not in provenance:
        return []
    p, quality = provenance, provenance["quality"]
    ends = "" if quality["low"] is None else f" [{quality['low']:.4f}, {quality['high']:.4f}]"
    return [
        f"from prunesearch {p['prunesearch']}, study {p['study']}, point {p['point']} (trial {p['trial']}), model "
        f"{p['model']['id']}: {p['metric']} {quality['value']:.4f}{ends}, "
        f"{p['speedup']:.2f}x on {p['device']}"
    ]


def differences(before: Schedule, after: Schedule, shape: ModelShape) -> list[str]:
    """How `after` differs from `before` at this shape: in tokens per block, and in scorers and merges.

    Scorers that a merge ignores and stages that remove nothing make no difference.
    """
    changes = []
    wanted, got = leaving(before, shape), leaving(after, shape)
    wrong = [layer for layer in range(shape.depth) if wanted[layer] != got[layer]]
    if wrong:
        first = wrong[0]
        more = f" ({len(wrong)} blocks differ)" if len(wrong) > 1 else ""
        changes.append(f"block {first} leaves {got[first]} tokens, not {wanted[first]}{more}")
    given, wanted_in = after.flow(shape.geometry).n_in, before.flow(shape.geometry).n_in
    if given != wanted_in:
        changes.insert(0, f"the first block is given {given} tokens, not {wanted_in}")
    methods = {site(stage): _meant(stage) for stage, _, _ in reducing(after, shape)}
    replaced: dict[tuple[str, str], list[str]] = defaultdict(list)
    for stage, _, _ in reducing(before, shape):
        method = methods.get(site(stage), _meant(stage))
        if method != _meant(stage):
            replaced[stage.method, method].append(site(stage))
    for (old, new), blocks in replaced.items():
        where = f"block{'s' if len(blocks) > 1 else ''} {', '.join(blocks)}"
        changes.append(f"{old} becomes {new} ({'input' if blocks == [INPUT] else where})")
    return changes


def _meant(stage: Stage) -> str:
    """Its method, one scorer for all where nothing hangs on it."""
    ranks = SELECTIONS.entry(stage.selection).ranks or not MERGES.entry(stage.merge).loses
    return stage.method if ranks else stage.replace(scorer="random").method


def _check_part(tool: Format, shape: ModelShape) -> None:
    if shape.part not in tool.parts:
        able = ", ".join(name for name in FORMATS if shape.part in FORMATS[name].parts)
        raise PruneSearchError(
            f"{tool.tool} is for tokens in the {tool.parts[0]}, but those of this model are in its {shape.part}: use "
            f"one of {able}"
        )


def _protection(tool: Format, schedule: Schedule, shape: ModelShape) -> list[str]:
    if not schedule.stages or tool.protects is None or shape.part != ENCODER or shape.protected <= tool.protects:
        return []
    what = "CLS alone" if tool.protects == 1 else f"the first {tool.protects} tokens alone"
    return [f"{tool.tool} protects {what}, prunesearch {shape.protected} tokens of this model"]


def _order(tool: Format, schedule: Schedule, shape: ModelShape) -> list[str]:
    """In which order tokens stand, where stages that ask for it may find another than the tool's."""
    asking = [stage for stage, _, _ in reducing(schedule, shape) if not MERGES.entry(stage.merge).order_free]
    if len(asking) < 2:
        return []
    if shape.in_order is False:
        return [f"tokens stand as {tool.tool} leaves them: what is left of the first set, then the second"]
    others = "models that are told positions between their blocks, or read texts, keep"
    who = "this model keeps" if shape.in_order else others
    return [f"{who} tokens in order, {tool.tool} does not: from the second stage on other pairs are matched"]
