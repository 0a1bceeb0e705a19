"""What the points of a front do to data: a few rows of the calibration split, traced stage by stage, to look at."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prunesearch.core.schedule import Schedule
from prunesearch.pruning.apply import Handle
from prunesearch.pruning.trace import Trace as StageTraces
from prunesearch.results.front import Point
from prunesearch.results.pictures import owners, to_data_uri
from prunesearch.results.views.samples import Row, Stage, Trace
from prunesearch.tasks.base import EvalSet, Inputs, Task
from prunesearch.tasks.metrics import kl_divergence

_SHOWN = 2  # rows that are traced under every point
_WORST = 2  # rows that are traced under a point because it changes their answer
_SEARCHED = 128  # calibration rows that are looked through for these
_WIDEST = 224  # pixels of a picture


def illustrate(task: Task, handle: Handle, points: list[Point], model_id: str) -> tuple[list[Row], list[Trace]]:
    """Trace a few calibration rows through every point, and those whose answer it changes most.

    The rows are numbered at random, so the first ones are an unbiased choice; the worst are the rows, of the first
    `_SEARCHED`, whose answer changes and whose outputs diverge most from the unpruned model's.

    Args:
        task: the model with its data.
        handle: of the task's model; the empty schedule is left on it.
        points: of the front.
        model_id: folder or Hub id that tokenizer and image processor come from.

    Returns:
        The rows, and what each point made of which, as `results.views.samples.Samples` holds them.
    """
    split = task.calibration.take(_SEARCHED)
    show = _pictures(handle, model_id) if "pixel_values" in split.batches[0].inputs else _texts(handle, model_id)
    handle.set(Schedule())
    reference = _logits(task, split)
    ordinary = list(range(min(_SHOWN, split.n)))
    shown: set[int] = set()
    traces = []
    try:
        for point in points:
            handle.set(point.to_schedule())
            pruned = _logits(task, split)
            for row in dict.fromkeys([*ordinary, *_worst(reference, pruned)]):
                shown.add(row)
                answers = (_name(task, logits[row]) for logits in (reference, pruned))
                traces.append(_trace(task, handle, point.id, row, _inputs_of(split, row), *answers))
    finally:
        handle.set(Schedule())
    labels = dict(zip(_indices(split).tolist(), split.labels.tolist(), strict=True))
    rows = [show(row, _label(task, labels[row]), _inputs_of(split, row)) for row in sorted(shown)]
    return rows, traces


def _worst(reference: Tensor, pruned: Tensor) -> list[int]:
    """Rows whose answer changed, the most divergent first."""
    changed = (reference.argmax(dim=1) != pruned.argmax(dim=1)).nonzero().flatten()
    kl = kl_divergence(reference[changed], pruned[changed])
    return [int(row) for row in changed[kl.argsort(descending=True)[:_WORST]]]


@torch.inference_mode()
def _logits(task: Task, split: EvalSet) -> Tensor:
    """Outputs of all rows `[n, classes]`, by their number in the split, on the CPU."""
    parts = [task.logits(task.model(**batch.inputs)).float().cpu() for batch in split.batches]
    return torch.cat(parts)[_indices(split).argsort()]


def _indices(split: EvalSet) -> Tensor:
    return torch.cat([batch.index for batch in split.batches])


@torch.inference_mode()
def _trace(task: Task, handle: Handle, point: str, row: int, inputs: Inputs, unpruned: str, pruned: str) -> Trace:
    """One row through the schedule that the handle carries."""
    handle.trace = traces = StageTraces()
    try:
        task.model(**inputs)
    finally:
        handle.trace = None
    stages = [
        Stage(
            layer=found.stage.layer,
            tokens=found.source.shape[1],
            method=found.stage.method,
            owner=owners(found.source[0].double().cpu().numpy()),
        )
        for found in traces.stages
    ]
    return Trace(point=point, row=row, unpruned=unpruned, pruned=pruned, stages=stages)


def _inputs_of(split: EvalSet, row: int) -> Inputs:
    """The row's model inputs, padding cut off."""
    for batch in split.batches:
        place = (batch.index == row).nonzero().flatten()
        if len(place):
            inputs = batch.rows(place).inputs
            mask = inputs.get("attention_mask")
            length = None if mask is None else int(mask.sum())
            return inputs if length is None else {name: value[:, :length] for name, value in inputs.items()}
    raise LookupError(f"row {row} is not in the calibration split")


def _name(task: Task, logits: Tensor) -> str:
    return _label(task, int(logits.argmax()))


def _label(task: Task, label: int) -> str:
    return task.label_names[label] if label < len(task.label_names) else str(label)


def _pictures(handle: Handle, model_id: str) -> Any:
    """A function that makes a row of an image, as the model sees it: resized, cropped, its colours put back."""
    from transformers import AutoImageProcessor

    processor: Any = AutoImageProcessor
    processor = processor.from_pretrained(model_id, backend="pil")
    config = handle.encoder.base.config
    size, patch = _pair(config.image_size), _pair(config.patch_size)
    grid = (size[0] // patch[0], size[1] // patch[1])
    normalised = bool(processor.do_normalize)
    mean, std = (np.array(processor.image_mean), np.array(processor.image_std)) if normalised else (0.0, 1.0)

    def row(index: int, label: str, inputs: Inputs) -> Row:
        pixels = inputs["pixel_values"][0].float().cpu().numpy().transpose(1, 2, 0)
        scaled = (pixels * std + mean).clip(0, 1) * 255
        image = Image.fromarray(np.broadcast_to(scaled, (*scaled.shape[:2], 3)).round().astype(np.uint8))
        image.thumbnail((_WIDEST, _WIDEST))
        leading = handle.encoder.leading
        return Row(index=index, label=label, picture=to_data_uri(image), grid=grid, leading=leading)

    return row


def _texts(handle: Handle, model_id: str) -> Any:
    """A function that makes a row of a text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_id)
    encoder = handle.encoder

    def row(index: int, label: str, inputs: Inputs) -> Row:
        words = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        return Row(index=index, label=label, words=words, leading=encoder.leading, trailing=encoder.family.trailing)

    return row


def _pair(value: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
