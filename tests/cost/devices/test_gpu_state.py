import json

import pynvml
import pytest
import torch

from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.devices.gpu_state import (
    GpuState,
    describe_gpu,
    open_gpu,
    read_gpu_state,
    settle,
    throttle_reasons,
)
from tests.support.fake_cuda import told_by_torch
from tests.support.fake_nvml import UUID, FakeNvml, error, without_driver

NOT_SUPPORTED = error(pynvml.NVML_ERROR_NOT_SUPPORTED)


@pytest.fixture(autouse=True)
def _one_gpu(monkeypatch):
    told_by_torch(monkeypatch, count=2)


def test_a_look_tells_clocks_power_and_temperature_in_their_units():
    state = read_gpu_state("cuda", FakeNvml())
    assert state == GpuState(1980, 2619, 301.25, 700.0, 41.0, ())


def test_power_falls_back_to_the_average_where_the_moments_is_not_told():
    nvml = FakeNvml(FieldValues=FakeNvml.power_field(0, status=pynvml.NVML_ERROR_NOT_SUPPORTED))
    assert read_gpu_state("cuda", nvml).power_w == 298.5


def test_what_the_gpu_does_not_tell_is_none():
    silent = dict.fromkeys(
        ["ClockInfo", "FieldValues", "PowerUsage", "EnforcedPowerLimit", "Temperature", "CurrentClocksEventReasons"],
        NOT_SUPPORTED,
    )
    assert read_gpu_state("cuda", FakeNvml(**silent)) == GpuState(None, None, None, None, None, ())


def test_new_drivers_temperature_is_read_from_the_new_query():
    assert read_gpu_state("cuda", FakeNvml(TemperatureV=44, Temperature=NOT_SUPPORTED)).temperature_c == 44.0


def test_every_reason_of_nvml_has_a_name():
    told = read_gpu_state("cuda", FakeNvml(CurrentClocksEventReasons=pynvml.nvmlClocksEventReasonAll)).reasons
    assert len(told) == bin(pynvml.nvmlClocksEventReasonAll).count("1")


