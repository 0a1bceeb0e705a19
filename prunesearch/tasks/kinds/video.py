"""Video classification with Hugging Face models that turn a clip into space-time tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

import transformers
from torch import nn
from transformers import AutoImageProcessor, AutoModelForVideoClassification

from prunesearch.core.errors import UnsupportedModelError
from prunesearch.tasks.base import Prepared, Task
from prunesearch.tasks.batching.pixels import Pixels, Processor
from prunesearch.tasks.data.columns import Columns
from prunesearch.tasks.data.split import Splits, few
from prunesearch.tasks.data.video_cells import decode_video, raw_videos
from prunesearch.tasks.kinds.classification import load_classifier
from prunesearch.tasks.kinds.image import on_demand, repeat_rows
from prunesearch.tasks.loading import accepted, count_tokens, load
from prunesearch.tasks.request import TaskRequest, head_of
from prunesearch.tasks.table import VIDEO

_CALIBRATION, _HOLDOUT = 150, 300  # rows, unless the user says otherwise: each is many frames


def load_video_task(request: TaskRequest) -> Task:
    """Load model and videos, and return the task."""
    if head_of(request.config) != VIDEO:
        raise UnsupportedModelError(
            f"video classification needs a checkpoint with that head, but '{request.model_id}' has "
            f"{', '.join(request.config.architectures or ['none'])}: use a fine-tuned one"
        )
    sizes = few(request.sizes, _CALIBRATION, _HOLDOUT)
    return load_classifier(request, VIDEO, "video", AutoModelForVideoClassification, load_videos, sizes)[0]


def load_videos(request: TaskRequest, splits: Splits, columns: Columns, model: nn.Module) -> Prepared:
    """Decode the videos of every split; they are preprocessed as the model's own processor does, when they are used."""
    frames, name = int(request.config.num_frames), str(columns.video)
    processor = Processor(_processor(request), partial(accepted, model), frames=frames)
    decode = partial(decode_video, base=request.source.base, frames=frames)
    sets = {}
    for role, part in splits.parts.items():
        cells = raw_videos(part.rows, name).select_columns([name])[name]
        pixels = Pixels(cells, part.name_of, decode, processor, request.device, request.dtype)
        sets[role] = on_demand(role, part, pixels, request, "videos")
    tokens = count_tokens(model, sets["calibration"].batches[0].inputs)
    note = f"of every video, {request.config.num_frames} frames at even distances are taken"
    return Prepared(sets, tokens, repeat_rows(sets["calibration"]), [note])


def _processor(request: TaskRequest) -> Any:
    """What prepares frames, computed by PIL and numpy, so that installing torchvision changes no number."""
    if request.config.model_type == "vivit":  # the automatic class thinks that it needs torchvision
        return load(transformers.VivitImageProcessor, request.model_id, "image processor")
    return load(AutoImageProcessor, request.model_id, "image processor", backend="pil")
