"""A tiny real ViT with data, and a cost model that needs no clock."""

from __future__ import annotations

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from prunesearch.core.plans.schedule import Schedule
from prunesearch.pruning.apply import Handle, apply_
from prunesearch.search.space.space import Space
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import Batch, EvalSet, Held
from prunesearch.tasks.kinds.classification import Classification
from tests.support.fakes import DEPTH, TOKENS, LinearCosts, make_space


@pytest.fixture
def costs() -> LinearCosts:
    return LinearCosts()


@pytest.fixture
def space() -> Space:
    return make_space()


@pytest.fixture(scope="session")
def vit_task() -> Task:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = ViTConfig(
        image_size=16,
        patch_size=4,
        hidden_size=32,
        num_hidden_layers=DEPTH,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=5,
        initializer_range=0.3,  # random weights with opinions: differences must show
    )
    model = ViTForImageClassification._from_config(config, attn_implementation="sdpa").double().eval()
    pixels = torch.randn(24, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        labels = model(pixel_values=pixels).logits.argmax(-1)
    labels[::4] = (labels[::4] + 1) % 5  # a model that is right on three rows of four

    def split(name: str, rows: slice) -> EvalSet:
        index = torch.arange(len(range(*rows.indices(24))))
        pieces = zip(pixels[rows].split(5), labels[rows].split(5), index.split(5), strict=True)
        return EvalSet(name, Held([Batch({"pixel_values": p}, y, i) for p, y, i in pieces]))

    return Classification(
        name="image-classification",
        model=model,
        splits={"calibration": split("calibration", slice(0, 12)), "holdout": split("holdout", slice(12, 24))},
        tokens=TOKENS,
        timing_inputs=lambda b: {"pixel_values": pixels[:b]},
        label_names=[str(i) for i in range(5)],
    )


@pytest.fixture
def handle(vit_task: Task):  # type: ignore[no-untyped-def]
    made: Handle = apply_(vit_task.model, Schedule())
    yield made
    made.remove()
