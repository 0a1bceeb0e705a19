"""What a schedule does to data: the patches or words that are kept, merged and dropped, for the report."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from prunesearch.core.schedule import Schedule
from prunesearch.pruning.apply import Handle
from prunesearch.pruning.trace import StageTrace, Trace
from prunesearch.results.front import Point
from prunesearch.results.pictures import patch_pictures, to_data_uri, token_spans
from prunesearch.tasks.base import Inputs, Sample, Task

_SAMPLES = 2  # shown for every point


def illustrate(task: Task, handle: Handle, points: list[Point], model_id: str) -> tuple[list[Any], list[Any]]:
    """Trace a few calibration rows through every point.

    Returns:
        `(pictures, texts)` in the form that `results.report.write_report` takes.
    """
    pictures: list[Any] = []
    texts: list[Any] = []
    handle.trace = Trace()
    try:
        for point in points:
            handle.set(point.to_schedule())
            for sample in task.samples[:_SAMPLES]:
                stages = _traced(task, handle, _inputs_of(task, sample))
                title = _title(task, sample)
                if isinstance(sample.content, Image):
                    shown = _picture_stages(sample.content, stages, handle)
                    pictures.append({"point": point.id, "title": title, "stages": shown})
                else:
                    shown = _text_stages(stages, handle, _inputs_of(task, sample), model_id)
                    texts.append({"point": point.id, "title": title, "stages": shown})
    finally:
        handle.trace = None
        handle.set(Schedule())
    return pictures, texts


def _title(task: Task, sample: Sample) -> str:
    label = task.label_names[sample.label] if sample.label < len(task.label_names) else str(sample.label)
    return f"calibration row {sample.index}: {label}"


def _inputs_of(task: Task, sample: Sample) -> Inputs:
    """The row's model inputs, padding cut off."""
    for batch in task.calibration.batches:
        place = (batch.index == sample.index).nonzero().flatten()
        if len(place):
            row = batch.rows(place).inputs
            mask = row.get("attention_mask")
            length = None if mask is None else int(mask.sum())
            return row if length is None else {name: value[:, :length] for name, value in row.items()}
    raise LookupError(f"row {sample.index} is not in the calibration split")


@torch.inference_mode()
def _traced(task: Task, handle: Handle, inputs: Inputs) -> list[StageTrace]:
    task.model(**inputs)
    assert handle.trace is not None  # set by the caller
    return list(handle.trace.stages)


def _captions(stages: list[StageTrace]) -> list[str]:
    return [f"after block {s.stage.layer}: {s.source.shape[1]} tokens, {s.stage.method}" for s in stages]


def _sources(stages: list[StageTrace]) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    return [s.source[0].double().cpu().numpy() for s in stages]


def _picture_stages(image: Image, stages: list[StageTrace], handle: Handle) -> list[dict[str, str]]:
    config = handle.encoder.base.config
    size, patch = _pair(config.image_size), _pair(config.patch_size)
    grid = (size[0] // patch[0], size[1] // patch[1])
    captions = _captions(stages)
    drawn = patch_pictures(image, _sources(stages), captions, grid, handle.encoder.protected)
    return [{"caption": c, "png": to_data_uri(p)} for c, p in zip(captions, drawn, strict=True)]


def _text_stages(stages: list[StageTrace], handle: Handle, inputs: Inputs, model_id: str) -> list[dict[str, Any]]:
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(model_id).convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    places = np.arange(len(tokens))
    protected = (places < handle.encoder.leading) | (places >= len(tokens) - handle.encoder.family.trailing)
    pairs = zip(_captions(stages), _sources(stages), strict=True)
    return [{"caption": c, "spans": token_spans(tokens, s, protected)} for c, s in pairs]


def _pair(value: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
