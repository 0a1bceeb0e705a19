from __future__ import annotations

import pytest
import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.devices.machine import cpu_name, usable_cores
from prunesearch.cost.tables.device_profile import find_profile
from prunesearch.study import target as module
from prunesearch.study.config import RunConfig
from prunesearch.study.target import Target, is_here, measurable, resolve_target
from tests.support.fake_cuda import gpus_called
from tests.support.known_device import known_table, one_line, write_profile


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_gpu():
    with gpus_called():
        yield


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1"])
def test_torch_devices_are_measured_now(name):
    assert resolve_target(name) == Target(name, None, True)


def test_a_profile_of_a_device_that_is_not_here(root, no_gpu):
    found = resolve_target("a100")
    assert (found.device, found.here, found.profile.name) == ("cpu", False, "a100-40gb")
    write_profile(root, "box", known_table())
    assert not resolve_target("box").here


def test_unknown_names_are_one_line(root):
    with pytest.raises(PruneSearchError) as error:
        resolve_target("h10")
    one_line(error.value, "no device or profile 'h10'", "did you mean 'h100'?")
    with pytest.raises(PruneSearchError) as error:
        resolve_target("cuda:x")
    one_line(error.value, "cuda:x", "did you mean 'cuda'?")


def test_this_cpu_is_known_by_name_and_cores(root, no_gpu):
    mine = {"name": cpu_name(), "kind": "cpu", "affinity": usable_cores()}
    assert is_here(write_profile(root, "mine", device=mine))
    assert not is_here(write_profile(root, "less", device={**mine, "affinity": usable_cores() + 1}))
    assert not is_here(write_profile(root, "other", device={**mine, "name": "Another CPU"}))
    found = resolve_target("mine")
    assert (found.device, found.here) == ("cpu", True)
    asked = found.conditions(RunConfig())
    assert (asked["threads"], asked["cores"]) == (torch.get_num_threads(), usable_cores())
    assert not {"threads", "cores"} & resolve_target("less").conditions(RunConfig()).keys()


def test_a_gpu_is_known_by_what_cuda_calls_it(root):
    card = write_profile(root, "card", device={"name": "NVIDIA Card", "kind": "cuda"})
    with gpus_called("NVIDIA Card"):
        assert is_here(card)
        assert resolve_target("card").device == "cuda:0"
    with gpus_called("NVIDIA Card 2"):
        assert not is_here(card)
    with gpus_called("NVIDIA A100-SXM4-40GB"):
        assert is_here(find_profile("a100-40gb"))
        assert not is_here(find_profile("a100-80gb"))
        assert not is_here(find_profile("h100"))


def test_measuring_is_offered_where_an_estimated_device_is_at_hand(root):
    with gpus_called("NVIDIA A100-SXM4-40GB"):
        assert measurable("a100") == ("cuda", "NVIDIA A100-SXM4-40GB")
        assert measurable("h100") is None
        assert measurable("cuda:0") is None
        write_profile(root, "a100-40gb", known_table(), device={"name": "NVIDIA A100-SXM4-40GB", "kind": "cuda"})
        assert measurable("a100-40gb") is None
    with gpus_called():
        assert measurable("a100") is None


def test_quality_is_evaluated_by_what_is_at_hand_and_costs_are_of_what_was_asked_for(root):
    config = RunConfig(device="a100", dtype="float16", attention="flash", mode="cuda-graph", batch_size=32)
    away = Target("cpu", find_profile("a100"), False)
    assert (away.dtype("float16"), away.attention("flash"), away.attention("eager")) == ("float32", "sdpa", "eager")
    assert away.conditions(config) == {
        "device": "cuda",
        "batch_size": 32,
        "dtype": "float16",
        "attention": "flash_attention_2",
        "mode": "cuda-graph",
        "concurrency": 1,
    }
    on_gpu = Target("cuda:0", find_profile("a100"), False)
    assert on_gpu.dtype("float16") == "float16"
    here = Target("cpu", None, True)
    assert (here.dtype("bfloat16"), here.attention("flash")) == ("bfloat16", "flash_attention_2")
    assert module.resolve_target("CPU") == here
    assert module.resolve_target("A100").profile == away.profile
