from __future__ import annotations

import json

import pytest
import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.devices.device import at_hand, clock_for, describe_device, device_named, is_device, kind_called
from prunesearch.cost.devices.machine import cpu_name, physical_cores
from tests.support.fake_cuda import gpus_called


def test_the_description_is_json_and_says_what_a_reader_needs():
    facts = json.loads(json.dumps(describe_device("cpu")))
    assert facts["kind"] == "cpu"
    assert facts["name"]
    assert facts["threads"] == torch.get_num_threads()
    assert facts["torch"] == torch.__version__
    assert facts["affinity"] >= 1


def test_the_model_name_comes_from_the_system(tmp_path):
    text = "processor\t: 0\nmodel name\t: Fast CPU 9\nphysical id\t: 0\ncore id\t: 0\n\n"
    text += "processor\t: 1\nmodel name\t: Fast CPU 9\nphysical id\t: 0\ncore id\t: 0\n"
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_name(tmp_path / "cpuinfo") == "Fast CPU 9"
    assert physical_cores(tmp_path / "cpuinfo") == 1
    assert physical_cores(tmp_path / "none") is None
    assert cpu_name(tmp_path / "none")


@pytest.mark.parametrize("ask", [describe_device, clock_for, device_named], ids=lambda ask: ask.__name__)
def test_a_kind_that_nobody_knows_is_refused_and_the_nearest_named(ask):
    with pytest.raises(PruneSearchError, match="unknown device 'mps': Known: cpu, cuda"):
        ask("mps")
    with pytest.raises(PruneSearchError, match="unknown device 'cudda': did you mean 'cuda'"):
        ask("cudda")
    with pytest.raises(PruneSearchError, match="a device must be like cpu, cuda, cuda:0, but got 'cuda:x'"):
        ask("cuda:x")


def test_names_of_devices():
    assert [name for name in ("cpu", "CPU", "cuda:1", "Cuda:0", "a100", "cuda:x", "", "mps") if is_device(name)] == [
        "cpu", "CPU", "cuda:1", "Cuda:0",
    ]  # fmt: skip
    assert device_named("CUDA:1") == torch.device("cuda", 1)
    assert device_named(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU says: run it on one")
def test_an_absent_gpu_is_refused_in_words():
    with pytest.raises(PruneSearchError, match="not available: torch sees no CUDA GPU; use --device cpu"):
        describe_device("cuda")


def test_a_profiles_name_is_made_from_the_device():
    assert kind_called("cuda").profile_name({"name": "NVIDIA H200"}) == "nvidia-h200"
    assert kind_called("cpu").profile_name({"name": "AMD EPYC 7B13 (x86)", "affinity": 2}) == "amd-epyc-7b13-x86-2c"
    assert kind_called("cpu").profile_name({"name": "", "affinity": 2}) == "cpu-2c"


@pytest.mark.parametrize(("gpus", "kind"), [(0, "cpu"), (2, "cuda")])
def test_an_accelerator_is_preferred_where_there_is_one(gpus, kind):
    with gpus_called(*["NVIDIA Card"] * gpus):
        assert at_hand().name == kind
    assert kind_called("cuda").first == "cuda:0"
    assert kind_called("cpu").first == "cpu"