def test_old_drivers_reasons_are_read_from_the_old_query():
    nvml = FakeNvml(
        CurrentClocksEventReasons=error(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
        CurrentClocksThrottleReasons=pynvml.nvmlClocksThrottleReasonSwPowerCap,
    )
    assert read_gpu_state("cuda", nvml).reasons == ("sw_power_cap",)


@pytest.mark.parametrize(
    ("bits", "throttled"),
    [
        (pynvml.nvmlClocksEventReasonNone, ()),
        (pynvml.nvmlClocksEventReasonGpuIdle, ()),
        (pynvml.nvmlClocksEventReasonSwPowerCap, ()),
        (pynvml.nvmlClocksEventReasonSwThermalSlowdown, ("sw_thermal_slowdown",)),
        (pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown, ("hw_power_brake_slowdown",)),
        (
            pynvml.nvmlClocksEventReasonHwSlowdown
            | pynvml.nvmlClocksEventReasonHwThermalSlowdown
            | pynvml.nvmlClocksEventReasonSwPowerCap,
            ("hw_slowdown", "hw_thermal_slowdown"),
        ),
    ],
)
def test_heat_and_brakes_are_throttling_and_the_power_cap_is_not(bits, throttled):
    state = read_gpu_state("cuda", FakeNvml(CurrentClocksEventReasons=bits))
    assert throttle_reasons(state) == throttled


def test_no_state_is_not_throttled():
    assert throttle_reasons(None) == ()


def test_the_description_is_json_and_has_what_timings_depend_on():
    facts = json.loads(json.dumps(describe_gpu("cuda:0", FakeNvml())))
    assert facts == {
        "driver": "575.57.08",
        "power_limit_w": 700.0,
        "power_limit_default_w": 700.0,
        "max_sm_clock_mhz": 1980,
        "max_memory_clock_mhz": 2619,
        "persistence": True,
        "ecc": True,
        "mig": False,
        "virtualization": "none",
        "p_state": "P0",
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "temperature_c": 41.0,
        "reasons": [],
    }


def test_a_card_without_ecc_and_mig_is_described_too():
    nvml = FakeNvml(EccMode=NOT_SUPPORTED, MigMode=NOT_SUPPORTED, VirtualizationMode=NOT_SUPPORTED)
    facts = describe_gpu("cuda", nvml)
    assert (facts["ecc"], facts["mig"], facts["virtualization"]) == (None, False, None)


def test_the_card_is_found_by_uuid_whole_or_sliced():
    assert not open_gpu("cuda:1", FakeNvml()).is_mig
    assert open_gpu("cuda:1", FakeNvml(uuid=f"MIG-{UUID}")).is_mig
    unknown = open_gpu("cuda:1", FakeNvml(uuid="GPU-another"))
    assert unknown == Unavailable(f"NVML does not know GPU {UUID}, which torch calls 'cuda:1'")


def test_without_a_driver_or_a_gpu_there_is_a_reason():
    assert read_gpu_state("cuda", without_driver()) is None
    assert "Driver Not Loaded" in describe_gpu("cuda", without_driver())["unavailable"]
    assert describe_gpu("cpu", FakeNvml()) == {"unavailable": "device 'cpu' is not an NVIDIA GPU"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU says: run it on one")
def test_torch_without_a_gpu_is_said(monkeypatch):
    monkeypatch.undo()
    assert open_gpu("cuda", FakeNvml()) == Unavailable("torch sees no GPU 'cuda'")


def test_the_cards_settings_are_never_changed():
    """Of NVML, only init and queries are called."""
    called = []

    class Watched(FakeNvml):
        def __getattribute__(self, name):
            if name.startswith("nvml") and not name.startswith("nvmlClocks"):
                called.append(name)
            return super().__getattribute__(name)

    describe_gpu("cuda", Watched())
    assert called
    assert all(name.startswith(("nvmlInit", "nvmlDeviceGet", "nvmlSystemGet")) for name in called)


# -- settling ----------------------------------------------------------------------------------------------


class Bench:
    """Work takes an eighth of a second; the SM clock follows the list, one value a look."""

    def __init__(self, clocks):
        self.now, self.clocks, self.waits = 0.0, iter(clocks), 0

    def settle(self, **options):
        return settle(self.run, self.look, synchronize=self.wait, clock=lambda: self.now, **options)

    def run(self):
        self.now += 0.125

    def look(self):
        clock = next(self.clocks)
        return GpuState(clock, None, None, None, None) if clock else None

    def wait(self):
        self.waits += 1


def test_work_runs_until_the_clock_is_steady():
    bench = Bench([600, 900, 1200, 1500, 1980, 1965, 1980, 1980, 1, 1])
    found = bench.settle()
    assert found.settled
    assert [state.sm_clock_mhz for state in found.states][-4:] == [1980, 1965, 1980, 1980]
    assert bench.waits == 8


def test_a_steady_clock_still_gets_the_least_time():
    found = Bench([1980] * 99).settle(min_s=5.0)
    assert found.settled
    assert found.seconds == pytest.approx(5.0)


def test_steady_is_only_what_four_looks_agree_on():
    found = Bench([1980] * 99).settle(min_s=0.5)
    assert found.settled
    assert len(found.states) == 4


def test_a_clock_that_never_settles_is_given_up_in_words():
    found = Bench([1000, 1900] * 99).settle(max_s=6.0)
    assert not found.settled
    assert found.why.startswith("the SM clock still moved after 6 s: [1000, 1900")


def test_a_clock_that_cannot_be_read_gets_the_least_time():
    found = Bench([None] * 99).settle(min_s=3.0)
    assert (found.settled, found.why) == (False, "the SM clock cannot be read")
    assert found.seconds == pytest.approx(3.0)
