"""Zero-shot image classification: classes are prompts, and the tower that reads the images is reduced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.modeling_outputs import ImageClassifierOutput

from prunesearch.core.errors import PruneSearchError, UnsupportedModelError
from prunesearch.tasks.base import Task
from prunesearch.tasks.data.columns import find_columns
from prunesearch.tasks.data.labels import LabelMap, Raw, free_labels
from prunesearch.tasks.data.split import make_splits
from prunesearch.tasks.kinds.classification import Classification, check_classes
from prunesearch.tasks.kinds.image import load_images
from prunesearch.tasks.libraries import quiet_libraries
from prunesearch.tasks.loading import load_tokenizer, missing_note
from prunesearch.tasks.request import TaskRequest
from prunesearch.tasks.table import ZERO_SHOT

# the prompt of each family's own examples (Radford et al. 2021, section 3.1.4; Zhai et al. 2023)
TEMPLATES = {"clip": "a photo of a {}.", "siglip": "This is a photo of {}."}
_PROMPTS = 64  # texts that are encoded at a time


class ZeroShot(nn.Module):
    """The vision tower of a CLIP or SigLIP, and one text embedding a class; `config` is the tower's.

    Args:
        whole: the model with both towers; its text tower is not kept.
        texts: embeddings of the classes `[classes, width]`, of length 1.
    """

    def __init__(self, whole: Any, texts: Tensor) -> None:
        super().__init__()
        self.vision = whole.vision_model
        self.projection: nn.Module = getattr(whole, "visual_projection", nn.Identity())
        self.config: Any = self.vision.config
        self.texts, self.scale = nn.Buffer(texts), nn.Buffer(whole.logit_scale.detach().exp())
        self.bias = nn.Buffer(getattr(whole, "logit_bias", torch.zeros_like(self.scale)).detach())

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Scaled cosines of images and classes `[batch, classes]`, as `logits_per_image` of the whole model."""
        images = self.projection(self.vision(pixel_values=pixel_values).pooler_output)
        cosines = nn.functional.normalize(images, dim=-1) @ self.texts.T
        return ImageClassifierOutput(logits=cosines * self.scale + self.bias)


def load_zero_shot_task(request: TaskRequest) -> Task:
    """Load model and images, encode a prompt for every class, and return the task."""
    if request.config.model_type not in TEMPLATES:
        raise UnsupportedModelError(
            f"zero-shot classification needs one of {', '.join(TEMPLATES)}, but '{request.model_id}' is "
            f"'{request.config.model_type}': for a head of its own use task image-classification"
        )
    metric, first = request.metric_of(ZERO_SHOT), next(iter(request.source.splits.values()))
    columns = find_columns(request.source, first, "image", request.columns)
    splits = make_splits(request.source, columns, _named_labels, request.sizes, seed=request.seed)
    check_classes(metric, splits.label_names)
    whole, missing = request.load_model(AutoModel)
    template = TEMPLATES[request.config.model_type]
    prompts = [template.format(name.replace("_", " ")) for name in splits.label_names]
    model = ZeroShot(whole, embed_prompts(whole, prompts, request)).eval().requires_grad_(False)
    images = load_images(request, splits, columns, model)
    return Classification(
        name=ZERO_SHOT,
        model=model,
        label_names=splits.label_names,
        metric=metric,
        notes=[
            f"columns: {columns}",
            f"classes are prompts: '{prompts[0]}' and {len(prompts) - 1} more; their embeddings are computed once, "
            "and the image tower alone is reduced and timed",
            *request.source.notes,
            *splits.notes,
            *missing_note(missing),
        ],
        **images.for_task,
    )


def _named_labels(raw: set[Raw], names: list[str] | None) -> LabelMap:
    """Number the classes; the data have to name them."""
    found = free_labels(raw, names)
    if all(name.lstrip("-").isdigit() for name in found.names):
        raise PruneSearchError(
            f"zero-shot classes need names to make prompts of, but got {', '.join(found.names[:4])}: give a label "
            "column with names"
        )
    return found


@torch.no_grad()
def embed_prompts(whole: Any, prompts: list[str], request: TaskRequest) -> Tensor:
    """Text embeddings `[prompts, width]` of length 1, tokenised as the model was trained: SigLIP at full length."""
    tokenizer = load_tokenizer(request.model_id)
    full = request.config.model_type == "siglip"
    with quiet_libraries():
        tokens = tokenizer(
            prompts,
            padding="max_length" if full else True,
            truncation=True,
            max_length=request.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(request.device)
    names = ("input_ids",) if full else ("input_ids", "attention_mask")
    parts = []
    for i in range(0, len(prompts), _PROMPTS):
        made = whole.get_text_features(**{name: tokens[name][i : i + _PROMPTS] for name in names})
        parts.append(nn.functional.normalize(made.pooler_output, dim=-1))
    return torch.cat(parts)
