"""Rows of a trial: as many as a loss is known well enough by, and the same for all who have a part in a study."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from prunesearch.core.events import Event, Note, listening
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.search_rows import pilots_of, rows_for
from prunesearch.tasks.base import Task
from prunesearch.tasks.objects import task_of
from tests.support.fakes import make_space


@pytest.fixture(scope="module")
def task() -> Task:
    torch.manual_seed(0)
    shape = {"image_size": 16, "patch_size": 4, "num_channels": 1, "hidden_size": 32, "intermediate_size": 64}
    heads = {"num_hidden_layers": 4, "num_attention_heads": 2, "num_labels": 5, "initializer_range": 0.3}
    pixels = torch.randn(600, 1, 16, 16)
    model = ViTForImageClassification(ViTConfig(**shape, **heads)).eval()
    return task_of(model, {"calibration": (pixels, None), "holdout": (pixels[:16], None)})


def rows(task: Task, error: float, most: int = 600) -> tuple[int, list[str]]:
    events: list[Event] = []
    space = make_space()
    with listening(events.append), apply_(task.model, Schedule()) as handle:
        found = rows_for(task, handle, task.calibration.take(most), pilots_of(space), error)
    return found, [event.text for event in events if isinstance(event, Note)]


def test_a_loss_that_is_wanted_more_exactly_takes_more_rows_up_to_all(task: Task) -> None:
    loose, fine = (rows(task, error)[0] for error in (0.5, 0.04))
    assert loose == 128
    assert loose < fine <= 600
    assert rows(task, 1e-4)[0] == 600


def test_few_rows_are_all_taken_and_nothing_is_evaluated_for_it(task: Task) -> None:
    assert rows(task, 0.5, most=100) == (100, [])


def test_what_is_said_is_the_error_on_the_rows_that_are_taken(task: Task) -> None:
    found, said = rows(task, 0.5)
    assert said[0].startswith(f"trials on {found} rows: losses are then known to ")
    assert 0 < float(said[0].split()[-1].rstrip("%")) <= 50


def test_pilots_are_a_mild_and_a_strong_stage_early_in_the_model() -> None:
    space = make_space()
    mild, strong = pilots_of(space)
    assert [len(plan) for plan in (mild, strong)] == [1, 1]
    assert isinstance(mild, Plan)
    assert np.all([stage.layer == space.layers[len(space.layers) // 4] for plan in (mild, strong) for stage in plan])
    assert next(iter(mild)).keep > next(iter(strong)).keep
