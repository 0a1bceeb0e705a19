"""Datasheet figures against each other, and files that are no device profiles."""

import json
import re

import pytest

from prunesearch.core.errors import CorruptFileError
from prunesearch.core.files import data_folder
from prunesearch.cost.tables.device_profile import Profile, find_profile, spec_called, specs
from prunesearch.cost.tables.specs import DeviceSpec

# float32 lanes of a multiprocessor, by architecture (CUDA programming guide, arithmetic instructions)
LANES = {"Volta": 64, "Turing": 64, "Ampere": 128, "Ada Lovelace": 128, "Hopper": 128, "Blackwell": 128}
ASKED = {
    "a100-40gb", "a100-80gb", "h100", "h100-pcie", "h200", "v100", "t4", "l4", "a10", "rtx-3090", "rtx-4090",
    "jetson-agx-orin",
}  # fmt: skip
SPECS = list(specs().values())
each = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def spec(**changed) -> dict:
    return {**find_profile("t4").spec.model_dump(), **changed}


def test_every_device_asked_for_is_shipped():
    assert {s.name for s in SPECS} >= ASKED
    assert find_profile("a100").spec == specs()["a100-40gb"]


@each
def test_the_float32_peak_is_lanes_times_clock(spec):
    lanes = 64 if spec.name.startswith("a100") else LANES[spec.architecture]  # GA100 has half of GA102's
    peak = spec.sm_count * lanes * 2 * spec.boost_clock_mhz * 1e6 / 1e12
    assert spec.peak_tflops["float32"] == pytest.approx(peak, rel=0.02)


@each
def test_rates_are_dense_and_in_order(spec):
    peak = spec.peak_tflops
    assert peak["float16"] == peak.get("bfloat16", peak["float16"])
    if "tf32" in peak:
        assert peak["tf32"] == pytest.approx(peak["float16"] / 2, rel=0.03)
    for dtype, measured in spec.gemm_tflops.items():  # a sparse or a half-precision-accumulate peak would be twice it
        assert 0.3 < measured / peak[dtype] < 1.2


@each
def test_every_number_has_a_source_and_no_energy_is_made_up(spec):
    text = " ".join(spec.sources)
    assert "datasheet" in text or "whitepaper" in text or "technical brief" in text
    assert ("gemm_tflops:" in text) == bool(spec.gemm_tflops)
    data = json.loads((data_folder("hw_profiles") / spec.name / "profile.json").read_text())
    assert data["status"] == "estimated" or data["tables"]
    if not data["tables"]:
        assert data["energy"]["status"] == "unavailable"


def test_names_are_told_apart():
    named = {
        "NVIDIA A100-SXM4-40GB": "a100-40gb", "A100-PCIE-40GB": "a100-40gb", "NVIDIA A100 80GB PCIe": "a100-80gb",
        "NVIDIA A100-SXM4-80GB": "a100-80gb", "NVIDIA H100 80GB HBM3": "h100", "NVIDIA H100 PCIe": "h100-pcie",
        "NVIDIA H200": "h200", "Tesla V100-SXM2-32GB": "v100", "Tesla T4": "t4", "NVIDIA L4": "l4", "NVIDIA A10": "a10",
        "NVIDIA GeForce RTX 4090": "rtx-4090", "NVIDIA GeForce RTX 3090": "rtx-3090", "Orin": "jetson-agx-orin",
    }  # fmt: skip
    assert {cuda: spec_called(cuda).name for cuda in named} == named
    for other in (
        "NVIDIA A10G",
        "NVIDIA L40",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H100 NVL",
        "NVIDIA A100-SXM4-40GB MIG",
    ):
        assert spec_called(other) is None
    assert spec_called("Orin", sm_count=8) is None  # an Orin Nano
    assert spec_called("Orin", sm_count=16).name == "jetson-agx-orin"
    names = [name for s in SPECS for name in (s.name, *s.aliases)]
    assert len(names) == len(set(names))


def write(tmp_path, text: str):
    path = tmp_path / "profile.json"
    path.write_text(text)
    return path


def profile_with(**changed) -> str:
    data = find_profile("t4").model_dump(mode="json")
    return json.dumps({**data, "spec": spec(**changed)})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (profile_with(sm_count=0), "sm_count"),
        (profile_with(bandwidth_gbs=-1.0), "bandwidth_gbs"),
        (profile_with(memory_mb=16), "memory_mb"),
        (profile_with(matches="("), "not a regular expression"),
        (profile_with(peak_tflops={"float16": 65.0}), "must hold float32"),
        (profile_with(peak_tflops={"float32": 0.0}), "must be above 0"),
        (profile_with(gemm_tflops={"bfloat16": 2.4}), "bfloat16"),
        (profile_with(sources=[]), "sources"),
    ],
)
def test_a_broken_profile_gets_one_line(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(CorruptFileError, match=re.escape(said)) as caught:
        Profile.load(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_specs_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        find_profile("t4").spec.sm_count = 80
    assert isinstance(find_profile("t4").spec, DeviceSpec)
