"""A model object and a data set object in place of a folder and a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks import load_task
from prunesearch.tasks.base import Task
from tests.support.paths import ROOT

DEMO = ROOT / "prunesearch" / "demo"


def rows() -> Dataset:
    return load_dataset("parquet", data_files=str(DEMO / "cifar10-calibration.parquet"), split="train").select(
        range(60)
    )


def answers(task: Task) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([task.model(**b.inputs).logits for b in task.holdout.batches])


def test_objects_are_prepared_as_folder_and_file_are(tmp_path: Path) -> None:
    rows().to_parquet(tmp_path / "rows.parquet")
    named = load_task(DEMO / "vit-cifar10", tmp_path / "rows.parquet")
    model = AutoModelForImageClassification.from_pretrained(DEMO / "vit-cifar10")
    given = load_task(model, rows())
    assert given.model is model
    assert given.name == named.name
    assert given.holdout.n == named.holdout.n > 0
    torch.testing.assert_close(answers(given), answers(named), rtol=0, atol=0)


def test_a_processor_can_be_given() -> None:
    made = ViTForImageClassification(ViTConfig.from_pretrained(DEMO / "vit-cifar10"))
    made.config._name_or_path = ""
    made.name_or_path = ""
    processor = AutoImageProcessor.from_pretrained(DEMO / "vit-cifar10", backend="pil")
    assert load_task(made, rows(), processor=processor).tokens == 65
    with pytest.raises(PruneSearchError, match=r"came from no checkpoint.*processor="):
        load_task(made, rows())


@pytest.mark.parametrize("data", [[1, 2], {"a": 1}, 3])
def test_what_is_no_data_is_refused(data: object) -> None:
    with pytest.raises(PruneSearchError, match="data must be a file, a folder"):
        load_task(DEMO / "vit-cifar10", data)  # type: ignore[arg-type]


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(PruneSearchError, match="must have rows"):
        load_task(DEMO / "vit-cifar10", rows().select([]))
