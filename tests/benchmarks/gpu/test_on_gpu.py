"""What only a GPU can tell; `benchmarks/gpu_day.py` asks the same of every family and method."""

from __future__ import annotations

import pytest
import torch
from gpu import correct, tables
from gpu.stand import OnGpu

from prunesearch.cost.devices.device import describe_device
from prunesearch.cost.energy.window import EnergyMeter

pytestmark = pytest.mark.gpu
SOME = correct.METHODS[::5]
FAMILIES = pytest.mark.parametrize("family", correct.FIRST[:3])


@pytest.fixture
def stand() -> OnGpu:
    return OnGpu()


@FAMILIES
def test_it_computes_what_the_cpu_does(stand: OnGpu, family: str) -> None:
    assert correct.against_cpu(stand, family, SOME)["wrong"] == []


@FAMILIES
def test_the_host_never_waits_for_it(stand: OnGpu, family: str) -> None:
    assert correct.without_waiting(stand, family, SOME)["wrong"] == []


@FAMILIES
def test_a_graph_replays_what_was_captured_on_other_inputs(stand: OnGpu, family: str) -> None:
    found = correct.in_a_graph(stand, family, SOME)
    assert found["untouched"] == "captured"
    assert found["wrong"] == []


def test_compiled_blocks_compute_the_same(stand: OnGpu) -> None:
    assert correct.compiled(stand, "vit", SOME[:2])["wrong"] == []


def test_a_wait_is_seen(stand: OnGpu) -> None:
    x = torch.ones(4, device=stand.device)
    assert stand.waits(lambda: x.sum() * 2) == 0
    assert stand.waits(lambda: x.sum().item()) == 1
    with pytest.raises(RuntimeError, match="synchroniz"), stand.forbidding_waits():
        x.sum().item()


def test_a_table_in_a_graph_knows_its_error(stand: OnGpu) -> None:
    found = tables.table(stand, "minilm-l6", 8, "bfloat16", "cuda-graph")
    assert found["unseen"] == tables.UNSEEN
    assert found["rank"] > 0.9


def test_it_says_what_it_is_and_what_it_uses(stand: OnGpu) -> None:
    facts = describe_device(stand.device)
    assert facts["driver"]
    meter = stand.meter()
    assert isinstance(meter, EnergyMeter), meter
    idle = meter.watch(1.0)
    assert 5 < idle.power_w < 2000
