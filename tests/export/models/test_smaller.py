"""A plan whose halves of blocks are smaller or left out is written as what it is, and computes what it did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.flow import Geometry
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.cost.counting.size import SizeCosts
from prunesearch.cost.graphs.graph_files import answers_of
from prunesearch.export.models.model_format import ModelSource
from prunesearch.export.models.write import export_model, find_model_format
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.families.find import find_encoder
from tests.support.small_models import build, inputs_of

SCHEDULE = ps.Schedule([ps.Stage(1, 0.6, "value_norm", "fuse")])
SMALLER = ("0:width(heads=1)", "0:rank(mlp=8)", "1:width(mlp=32)", "2:skip(part=attention)")


def source(name: str, *changes: str) -> ModelSource:
    model = build(name).requires_grad_(False)
    found = tuple(map(Change.parse, changes))
    fits = ps.fit_plan(model, Plan(SCHEDULE, found), [inputs_of(name, seed=3)])
    return ModelSource(model, SCHEDULE, inputs_of(name), changes=found, fits=fits)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        *(("vit", "hf"), ("vit", "onnx"), ("bert", "hf"), ("bert", "torch-export")),
        *(pytest.param("vit", name, marks=pytest.mark.slow) for name in ("torch-export", "openvino")),
        *(pytest.param("bert", name, marks=pytest.mark.slow) for name in ("onnx", "openvino")),
    ],
)
def test_what_is_written_computes_what_the_plan_does(model: str, name: str, tmp_path: Path) -> None:
    one, to = source(model, *SMALLER), find_model_format(name)
    path = tmp_path / f"m{to.suffix}"
    before = {key: value.clone() for key, value in one.model.state_dict().items()}
    done = export_model(one, to, path, seconds=None)
    assert done.error <= to.tolerance * max(done.largest, 1)
    found = to.load(path)(dict(one.inputs))
    with apply_(one.model, one.plan, fits=one.fits), torch.inference_mode():
        wanted = answers_of(one.model(**one.inputs))["logits"]
    assert torch.allclose(found["logits"], wanted, atol=1e-4)
    with apply_(one.model, SCHEDULE), torch.inference_mode():
        whole = answers_of(one.model(**one.inputs))["logits"]
    assert (whole - wanted).abs().max() > 100 * done.error  # another model than that of the schedule alone
    assert all(torch.equal(value, before[key]) for key, value in one.model.state_dict().items())


def test_a_folder_has_the_smaller_layers_and_nothing_of_those_that_went(tmp_path: Path) -> None:
    one = source("vit", *SMALLER)
    export_model(one, find_model_format("hf"), tmp_path / "m", seconds=None)
    export_model(
        ModelSource(one.model, SCHEDULE, one.inputs), find_model_format("hf"), tmp_path / "whole", seconds=None
    )
    small, large = (sum(f.stat().st_size for f in (tmp_path / d).glob("*.safetensors")) for d in ("m", "whole"))
    assert small < large
    said = json.loads((tmp_path / "m" / "config.json").read_text())["prunesearch"]
    assert said["skips"] == [[2, "attention"]]
    text = (tmp_path / "m" / "README.md").read_text()
    assert all(change in text for change in SMALLER)
    assert Plan.from_json((tmp_path / "m" / "prunesearch.json").read_text()) == one.plan


@pytest.mark.slow
def test_int8_and_smaller_halves_are_in_one_file(tmp_path: Path) -> None:
    one, to = source("vit", *SMALLER, "int8"), find_model_format("onnx")
    done = export_model(one, to, tmp_path / "m.onnx", seconds=0.3)
    assert any("quantize_dynamic" in note for note in done.notes)
    assert 0 < done.error < 0.2 * done.largest
    assert done.timing is not None
    assert done.timing.runtime.endswith("int8")


def test_half_of_a_block_that_serves_several_passes_is_refused_in_a_line(tmp_path: Path) -> None:
    one = source("albert", "0:width(mlp=32)")
    for name in ("hf", "onnx"):
        to = find_model_format(name)
        with pytest.raises(PruneSearchError, match="serves several passes") as caught:
            export_model(one, to, tmp_path / f"m{to.suffix}", seconds=None)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_its_size_was_foretold() -> None:
    one = source("vit", *SMALLER)
    made, _ = one.reshaped()
    gone = find_encoder(one.model).blocks[2].get_submodule("attention")
    unused = sum(p.numel() for p in gone.parameters() if p.dim() == 2)  # left out, and still there
    written = 4 * (sum(value.numel() for value in made.state_dict().values()) - unused) / 1e6
    costs = SizeCosts(one.model, Geometry(len(find_encoder(one.model).blocks), 17, 1))
    assert costs.predict(one.plan) == pytest.approx(written, rel=0.02)
