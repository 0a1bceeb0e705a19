"""Exporting a model with a schedule inside: written, checked against the applied model, timed against the unpruned one.

A new format is one `ModelFormat` in a file of its own and one row in
`MODEL_FORMATS` (`core/tables/export_tables.py`); the contract tests pick it up.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule, refuse_by_row
from prunesearch.core.tables.export_tables import MODEL_FORMATS
from prunesearch.export.models.model_format import ModelFormat, ModelOptions, ModelSource
from prunesearch.export.models.record import ModelExport, Timing
from prunesearch.export.models.writing_models import check_answers, prompt_batches, reads_prompts

if TYPE_CHECKING:
    from torch import Tensor

    from prunesearch.cost.graphs.graph_running import Forward

_CHECKED_ROWS = (1, 3)  # batch sizes to check, beside the one that is timed


def find_model_format(name: str) -> ModelFormat:
    """Return the format called `name`; raise `PruneSearchError` naming the nearest one on a miss."""
    return cast(ModelFormat, MODEL_FORMATS.load(name))


def check_output(path: Path, to: ModelFormat, options: ModelOptions) -> None:
    """Raise `PruneSearchError` for a path that is taken or of the wrong kind, or an option that the format has not."""
    for name, value in asdict(options).items():
        if value and name not in to.options:
            having = ", ".join(n for n in MODEL_FORMATS if name in find_model_format(n).options)
            raise PruneSearchError(f"--{name} goes with --to {having}, but got --to {to.name}: leave it out")
    if to.suffix and path.suffix != to.suffix:
        raise PruneSearchError(f"{to.tool} files end in {to.suffix}, but got '{path}': write -o {path}{to.suffix}")
    if path.exists():
        raise PruneSearchError(f"'{path}' is already there, and no model is written over another: choose another -o")


def check_methods(schedule: Schedule, to: ModelFormat) -> None:
    """Raise `PruneSearchError`, with the reason, for stages that the format's runtime gets wrong, or cannot hold."""
    if to.applied:
        refuse_by_row(schedule, f"a graph of {to.tool}")
    for stage in schedule:
        for name in stage.method.split("+"):
            if name in to.unable:
                raise PruneSearchError(f"{to.tool} cannot run '{name}' ({to.unable[name]}): choose --to onnx")


def check_changes(source: Plan, to: ModelFormat) -> None:
    """Raise `PruneSearchError`, with the reason, for a precision that the format cannot hold."""
    for change in source.whole:
        if str(change) not in to.precisions:
            raise PruneSearchError(
                f"{to.tool} cannot hold a model in {change} ({to.float_alone}): choose --to onnx for int8, --to hf "
                "for bfloat16 and float16, --to json for the plan, or a point in float32"
            )


