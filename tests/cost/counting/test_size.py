"""The size of a model against files that were really written."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from prunesearch.core.budget import Budget
from prunesearch.core.plans.flow import Geometry
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.counting.size import SizeCosts

STAGES = Schedule([Stage(1, 0.5)])


@pytest.fixture(scope="module")
def model() -> ViTForImageClassification:
    config = ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=192,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=768,
        num_labels=10,
    )
    return ViTForImageClassification(config).eval()


def test_it_is_what_a_checkpoint_takes(model: ViTForImageClassification, tmp_path: Path) -> None:
    costs = SizeCosts(model, Geometry(3, 17, 1))
    for variant, dtype in (("unpruned", torch.float32), ("unpruned | bfloat16", torch.bfloat16)):
        folder = tmp_path / str(dtype)
        copy.deepcopy(model).to(dtype).save_pretrained(folder)
        written = (folder / "model.safetensors").stat().st_size / 1e6
        assert costs.predict(Plan.parse(variant)) == pytest.approx(written, rel=0.01)
    assert costs.predict(Plan(STAGES)) == costs.predict(Plan())


def test_it_is_what_an_int8_model_takes(model: ViTForImageClassification) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judge = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    buffer = io.BytesIO()
    torch.save(judge.state_dict(), buffer)
    costs = SizeCosts(model, Geometry(3, 17, 1))
    assert costs.predict(Plan.parse("unpruned | int8")) == pytest.approx(buffer.tell() / 1e6, rel=0.05)
    assert costs.predict(Plan.parse("unpruned | int8")) < 0.3 * costs.predict(Plan())


def test_megabytes_are_of_the_model_and_mebibytes_of_a_forward() -> None:
    assert Budget.parse("20MB").kind == "size"
    assert Budget.parse("20MiB").kind == "memory"
