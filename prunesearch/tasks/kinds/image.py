"""Image classification with Hugging Face image models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from prunesearch.core.errors import PruneSearchError, UnsupportedModelError
from prunesearch.core.events import track
from prunesearch.tasks.base import Batch, EvalSet, Inputs, Prepared, Sample, Task, chunks, merge_batches
from prunesearch.tasks.data.columns import Columns, decode_image, raw_images
from prunesearch.tasks.data.sources import one_line
from prunesearch.tasks.data.split import Part, Splits
from prunesearch.tasks.kinds.classification import load_classifier
from prunesearch.tasks.loading import accepted, count_tokens, load, to_device
from prunesearch.tasks.request import TaskRequest, head_of
from prunesearch.tasks.table import IMAGE

SAMPLES = 8


def load_image_task(request: TaskRequest) -> Task:
    """Load model and images, preprocess them once, and return the task."""
    if head_of(request.config) != IMAGE:
        raise UnsupportedModelError(
            f"image classification needs a checkpoint with that head, but '{request.model_id}' has "
            f"{', '.join(request.config.architectures or ['none'])}: use a fine-tuned one"
        )
    made, splits, columns = load_classifier(request, IMAGE, "image", AutoModelForImageClassification, load_images)
    made.samples = _samples(splits.parts["calibration"], columns, request)
    return made


def load_images(request: TaskRequest, splits: Splits, columns: Columns, model: nn.Module) -> Prepared:
    """Decode and preprocess the images of every split, as the model's own processor does."""
    # The PIL backend always, so that installing torchvision changes no number.
    processor = load(AutoImageProcessor, request.model_id, "image processor", backend="pil")
    sets = {role: _preprocess(role, part, columns, processor, model, request) for role, part in splits.parts.items()}
    tokens = count_tokens(model, sets["calibration"].batches[0].inputs)
    return Prepared(sets, tokens, repeat_rows(sets["calibration"]))


def repeat_rows(data: EvalSet) -> Callable[[int], Inputs]:
    """Return a function that gives the first `b` rows as one batch, starting over when they run out."""

    def timing_inputs(batch_size: int) -> Inputs:
        n = min(batch_size, data.n)
        rows = merge_batches(data.take(n).batches, data.padding)
        return rows.rows(torch.arange(batch_size) % n).inputs if n < batch_size else rows.inputs

    return timing_inputs


def _preprocess(
    role: str, part: Part, columns: Columns, processor: Any, model: nn.Module, request: TaskRequest
) -> EvalSet:
    """Decode and process every image once; batches lie on the model's device, in its dtype."""
    images = _pictures(part, columns, request)
    batches = []
    total = len(part.labels)
    shown = track(images, total, f"Preparing {role} images")
    for start, chunk in enumerate(chunks(shown, request.batch_size)):
        index = torch.arange(start * request.batch_size, start * request.batch_size + len(chunk))
        try:
            processed = processor(images=chunk, return_tensors="pt")
        except ValueError as error:
            raise PruneSearchError(
                f"the model's image processor refuses the images of '{request.source.name}': {one_line(error)}"
            ) from error
        inputs = to_device(accepted(model, dict(processed)), request.device, request.dtype)
        labels = torch.from_numpy(part.labels[index.numpy()]).to(request.device)
        batches.append(Batch(inputs, labels, index))
    return EvalSet(role, batches)


def _pictures(part: Part, columns: Columns, request: TaskRequest) -> Iterator[Any]:
    """Yield the decoded images in order; PIL decodes outside the interpreter's lock, so threads help."""
    name = columns.image
    mode = "L" if getattr(request.config, "num_channels", 3) == 1 else "RGB"
    cells = (row[name] for row in raw_images(part.rows, str(name)).select_columns([name]))
    with ThreadPoolExecutor() as pool:
        for chunk in chunks(cells, 64):  # a bounded queue, so that large images do not pile up
            yield from pool.map(lambda cell: decode_image(cell, request.source.base, mode), chunk)


def _samples(part: Part, columns: Columns, request: TaskRequest) -> list[Sample]:
    rows = raw_images(part.rows, str(columns.image))
    count = min(SAMPLES, len(part.labels))
    return [
        Sample(decode_image(rows[i][columns.image], request.source.base), int(part.labels[i]), i) for i in range(count)
    ]
