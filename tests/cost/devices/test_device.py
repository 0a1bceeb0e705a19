import json

import pytest
import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.devices import device
from prunesearch.cost.devices.device import describe_device


def test_the_description_is_json_and_says_what_a_reader_needs():
    facts = json.loads(json.dumps(describe_device("cpu")))
    assert facts["kind"] == "cpu"
    assert facts["name"]
    assert facts["threads"] == torch.get_num_threads()
    assert facts["torch"] == torch.__version__
    assert facts["affinity"] >= 1


def test_the_model_name_comes_from_the_system(monkeypatch, tmp_path):
    text = "processor\t: 0\nmodel name\t: Fast CPU 9\nphysical id\t: 0\ncore id\t: 0\n\n"
    text += "processor\t: 1\nmodel name\t: Fast CPU 9\nphysical id\t: 0\ncore id\t: 0\n"
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(device, "Path", lambda _: tmp_path / "cpuinfo")
    assert device.cpu_name() == "Fast CPU 9"
    assert device._physical_cores() == 1


def test_an_unknown_device_is_refused():
    with pytest.raises(PruneSearchError, match="must be cpu or cuda"):
        describe_device("mps")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_an_absent_gpu_is_refused_in_words():
    with pytest.raises(PruneSearchError, match="not available"):
        describe_device("cuda")
