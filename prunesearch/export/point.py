"""One verb for every format: a point of a study as another tool's schedule, or as a model with the schedule inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import say, warn
from prunesearch.core.files import write_bytes_atomic, write_text_atomic
from prunesearch.core.tables.export_tables import MODEL_FORMATS, RULE_FORMATS
from prunesearch.export import export, find_format, import_file
from prunesearch.export.pick import pick_rule
from prunesearch.export.schedules.model_shape import model_shape
from prunesearch.export.schedules.native import imported_json
from prunesearch.pruning.forward.artefacts import read_weights, weights_path

if TYPE_CHECKING:
    from torch import nn

    from prunesearch.compress.fits import Fits
    from prunesearch.export.models.record import ModelExport
    from prunesearch.study.front import Front
    from prunesearch.tasks.base import Task

TIMED_S = 20.0


def export_point(
    front: Front,
    spec: str,
    to: str = "json",
    path: Path | None = None,
    *,
    lossy: bool = False,
    opset: int | None = None,
    int8: bool = False,
    seconds: float | None = None,
    task: Task | None = None,
    model: nn.Module | None = None,
    weights: Path | None = None,
    fits: Fits | None = None,
    write: Callable[..., ModelExport] | None = None,
) -> str | ModelExport:
    """Write the point that `spec` picks; what was found, changed or lost on the way is told as events.

    Args:
        front: the front of a study.
        spec: which point, see `pick.pick`; or the `cascade` or `router` that `adapt` found.
        to: a name in `FORMATS` or `MODEL_FORMATS`; of a cascade or router in `RULE_FORMATS`.
        path: file or folder to write, with a card beside it; None: a schedule is only returned.
        lossy: of a schedule: accept the nearest one that the format can say.
        opset, int8: of a model, see `ModelOptions`.
        seconds: of a model: how long it is timed; None: not at all.
        task, model: of a study of a caller's own model, see `from_study.export_study_model`.
        weights: the study's folder of weights, which tuned points need.
        fits: what the study fitted of the point's changes of halves of blocks.
        write: as that function, in its place.

    Returns:
        The schedule as text; of a model, what was found of it.

    Raises:
        PruneSearchError: for an unknown format or pick, options that are not the format's, or a model that is gone.
    """
    if pick_rule(front, spec) is not None and to not in RULE_FORMATS:
        raise PruneSearchError(f"a {spec} is written with --to {' or '.join(RULE_FORMATS)}, but got --to {to}")
    if to in MODEL_FORMATS:
        if path is None:
            raise PruneSearchError(f"a model is written to a file or folder: add -o PATH to --to {to}")
        if lossy:
            raise PruneSearchError(
                f"a model holds every schedule as it is, but got --lossy with --to {to}: leave it out"
            )
        given = {"task": task, "model": model, "weights": weights, "fits": fits}
        return _export_model(front, spec, to, path, opset, int8, seconds, given, write)
    if opset is not None or int8:
        names = ", ".join(MODEL_FORMATS)
        raise PruneSearchError(f"--opset, --int8 and --no-timing are for models ({names}), but got --to {to}")
    exported = export(front, spec, to, lossy=lossy)
    for change in exported.changes:
        warn(f"changed for {to}: {change}")
    for loss in exported.losses:
        warn(f"note for {to}: {loss}")
    if path is not None:
        from prunesearch.export.models.card import schedule_card

        _put(exported.text, path)
        _put(schedule_card(front, spec, to, exported), path.with_name(f"{path.name}.md"))
        if exported.weights is not None and weights is not None:
            read_weights(weights, exported.weights)  # what is damaged is not handed on
            target = path.with_name(f"{path.name}.safetensors")
            write_bytes_atomic(target, weights_path(weights, exported.weights).read_bytes())
            say(f"written: {target} (the weights that the point was tuned to)")
    return exported.text


def _export_model(
    front: Front,
    spec: str,
    to: str,
    path: Path,
    opset: int | None,
    int8: bool,
    seconds: float | None,
    given: dict[str, Any],
    write: Callable[..., ModelExport] | None,
) -> ModelExport:
    """Write, then say what was found."""
    from prunesearch.export.by_row import of_adapted
    from prunesearch.export.models import from_study
    from prunesearch.export.models.card import timing_text
    from prunesearch.export.models.model_format import ModelOptions
    from prunesearch.export.models.record import SURVIVES

    options = ModelOptions(opset, int8)
    write = write or (from_study.export_study_model if pick_rule(front, spec) is None else of_adapted.export_rule)
    done = write(front, spec, to, path, options=options, seconds=seconds, **given)
    for line in done.summary():
        say(line)
    if done.timing is not None:
        say(timing_text(done))
        if not done.timing.survives:
            warn(
                f"the speed-up of eager torch does not survive in {done.runtime}: "
                f"{done.timing.speedup:.2f}x, less than {SURVIVES:g} of {done.timing.eager_speedup:.2f}x"
            )
    say(f"written: {path}")
    return done


def import_schedule_file(
    file: Path,
    source: str,
    *,
    model: str | None = None,
    depth: int | None = None,
    tokens: int | None = None,
    protected: int | None = None,
    entry: str | None = None,
    path: Path | None = None,
) -> str:
    """Read a schedule that another tool wrote; notes are told as events.

    Args:
        file: as the tool wrote it.
        source: its format, a name in `FORMATS`.
        model: shape, folder or Hub id that it is for.
        depth, tokens, protected: in place of a model.
        entry: one of several in the file.
        path: file to write; None: it is only returned.

    Returns:
        The schedule as JSON.

    Raises:
        PruneSearchError: for a file that cannot be read as that, or a model that is not known.
    """
    origin = find_format(source)
    shape = model_shape(model, depth=depth, tokens=tokens, protected=protected, part=origin.parts[0])
    read = import_file(file, origin, shape, entry)
    for note in read.notes:
        warn(f"imported from {source}: {note}")
    text = imported_json(read, origin, shape, file.name)
    if path is not None:
        _put(text, path)
    return text


def _put(text: str, path: Path) -> None:
    write_text_atomic(path, text)
    say(f"written: {path}")
