"""Object detection with YOLOS (its detection tokens are protected) and DETR (its decoder attends to fewer states)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from prunesearch.core.errors import PruneSearchError, UnsupportedModelError
from prunesearch.core.events import track
from prunesearch.tasks.base import Batch, EvalSet, Inputs, Outputs, Prepared, Task, chunks
from prunesearch.tasks.data.columns import decode_image, raw_images
from prunesearch.tasks.data.labels import LabelMap
from prunesearch.tasks.data.sources import one_line
from prunesearch.tasks.data.split import Part, Splits, few, make_splits
from prunesearch.tasks.kinds.detection_data import Annotations, find_annotations
from prunesearch.tasks.kinds.image import repeat_rows
from prunesearch.tasks.loading import count_tokens, load, missing_note, to_device
from prunesearch.tasks.metrics.metric import kl_divergence
from prunesearch.tasks.request import TaskRequest, head_of
from prunesearch.tasks.table import DETECTION

_CALIBRATION, _HOLDOUT = 100, 300  # rows, unless the user says otherwise: images of this size fill the memory
_SURE = 0.5  # probability from which on a detection is shown


@dataclass
class Detection(Task):
    """Boxes around objects, a fixed number of queries a row; labels are `Objects`.

    Attributes:
        processor: the model's image processor, which turns its outputs into boxes in pixels.
    """

    processor: Any = None

    def outputs(self, batch: Batch) -> Outputs:
        """Class logits `[b, queries, classes + 1]`, the last one of no object, and boxes `[b, queries, 4]`.

        Boxes are centre, width and height as shares of the image.
        """
        found = self.model(**batch.inputs)
        return {"logits": found.logits, "boxes": found.pred_boxes}

    def divergence(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean over the queries of the classes' KL divergence (nats) and the boxes' distance, `[b]`.

        A query is compared with itself: what it looks for was learned. The distance is the L1 of the box in shares of
        the image, times the unpruned model's probability that the query has an object at all.
        """
        kl = kl_divergence(reference["logits"], outputs["logits"])
        objects = 1 - reference["logits"].float().softmax(dim=-1)[..., -1]
        moved = (reference["boxes"].float() - outputs["boxes"].float()).abs().sum(dim=-1)
        return (kl + objects * moved).mean(dim=1)

    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Share of the queries that either finds an object with whose class is the same, `[b]`; 1 where none does."""
        before, after = (x["logits"].argmax(dim=-1) for x in (reference, outputs))
        nothing = reference["logits"].shape[-1] - 1
        said = (before != nothing) | (after != nothing)
        same = ((before == after) & said).sum(dim=1) / said.sum(dim=1).clamp(min=1)
        return same.where(said.any(dim=1), 1.0)

    def answers(self, outputs: Outputs, batch: Batch) -> list[dict[str, Tensor]]:
        """Of every image all its queries: "scores" `[d]`, "labels" `[d]`, "boxes" `[d, 4]` (corners in pixels)."""
        made = SimpleNamespace(logits=outputs["logits"].float(), pred_boxes=outputs["boxes"].float())
        sizes = [(objects.height, objects.width) for objects in batch.labels]
        found: list[dict[str, Tensor]] = self.processor.post_process_object_detection(
            made, threshold=0.0, target_sizes=sizes
        )
        return found

    def shown(self, outputs: Outputs, batch: Batch) -> list[str]:
        """How many of which class are found, by those of at least 0.5."""
        return [
            self._counted(found["labels"][found["scores"] >= _SURE].tolist()) for found in self.answers(outputs, batch)
        ]

    def shown_labels(self, batch: Batch) -> list[str]:
        """How many of which class there are."""
        return [self._counted(objects.classes.tolist()) for objects in batch.labels]

    def _counted(self, classes: list[int]) -> str:
        parts = [f"{classes.count(c)} {self.label_names[c]}" for c in sorted(set(classes))]
        return ", ".join(parts) or "nothing"


def load_detection_task(request: TaskRequest) -> Task:
    """Load model and images with boxes, preprocess them once, and return the task."""
    if head_of(request.config) != DETECTION:
        raise UnsupportedModelError(
            f"object detection needs a checkpoint with that head, but '{request.model_id}' has "
            f"{', '.join(request.config.architectures or ['none'])}: use a fine-tuned one"
        )
    source = request.source
    annotations = find_annotations(source, request.columns, request.config.id2label)
    sizes = few(request.sizes, source, _CALIBRATION, _HOLDOUT)
    splits = make_splits(
        source, annotations.columns, lambda raw, names: LabelMap(["row"], {0: 0}), sizes, seed=request.seed
    )
    model, missing = request.load_model(
        AutoModelForObjectDetection,
        attention={"": request.attention},  # the backbone of a DETR is convolutional and has none to set
    )
    processor = load(AutoImageProcessor, request.model_id, "image processor", backend="pil")
    images = _prepare(request, splits, annotations, processor, model)
    return Detection(
        name=DETECTION,
        model=model,
        calibration=images.sets["calibration"],
        holdout=images.sets["holdout"],
        tokens=images.tokens,
        timing_inputs=images.timing_inputs,
        label_names=annotations.names,
        metric=request.metric_of(DETECTION),
        notes=[
            f"columns: {annotations.columns}, objects={annotations.objects}",
            *source.notes,
            *annotations.notes,
            *splits.notes,
            *missing_note(missing),
            *images.notes,
        ],
        processor=processor,
    )


def _prepare(
    request: TaskRequest, splits: Splits, annotations: Annotations, processor: Any, model: nn.Module
) -> Prepared:
    """Decode and preprocess the images of every split to one size, with their objects."""
    name, base = str(annotations.columns.image), request.source.base
    shapes = sorted(
        (image.height / image.width, image.height, image.width)
        for image in _pictures(splits.parts["calibration"], name, base)
    )
    _, height, width = shapes[len(shapes) // 2]
    blank = processor(images=Image.new("RGB", (width, height)), return_tensors="pt")["pixel_values"]
    canvas = {"height": int(blank.shape[-2]), "width": int(blank.shape[-1])}
    sets = {}
    for role, part in splits.parts.items():
        batches: list[Batch] = []
        pictures = track(_pictures(part, name, base), len(part.labels), f"Preparing {role} images")
        done = 0
        for chunk in chunks(pictures, request.batch_size):
            index = torch.arange(done, done + len(chunk))
            cells = part.rows[done : done + len(chunk)][annotations.objects]
            done += len(chunk)
            labels = [annotations.of(cell, image) for cell, image in zip(cells, chunk, strict=True)]
            batches.append(Batch(_pixels(chunk, processor, canvas, request), labels, index))
        sets[role] = EvalSet(role, batches)
    tokens = count_tokens(model, sets["calibration"].batches[0].inputs)
    note = (
        f"images are resized to {canvas['height']} x {canvas['width']}, what the model's processor makes of the one of "
        "middling shape: batches need one size, and padding would be tokens too"
    )
    return Prepared(sets, tokens, repeat_rows(sets["calibration"]), [note])


def _pixels(images: list[Image.Image], processor: Any, canvas: dict[str, int], request: TaskRequest) -> Inputs:
    try:
        made = processor(images=images, size=canvas, return_tensors="pt")
    except ValueError as error:
        raise PruneSearchError(
            f"the model's image processor refuses the images of '{request.source.name}': {one_line(error)}"
        ) from error
    # nothing is padded, so that a mask would say nothing
    return to_device({"pixel_values": made["pixel_values"]}, request.device, request.dtype)


def _pictures(part: Part, name: str, base: Path | None) -> Iterator[Image.Image]:
    """Yield the decoded images of a split, in order."""
    for row in raw_images(part.rows, name).select_columns([name]):
        yield decode_image(row[name], base)
