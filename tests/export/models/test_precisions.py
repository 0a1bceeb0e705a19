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
from prunesearch.cost.graphs.graph_files import answers_of
from prunesearch.export.models.model_format import ModelSource
from prunesearch.export.models.write import export_model, find_model_format
from prunesearch.pruning.apply import apply_
from tests.support.paths import DEV
from tests.support.small_models import build, inputs_of

SCHEDULE = ps.Schedule([ps.Stage(1, 0.6, "value_norm", "fuse")])


def source(name: str) -> ModelSource:
    model = build("vit").requires_grad_(False)
    return ModelSource(model, SCHEDULE, inputs_of("vit"), changes=(Change.parse(name),))


@pytest.mark.parametrize(
    ("name", "quantiser"),
    [
        ("onnx", "ONNX Runtime quantize_dynamic"),
        pytest.param("openvino", "NNCF, scales of activations beforehand, by 3 rows", marks=pytest.mark.slow),
    ],
)
def test_int8_is_written_by_the_own_quantiser_of_the_runtime(name: str, quantiser: str, tmp_path: Path) -> None:
    to = find_model_format(name)
    if name == "openvino":
        pytest.importorskip("nncf", reason=DEV)
    one = source("int8")
    path, other = tmp_path / f"m{to.suffix}", tmp_path / f"f{to.suffix}"
    done = export_model(one, to, path, seconds=0.3)
    assert any(quantiser in note for note in done.notes), done.notes
    assert done.timing is not None
    assert done.timing.runtime.endswith("int8")
    plain = export_model(replace(one, changes=()), to, other, seconds=None)
    assert 0 < done.error > plain.error
    weights = ".bin" if name == "openvino" else to.suffix
    assert path.with_suffix(weights).stat().st_size < other.with_suffix(weights).stat().st_size
    assert "int8" in path.with_name(f"{path.name}.md").read_text()
    assert ps.Plan.from_json(path.with_name(f"{path.name}.json").read_text()) == one.plan


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


@pytest.mark.parametrize("name", ["hf", "torch-export", "tensorrt"])
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
