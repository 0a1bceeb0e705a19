"""A plan in another precision is written as what it is, by the runtime's own quantiser, or refused with the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Change
from prunesearch.core.tables.registry import MODEL_FORMATS
from prunesearch.cost.timing.runtimes import answers_of
from prunesearch.export.models.model_format import ModelSource
from prunesearch.export.models.write import export_model, find_model_format
from prunesearch.pruning.apply import apply_
from tests.support.small_models import build, inputs_of

SCHEDULE = ps.Schedule([ps.Stage(1, 0.6, "value_norm", "fuse")])


def source(name: str) -> ModelSource:
    model = build("vit").requires_grad_(False)
    return ModelSource(model, SCHEDULE, inputs_of("vit"), changes=(Change.parse(name),))


def test_onnx_in_int8_is_written_by_its_own_quantiser(tmp_path: Path) -> None:
    one = source("int8")
    done = export_model(one, find_model_format("onnx"), tmp_path / "m.onnx", seconds=0.3)
    assert any("ONNX Runtime quantize_dynamic" in note for note in done.notes)
    assert done.timing is not None
    assert done.timing.runtime.endswith("int8")
    plain = export_model(replace(one, changes=()), find_model_format("onnx"), tmp_path / "f.onnx", seconds=None)
    assert 0 < done.error > plain.error
    assert (tmp_path / "m.onnx").stat().st_size < (tmp_path / "f.onnx").stat().st_size
    assert "int8" in (tmp_path / "m.onnx.md").read_text()
    assert ps.Plan.from_json((tmp_path / "m.onnx.json").read_text()) == one.plan


def test_a_folder_in_bfloat16_computes_what_the_plan_does(tmp_path: Path) -> None:
    one = source("bfloat16")
    to = find_model_format("hf")
    done = export_model(one, to, tmp_path / "folder", seconds=0.3)
    assert done.timing is not None
    assert done.timing.runtime == "transformers from the folder, bfloat16"
    assert "int8" not in (tmp_path / "folder" / "README.md").read_text()
    found = to.load(tmp_path / "folder")(dict(one.inputs))
    with apply_(one.model, one.plan), torch.inference_mode():
        wanted = answers_of(one.model(**one.inputs))
    assert found["logits"].dtype == torch.bfloat16
    assert torch.equal(found["logits"], wanted["logits"])
    assert next(one.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("name", ["hf", "torch-export", "openvino", "tensorrt"])
def test_what_a_format_cannot_hold_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    to = find_model_format(name)
    path = tmp_path / f"m{to.suffix}"
    with pytest.raises(PruneSearchError, match=f"{to.tool} cannot hold a model in int8 ") as caught:
        export_model(source("int8"), to, path, seconds=None)
    assert to.float_alone in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not path.exists()


def test_every_format_says_why_it_holds_no_other() -> None:
    assert all(find_model_format(name).float_alone for name in MODEL_FORMATS)
