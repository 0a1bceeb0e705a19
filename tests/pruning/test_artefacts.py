"""Weights in files: only what changed, by the digest of the file, and put back to the last bit."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.pruning.forward.artefacts import (
    changed_weights,
    loaded,
    read_weights,
    save_weights,
    weights_path,
    with_weights,
)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def test_only_what_changed_is_kept(model: nn.Module) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[1].weight[2] += 1
    assert list(changed_weights(other, model)) == ["1.weight"]
    assert changed_weights(model, model) == {}


def test_a_file_is_called_by_its_digest_and_read_back(model: nn.Module, tmp_path: Path) -> None:
    name = save_weights(tmp_path, {"1.weight": torch.arange(4.0)}, {"format": "pt"})
    path = weights_path(tmp_path, name)
    assert name == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert torch.equal(read_weights(tmp_path, name)["1.weight"], torch.arange(4.0))
    assert save_weights(tmp_path, {"1.weight": torch.arange(4.0)}, {"format": "pt"}) == name


def test_what_is_not_the_file_is_refused(tmp_path: Path) -> None:
    name = save_weights(tmp_path, {"a": torch.ones(2)}, {})
    path = weights_path(tmp_path, name)
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(CorruptFileError, match=r"must hold what the plan was judged with, but its digest is sha256:"):
        read_weights(tmp_path, name)
    path.unlink()
    with pytest.raises(PruneSearchError, match=r"cannot be read .*tune the point again"):
        read_weights(tmp_path, name)
    data = b"no safetensors"
    name = "sha256:" + hashlib.sha256(data).hexdigest()
    weights_path(tmp_path, name).write_bytes(data)
    with pytest.raises(CorruptFileError, match="is no safetensors file"):
        read_weights(tmp_path, name)


def test_weights_go_in_and_come_out_to_the_last_bit(model: nn.Module) -> None:
    parameter = model[1].weight
    before, place = parameter.detach().clone(), parameter.data_ptr()
    x = torch.randn(5, 3)
    unchanged = model(x)
    inside = loaded(model, {"1.weight": torch.full((4,), 2.0)})
    with inside:
        assert torch.equal(parameter, torch.full((4,), 2.0))
        assert not torch.equal(model(x), unchanged)
    assert model[1].weight is parameter
    assert parameter.data_ptr() == place
    assert torch.equal(parameter, before)
    assert torch.equal(model(x), unchanged)


def test_they_take_the_dtype_of_the_model(model: nn.Module) -> None:
    with loaded(model.bfloat16(), {"1.weight": torch.full((4,), 0.1)}):
        assert model[1].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("weights", [{"9.weight": torch.ones(4)}, {"1.weight": torch.ones(5)}], ids=["name", "shape"])
def test_weights_of_another_model_change_nothing(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    before = model[1].weight.detach().clone()
    given = {"1.bias": torch.full((4,), 3.0), **weights}
    with pytest.raises(PruneSearchError, match="must be those of the model"), loaded(model, given):
        pass
    assert torch.equal(model[1].weight, before)
    assert not torch.equal(model[1].bias, torch.full((4,), 3.0))


def test_a_plan_brings_its_own(model: nn.Module, tmp_path: Path) -> None:
    name = save_weights(tmp_path, {"1.weight": torch.full((4,), 2.0)}, {})
    with with_weights(model, Plan(weights=name), tmp_path) as plan:
        assert plan == Plan()
        assert float(model[1].weight[0].detach()) == 2.0
    assert float(model[1].weight[0].detach()) == 1.0
    with with_weights(model, Plan(), None) as plan:
        assert plan == Plan()
    with (
        pytest.raises(PruneSearchError, match="say in which folder they are"),
        with_weights(model, Plan(weights=name), None),
    ):
        pass
