"""Video classification with Hugging Face models that turn a clip into space-time tokens."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import transformers
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModelForVideoClassification

from prunesearch.core.errors import PruneSearchError, UnsupportedModelError
from prunesearch.core.events import track
from prunesearch.tasks.base import Batch, EvalSet, Prepared, Task, chunks
from prunesearch.tasks.data.columns import Columns
from prunesearch.tasks.data.sources import one_line
from prunesearch.tasks.data.split import Part, Splits, few
from prunesearch.tasks.data.video_cells import decode_video, raw_videos
from prunesearch.tasks.kinds.classification import load_classifier
from prunesearch.tasks.kinds.image import repeat_rows
from prunesearch.tasks.loading import accepted, count_tokens, load, to_device
from prunesearch.tasks.request import TaskRequest, head_of
from prunesearch.tasks.table import VIDEO

_CALIBRATION, _HOLDOUT = 150, 300  # rows, unless the user says otherwise: frames fill the memory
_DECODED = 8  # clips in memory at a time


def load_video_task(request: TaskRequest) -> Task:
    """Load model and videos, preprocess them once, and return the task."""
    if head_of(request.config) != VIDEO:
        raise UnsupportedModelError(
            f"video classification needs a checkpoint with that head, but '{request.model_id}' has "
            f"{', '.join(request.config.architectures or ['none'])}: use a fine-tuned one"
        )
    sizes = few(request.sizes, request.source, _CALIBRATION, _HOLDOUT)
    return load_classifier(request, VIDEO, "video", AutoModelForVideoClassification, load_videos, sizes)[0]


def load_videos(request: TaskRequest, splits: Splits, columns: Columns, model: nn.Module) -> Prepared:
    """Decode and preprocess the videos of every split, as the model's own processor does."""
    processor = _processor(request)
    sets = {role: _preprocess(role, part, columns, processor, model, request) for role, part in splits.parts.items()}
    tokens = count_tokens(model, sets["calibration"].batches[0].inputs)
    note = f"of every video, {request.config.num_frames} frames at even distances are taken"
    return Prepared(sets, tokens, repeat_rows(sets["calibration"]), [note])


def _processor(request: TaskRequest) -> Any:
    """What prepares frames, computed by PIL and numpy, so that installing torchvision changes no number."""
    if request.config.model_type == "vivit":  # the automatic class thinks that it needs torchvision
        return load(transformers.VivitImageProcessor, request.model_id, "image processor")
    return load(AutoImageProcessor, request.model_id, "image processor", backend="pil")


def _preprocess(
    role: str, part: Part, columns: Columns, processor: Any, model: nn.Module, request: TaskRequest
) -> EvalSet:
    """Decode and process every video once; batches lie on the model's device, in its dtype."""
    batches: list[Batch] = []
    shown = track(_videos(part, columns, request), len(part.labels), f"Preparing {role} videos")
    done = 0
    for chunk in chunks(shown, request.batch_size):
        index = torch.arange(done, done + len(chunk))
        done += len(chunk)
        try:
            processed = processor(chunk, return_tensors="pt")
        except ValueError as error:
            raise PruneSearchError(
                f"the model's image processor refuses the frames of '{request.source.name}': {one_line(error)}"
            ) from error
        inputs = to_device(accepted(model, dict(processed)), request.device, request.dtype)
        labels = torch.from_numpy(part.labels[index.numpy()]).to(request.device)
        batches.append(Batch(inputs, labels, index))
    return EvalSet(role, batches)


def _videos(part: Part, columns: Columns, request: TaskRequest) -> Iterator[list[Image.Image]]:
    """Yield the frames of every video, in order."""
    name, base, count = str(columns.video), request.source.base, int(request.config.num_frames)
    cells = (row[name] for row in raw_videos(part.rows, name).select_columns([name]))
    with ThreadPoolExecutor() as pool:
        for chunk in chunks(cells, _DECODED):
            yield from pool.map(lambda cell: decode_video(cell, base, count), chunk)
