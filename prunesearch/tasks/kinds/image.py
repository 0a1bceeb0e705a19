"""Image classification with Hugging Face image models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from prunesearch.core.errors import UnsupportedModelError
from prunesearch.core.events import track
from prunesearch.tasks.base import Prepared, Sample, Task
from prunesearch.tasks.batching.batches import EvalSet, Inputs, Labels, OnDemand, merge_batches
from prunesearch.tasks.batching.pixels import Pixels, Processor
from prunesearch.tasks.data.columns import Columns
from prunesearch.tasks.data.image_cells import decode_image, raw_images
from prunesearch.tasks.data.split import SplitPart, Splits
from prunesearch.tasks.kinds.classification import load_classifier
from prunesearch.tasks.loading import accepted, count_tokens, load
from prunesearch.tasks.request import TaskRequest, head_of
from prunesearch.tasks.table import IMAGE

SAMPLES = 8


def load_image_task(request: TaskRequest) -> Task:
    """Load model and images, and return the task."""
    if head_of(request.config) != IMAGE:
        raise UnsupportedModelError(
            f"image classification needs a checkpoint with that head, but '{request.model_id}' has "
            f"{', '.join(request.config.architectures or ['none'])}: use a fine-tuned one"
        )
    made, splits, columns = load_classifier(request, IMAGE, "image", AutoModelForImageClassification, load_images)
    made.samples = _samples(splits.parts["calibration"], columns, request)
    return made


def load_images(request: TaskRequest, splits: Splits, columns: Columns, model: nn.Module) -> Prepared:
    """Decode the images of every split; they are preprocessed as the model's own processor does, when they are used."""
    # The PIL backend always, so that installing torchvision changes no number.
    processor = Processor(
        load(AutoImageProcessor, request.model_id, "image processor", backend="pil"), partial(accepted, model)
    )
    mode = "L" if getattr(request.config, "num_channels", 3) == 1 else "RGB"
    decode, name = partial(decode_image, base=request.source.base, mode=mode), str(columns.image)
    sets = {}
    for role, part in splits.parts.items():
        cells = raw_images(part.rows, name).select_columns([name])[name]
        sets[role] = on_demand(
            role, part, Pixels(cells, part.name_of, decode, processor, request.device, request.dtype), request
        )
    tokens = count_tokens(model, sets["calibration"].batches[0].inputs)
    return Prepared(sets, tokens, repeat_rows(sets["calibration"]))


def on_demand(
    role: str, part: SplitPart, pixels: Pixels, request: TaskRequest, what: str = "images", labels: Labels | None = None
) -> EvalSet:
    """A split whose batches are made of `pixels` when they are used.

    Args:
        role: name of the split.
        part: its rows.
        pixels: makes inputs of them.
        request: says how many rows a batch has.
        what: they are, for a progress bar.
        labels: of all rows; None: their class ids.
    """
    for _ in track(pixels.check(), len(part.labels), f"Decoding {role} {what}"):
        pass
    given = torch.from_numpy(part.labels).to(request.device) if labels is None else labels
    return EvalSet(role, OnDemand(pixels, list(torch.split(torch.arange(len(part.labels)), request.batch_size)), given))


def repeat_rows(data: EvalSet) -> Callable[[int], Inputs]:
    """Return a function that gives the first `b` rows as one batch, starting over when they run out."""

    def timing_inputs(batch_size: int) -> Inputs:
        n = min(batch_size, data.n)
        rows = merge_batches(list(data.take(n).batches), data.padding)
        return rows.rows(torch.arange(batch_size) % n).inputs if n < batch_size else rows.inputs

    return timing_inputs


def _samples(part: SplitPart, columns: Columns, request: TaskRequest) -> list[Sample]:
    rows = raw_images(part.rows, str(columns.image))
    count = min(SAMPLES, len(part.labels))
    return [
        Sample(decode_image(rows[i][columns.image], request.source.base), int(part.labels[i]), i) for i in range(count)
    ]
