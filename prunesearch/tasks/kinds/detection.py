"""Object detection with YOLOS (its detection tokens are protected) and DETR (its decoder attends to fewer states)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from prunesearch.core.errors import UnsupportedModelError
from prunesearch.tasks.base import Forward, Outputs, Prepared, Task, output
from prunesearch.tasks.batching.batches import Batch, Inputs
from prunesearch.tasks.batching.pixels import Pixels, Processor
from prunesearch.tasks.data.columns import naming
from prunesearch.tasks.data.image_cells import decode_image, image_size, raw_images
from prunesearch.tasks.data.labels import LabelMap
from prunesearch.tasks.data.split import SplitPart, Splits, few, make_splits
from prunesearch.tasks.kinds.detection_data import Annotations, find_annotations
from prunesearch.tasks.kinds.image import on_demand, repeat_rows
from prunesearch.tasks.loading import count_tokens, load, missing_note
from prunesearch.tasks.metrics.metric import kl_divergence
from prunesearch.tasks.request import TaskRequest, head_of
from prunesearch.tasks.table import DETECTION

_CALIBRATION, _HOLDOUT = 100, 300  # rows, unless the user says otherwise: images of this size take long
_SURE = 0.5  # probability from which on a detection is shown


@dataclass
class Detection(Task):
    """Boxes around objects, a fixed number of queries a row; labels are `Objects`.

    Attributes:
        processor: the model's image processor, which turns its outputs into boxes in pixels.
    """

    processor: Any = None

    def outputs(self, forward: Forward, batch: Batch) -> Outputs:
        """Class logits `[b, queries, classes + 1]`, the last one of no object, and boxes `[b, queries, 4]`.

        Boxes are centre, width and height as shares of the image.
        """
        found = forward(**batch.inputs)
        return {"logits": output(found, "logits"), "boxes": output(found, "pred_boxes")}

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
    sizes = few(request.sizes, _CALIBRATION, _HOLDOUT)
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
        **images.for_task,
    )


def _prepare(
    request: TaskRequest, splits: Splits, annotations: Annotations, processor: Any, model: nn.Module
) -> Prepared:
    """Decode and preprocess the images of every split to one size, with their objects."""
    name, base = str(annotations.columns.image), request.source.base
    sizes = {role: _sizes(part, name, base) for role, part in splits.parts.items()}
    shapes = sorted((height / width, height, width) for width, height in sizes["calibration"])
    _, height, width = shapes[len(shapes) // 2]
    blank = processor(images=Image.new("RGB", (width, height)), return_tensors="pt")["pixel_values"]
    canvas = {"height": int(blank.shape[-2]), "width": int(blank.shape[-1])}
    made = Processor(processor, _pixel_values, {"size": canvas})
    sets = {}
    for role, part in splits.parts.items():
        cells = raw_images(part.rows, name).select_columns([name])[name]
        marks = part.rows.select_columns([annotations.objects])[annotations.objects]
        labels = []
        for place, (mark, size) in enumerate(zip(marks, sizes[role], strict=True)):
            with naming(part.name_of, place):
                labels.append(annotations.of(mark, *size))
        pixels = Pixels(cells, part.name_of, partial(decode_image, base=base), made, request.device, request.dtype)
        sets[role] = on_demand(role, part, pixels, request, labels=labels)
    tokens = count_tokens(model, sets["calibration"].batches[0].inputs)
    note = (
        f"images are resized to {canvas['height']} x {canvas['width']}, what the model's processor makes of the one of "
        "middling shape: batches need one size, and padding would be tokens too"
    )
    return Prepared(sets, tokens, repeat_rows(sets["calibration"]), [note])


def _sizes(part: SplitPart, name: str, base: Path | None) -> list[tuple[int, int]]:
    """Width and height of every image of a split."""
    found = []
    for place, row in enumerate(raw_images(part.rows, name).select_columns([name])):
        with naming(part.name_of, place):
            found.append(image_size(row[name], base))
    return found


def _pixel_values(inputs: Inputs) -> Inputs:
    """The images alone: nothing is padded, so that a mask would say nothing."""
    return {"pixel_values": inputs["pixel_values"]}
