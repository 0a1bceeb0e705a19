"""What the points of a front do to data: a few rows of the calibration split, traced stage by stage, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prunesearch.core.events import track
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.stage import ENCODER, INPUT
from prunesearch.pruning.apply import Handle
from prunesearch.pruning.families.in_decoder import of_pictures
from prunesearch.pruning.forward.artefacts import with_weights
from prunesearch.report.pictures import owners, to_data_uri
from prunesearch.report.report import write_report
from prunesearch.report.spectrogram import picture, sound_view
from prunesearch.report.views.shown_samples import ShownRow, ShownStage, ShownTrace
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.front_items import Point
from prunesearch.study.setup import Setting
from prunesearch.study.trials import TrialRecord
from prunesearch.tasks.base import Outputs, Task
from prunesearch.tasks.batching.batches import Batch, EvalSet, Inputs, trimmed
from prunesearch.tasks.kinds.visual_qa import prompt_of
from prunesearch.tasks.loading import count_tokens

_SHOWN = 2  # rows that are traced under every point
_WORST = 2  # rows that are traced under a point because it changes their answer
_SEARCHED = 32  # calibration rows that are looked through for these
_WIDEST = 224  # pixels of a picture
_SOUNDS = ("input_values", "input_features")


def report_study(
    folder: StudyFolder, front: Front, setting: Setting, handle: Handle, records: Sequence[TrialRecord]
) -> None:
    """Write the report of a study into its folder: its front, all finished trials, and what the points do to data."""
    rows, traces = illustrate(setting.task, handle, front.points, setting.source.id, folder.weights)
    trials = [
        {
            "number": r.number,
            "predicted_ms": r.predicted_ms,
            "kl": r.loss,
            "quality": r.quality,
            "schedule": r.plan.to_dict(),
        }
        for r in records
    ]
    write_report(folder.report, front, trials, rows, traces)


def illustrate(
    task: Task, handle: Handle, points: list[Point], model_id: str | None, weights: Path | None = None
) -> tuple[list[ShownRow], list[ShownTrace]]:
    """Trace a few calibration rows through every point, and those whose answer it changes most.

    The rows are numbered at random, so the first ones are an unbiased choice; the worst are the rows, of the first
    `_SEARCHED`, whose answer changes and whose outputs diverge most from the unpruned model's.

    Args:
        task: the model with its data.
        handle: of the task's model.
        points: of the front.
        model_id: folder or Hub id that tokenizer and image processor come from; None: nobody knows them, and only
            sounds are shown.
        weights: the study's folder of weights, which tuned points need.

    Returns:
        The rows, and what each point made of which, as `report.views.shown_samples.Samples` holds them; none where the
        inputs are no images, texts or sounds.
    """
    split = task.calibration.take(_SEARCHED)
    show = _shown_by(task, handle, split, model_id)
    if show is None:
        return [], []
    with handle.under(Plan()):
        reference = [task.condensed(_outputs(task, batch)) for batch in split.batches]
    unpruned: dict[int, str] = {}
    traces = []
    for point in track(points, len(points), "looking at rows"):
        full = point.to_plan()
        with with_weights(task.model, full, weights) as plan, handle.under(plan):
            chosen = list(dict.fromkeys([*range(min(_SHOWN, split.n)), *_worst(task, split, reference)]))
        with handle.under(Plan()):
            unpruned |= {row: _answer(task, _row(split, row)) for row in chosen if row not in unpruned}
        with with_weights(task.model, full, weights) as plan, handle.under(plan):
            traces += [_trace(task, handle, point.id, row, _row(split, row), unpruned[row]) for row in chosen]
    rows = []
    for row in sorted(unpruned):
        batch = _row(split, row)
        rows.append(show(row, task.shown_labels(batch)[0], batch.inputs))
    return rows, traces


@torch.inference_mode()
def _worst(task: Task, split: EvalSet, reference: list[Outputs]) -> list[int]:
    """Rows whose answer the schedule in place changes, the most divergent first."""
    found: list[tuple[float, int]] = []
    for batch, before in zip(split.batches, reference, strict=True):
        outputs = task.outputs(task.model, batch)
        changed = task.agrees(before, outputs, batch).cpu() < 1
        losses = task.divergence(before, outputs, batch).cpu()
        found += zip((-losses[changed]).tolist(), batch.index[changed].tolist(), strict=True)
    return [row for _, row in sorted(found)[:_WORST]]


@torch.inference_mode()
def _outputs(task: Task, batch: Batch) -> Outputs:
    return task.outputs(task.model, batch)


@torch.inference_mode()
def _answer(task: Task, batch: Batch) -> str:
    return task.shown(task.outputs(task.model, batch), batch)[0]


@torch.inference_mode()
def _trace(task: Task, handle: Handle, point: str, row: int, batch: Batch, unpruned: str) -> ShownTrace:
    """One row through the schedule that the handle carries."""
    with handle.traced() as traces:
        outputs = task.outputs(task.model, batch)
    stages = [
        ShownStage(
            layer=found.stage.layer,
            at_input=found.stage.place.part == INPUT,
            tokens=found.source.shape[1],
            method=found.stage.method,
            owner=owners(found.source[0].double().cpu().numpy()),
        )
        for found in traces.stages
    ]
    return ShownTrace(point=point, row=row, unpruned=unpruned, pruned=task.shown(outputs, batch)[0], stages=stages)


def _row(split: EvalSet, row: int) -> Batch:
    """One row as a batch, padding cut off."""
    for batch in split.batches:
        place = (batch.index == row).nonzero().flatten()
        if len(place):
            return trimmed(batch.rows(place), split.padding)
    raise LookupError(f"row {row} is not in the calibration split")


def _shown_by(task: Task, handle: Handle, split: EvalSet, model_id: str | None) -> Any:
    """What makes a row of a report from an input, or None where there is nothing to look at."""
    inputs, config = split.batches[0].inputs, handle.encoder.sizes
    if handle.encoder.family.part != ENCODER:
        drawn = model_id is not None and all(_placed(handle, _row(split, row).inputs) for row in range(split.n))
        return _prompts(task, handle, model_id) if drawn else None
    if "input_ids" in inputs:
        return None if model_id is None else _texts(handle, model_id)
    is_image = "pixel_values" in inputs and inputs["pixel_values"].ndim == 4
    if is_image and hasattr(config, "image_size") and hasattr(config, "patch_size"):
        rows, columns = _grid(inputs["pixel_values"], config)
        # tokens that are no plain grid of patches cannot be drawn over a picture
        drawn = count_tokens(task.model, inputs) == rows * columns + handle.encoder.protected
        return _pictures(handle, model_id) if drawn and model_id is not None else None
    name = next((name for name in _SOUNDS if name in inputs), None)
    dims = 0 if name is None else task.timing_inputs(1)[name].ndim  # of a single sound: a row may be a pair of them
    return _sounds(task, handle, name, inputs[name].ndim > dims) if name is not None and dims in (2, 3) else None


def _pictures(handle: Handle, model_id: str) -> Any:
    """A function that makes a row of an image, as the model sees it: resized, cropped, its colours put back."""
    seen = _seen(model_id)

    def row(index: int, label: str, inputs: Inputs) -> ShownRow:
        grid = _grid(inputs["pixel_values"], handle.encoder.sizes)
        ends = {"leading": handle.encoder.leading, "trailing": handle.encoder.family.trailing}
        return ShownRow(index=index, label=label, picture=seen(inputs["pixel_values"][0]), grid=grid, **ends)

    return row


def _prompts(task: Any, handle: Handle, model_id: str | None) -> Any:
    """A function that makes a row of a prompt with a picture: the question is part of its label."""
    seen = _seen(str(model_id))

    def row(index: int, label: str, inputs: Inputs) -> ShownRow:
        placed = _placed(handle, inputs)
        if placed is None:
            raise LookupError(f"row {index} has no single picture")
        leading, grid = placed
        asked = {name: prompt_of(inputs)[name][0] for name in ("input_ids", "attention_mask")}
        words = asked["input_ids"][asked["attention_mask"].bool()]
        words = words[~of_pictures(handle.encoder.base.config, words)]
        question = " ".join(task.tokenizer.decode(words, skip_special_tokens=True).split())
        return ShownRow(
            index=index,
            label=f"{question} {label}",
            picture=seen(inputs["pixel_values"][0]),
            grid=grid,
            leading=leading,
            trailing=inputs["input_ids"].shape[1] - leading - grid[0] * grid[1],
        )

    return row


def _placed(handle: Handle, inputs: Inputs) -> tuple[int, tuple[int, int]] | None:
    """Where the only picture of a prompt `[1, n]` begins, and the rows and columns of its tokens; None if it has none,
    several, or tokens that are no plain grid."""
    pixels = inputs.get("pixel_values")
    places = of_pictures(handle.encoder.base.config, inputs["input_ids"])[0].nonzero().flatten()
    count = len(places)
    if pixels is None or pixels.ndim != 4 or len(pixels) != 1 or not count or int(places[-1] - places[0]) + 1 != count:
        return None
    rows = max(1, round((count * pixels.shape[2] / pixels.shape[3]) ** 0.5))
    return (int(places[0]), (rows, count // rows)) if count % rows == 0 else None


def _seen(model_id: str) -> Any:
    """A function that draws a picture `[channels, height, width]` as the model sees it, its colours put back."""
    from transformers import AutoImageProcessor

    processor: Any = AutoImageProcessor
    processor = processor.from_pretrained(model_id, backend="pil")
    mean, std = _colours(processor)

    def drawn(pixels: Tensor) -> str:
        scaled = (pixels.float().cpu().numpy().transpose(1, 2, 0) * std + mean).clip(0, 1) * 255
        image = Image.fromarray(np.broadcast_to(scaled, (*scaled.shape[:2], 3)).round().astype(np.uint8))
        image.thumbnail((_WIDEST, _WIDEST))
        return to_data_uri(image)

    return drawn


def _colours(processor: Any) -> tuple[Any, Any]:
    """Mean and deviation of each channel that an image processor, transformers' or timm's, has scaled colours by."""
    timm = getattr(processor, "data_config", None)
    if timm is not None:
        return np.array(timm["mean"]), np.array(timm["std"])
    if processor.do_normalize:
        return np.array(processor.image_mean), np.array(processor.image_std)
    return 0.0, 1.0


def _texts(handle: Handle, model_id: str) -> Any:
    """A function that makes a row of a text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_id)
    encoder = handle.encoder

    def row(index: int, label: str, inputs: Inputs) -> ShownRow:
        ids = inputs["input_ids"]
        first = ids.reshape(-1, ids.shape[-1])[0]  # of several texts
        words = tokenizer.convert_ids_to_tokens(first.tolist())
        return ShownRow(
            index=index, label=label, words=words, leading=encoder.leading, trailing=encoder.family.trailing
        )

    return row


def _sounds(task: Task, handle: Handle, name: str, pairs: bool) -> Any:
    """A function that makes a row of a sound, or the first of a pair: its spectrogram with the tokens on it."""
    encoder = handle.encoder

    def row(index: int, label: str, inputs: Inputs) -> ShownRow:
        first = {key: value[0] for key, value in inputs.items()} if pairs else inputs
        values = first[name][0].double().cpu().numpy()
        tokens = count_tokens(task.model, first) - encoder.protected
        drawn, grid = sound_view(name, values, encoder.base.config, tokens)
        return ShownRow(
            index=index, label=label, picture=to_data_uri(picture(drawn)), grid=grid, leading=encoder.leading
        )

    return row


def _grid(pixels: Tensor, config: Any) -> tuple[int, int]:
    """Rows and columns of the patches of images `[batch, channels, height, width]`."""
    height, width = pixels.shape[2:]
    patch = config.patch_size
    rows, columns = (patch, patch) if isinstance(patch, int) else patch
    return height // rows, width // columns
