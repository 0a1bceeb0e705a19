"""What all tests of training stand on."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import EvalSet, Held


@pytest.fixture
def task(vit_task: Task) -> Task:
    """The tiny ViT in float32."""
    model = copy.deepcopy(vit_task.model).float().requires_grad_(False)

    def single(split: EvalSet) -> EvalSet:
        batches = [replace(b, inputs={name: value.float() for name, value in b.inputs.items()}) for b in split.batches]
        return replace(split, batches=Held(batches))

    splits = {name: single(split) for name, split in vit_task.splits.items()}
    return replace(vit_task, model=model, splits=splits)