def export_model(
    source: ModelSource,
    to: ModelFormat,
    path: Path,
    *,
    options: ModelOptions | None = None,
    seconds: float | None = 20.0,
) -> ModelExport:
    """Write a model with its schedule, check it in its runtime against the applied model, and time it.

    Beside it go its model card (`….md`) and its provenance (`….json`, a schedule that `Schedule.from_json` reads); into
    a folder as `README.md` and `prunesearch.json`.

    Args:
        source: what to export; its model is left as it was.
        to: the format.
        path: of the new file or folder.
        options: None for the defaults.
        seconds: of timing, in which both models run in both runtimes; None: not timed.

    Raises:
        PruneSearchError: if the path is taken, the format cannot hold the model, or the check fails (nothing is left
            behind then).
    """
    from prunesearch.export.models.card import write_card

    chosen = options or ModelOptions()
    check_output(path, to, chosen)
    check_methods(source.schedule, to)
    check_changes(source.plan, to)
    prompts = reads_prompts(source.model)
    if prompts and to.open is None:
        raise PruneSearchError(
            f"{to.tool} cannot hold a model that reads pictures in a prompt and writes token by token: choose --to hf, "
            "or --to json for the plan"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        notes = write_format(source, to, path, chosen)
        done = _check(source, to, path, notes, exact=not source.written_in(chosen))
        if prompts and to.open is not None:
            done = replace(done, notes=(*done.notes, check_answers(source, to.open(path))))
        if seconds is not None:
            done = replace(done, timing=_time(source, to, path, chosen, seconds))
    except BaseException:
        remove_export(path)
        raise
    write_card(done, source)
    return done


def write_format(source: ModelSource, to: ModelFormat, path: Path, options: ModelOptions) -> tuple[str, ...]:
    """Write alone, with nothing checked; see `ModelFormat.write`."""
    from prunesearch.pruning.apply import apply_
    from prunesearch.pruning.forward.reshaped import WithoutHalves

    if not to.applied:
        return to.write(source, path, options)
    model, schedule = source.model, cast(Any, source.schedule)
    if source.plan.halves:  # a graph is of modules that are in the model
        model, _ = source.reshaped()
        schedule = WithoutHalves(source.schedule, source.plan.skips)
    with apply_(model, schedule, seed=source.seed):
        return to.write(replace(source, model=model), path, options)


def remove_export(path: Path) -> None:
    """Remove what a format wrote at `path`, and beside it."""
    if path.is_dir():
        shutil.rmtree(path)
        return
    for other in path.parent.glob(f"{path.stem}.*"):
        if other.name in _names(path):
            other.unlink()


def _names(path: Path) -> set[str]:
    """The names of the files that may belong to an export at `path`."""
    return {path.name, f"{path.name}.data", *(path.with_suffix(s).name for s in (".bin", ".trtexec.sh"))}


def check_batches(inputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Batches of several sizes out of one; of texts, all but the first row are padded to different lengths."""
    import torch

    rows = len(next(iter(inputs.values())))
    batches = []
    for size in dict.fromkeys((*_CHECKED_ROWS, rows)):
        chosen = torch.arange(size) % rows
        batch = {name: value[chosen].clone() for name, value in inputs.items()}
        mask = batch.get("attention_mask")
        if mask is not None:
            length = mask.shape[1]
            for row in range(1, size):
                mask[row, length - row * length // (2 * size) :] = 0
        batches.append(batch)
    return batches


def _check(source: ModelSource, to: ModelFormat, path: Path, notes: tuple[str, ...], *, exact: bool) -> ModelExport:
    """Run what was written beside the applied model; the error of fewer bits, which is by design, is stated alone."""
    import torch

    from prunesearch.cost.graphs.graph_files import answers_of
    from prunesearch.pruning.apply import apply_

    made = prompt_batches if reads_prompts(source.model) else check_batches
    forward, batches = to.load(path), made(source.inputs)
    wanted = []
    applied = apply_(source.model, source.plan, seed=source.seed, fits=source.fits)
    with applied, torch.inference_mode():
        for batch in batches:
            wanted.append(answers_of(source.model(**batch)))
    error = _worst(_off(forward(batch), want) for batch, want in zip(batches, wanted, strict=True))
    largest = max(float(value.abs().max()) for want in wanted for value in want.values())
    if exact and not error <= to.tolerance * max(largest, 1.0):
        raise PruneSearchError(
            f"what {to.tool} computes is off by {error:.2g} (largest output {largest:.2g}), more than {to.tolerance:g}"
            ": another scorer or merge may do; the schedule alone can be exported with --to json"
        )
    sizes = tuple(len(next(iter(batch.values()))) for batch in batches)
    names = tuple(wanted[0])
    return ModelExport(path, to.name, to.tool, to.ran_in, to.proven, notes, error, largest, sizes, outputs=names)


def _off(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The greatest difference of any output."""
    return _worst(float((found[name] - value).abs().max()) for name, value in wanted.items())


def _worst(differences: Iterable[float]) -> float:
    """The greatest; NaN where one is."""
    return max(differences, key=lambda value: (math.isnan(value), value))


def _time(source: ModelSource, to: ModelFormat, path: Path, options: ModelOptions, seconds: float) -> Timing:
    """Time both models in both runtimes, interleaved; the unpruned one is exported for it, and thrown away."""
    import torch

    from prunesearch.cost.devices.device import clock_for, describe_device
    from prunesearch.cost.timing.loop import Job, measure
    from prunesearch.pruning.apply import apply_

    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / f"unpruned{to.suffix}"
        write_format(replace(source, schedule=Schedule(), changes=()), to, other, options)
        unpruned, pruned = to.load(other), to.load(path)
        inputs = dict(source.inputs)
        with apply_(source.model, Schedule(), seed=source.seed, fits=source.fits) as handle:
            eager = Job.among_runtimes(lambda: source.model(**inputs), lambda: handle.set(Schedule()))
            eager_pruned = Job.among_runtimes(lambda: source.model(**inputs), lambda: handle.set(source.plan))
            jobs = {"eager": eager, "eager_pruned": eager_pruned, **_jobs(unpruned, pruned, inputs)}
            found = measure(jobs, clock=clock_for("cpu"), sentinel="eager", time_budget_s=seconds, min_rounds=10)
    ms = {name: s.median_ms for name, s in found.samples.items()}
    return Timing(
        runtime=", ".join(filter(None, (to.ran_in, source.written_in(options)))),
        device=str(describe_device("cpu")["name"]),
        threads=torch.get_num_threads(),
        batch_size=len(next(iter(inputs.values()))),
        eager_unpruned_ms=ms["eager"],
        eager_pruned_ms=ms["eager_pruned"],
        unpruned_ms=ms["unpruned"],
        pruned_ms=ms["pruned"],
        rounds=len(found.samples["eager"]),
        noisy=found.noise.why,
    )


def _jobs(unpruned: Forward, pruned: Forward, inputs: dict[str, Tensor]) -> dict[str, Any]:
    from prunesearch.cost.timing.loop import Job

    jobs = {"unpruned": unpruned, "pruned": pruned}
    return {name: Job.among_runtimes(partial(forward, inputs)) for name, forward in jobs.items()}
