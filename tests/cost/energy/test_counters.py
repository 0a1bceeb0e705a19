import math
import sys
import types
from pathlib import Path

import pynvml
import pytest
import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.names import Registry, Row
from prunesearch.core.tables.registry import DEVICE_KINDS
from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.devices.kind import DeviceKind
from prunesearch.cost.energy.counters import COUNTERS, open_counter
from prunesearch.cost.energy.nvml import PolledPower, open_polled_power, open_total_energy
from prunesearch.cost.energy.rapl import open_rapl
from prunesearch.cost.energy.replay import ReplayClock
from prunesearch.cost.energy.zeus import open_zeus
from tests.support.fake_cuda import told_by_torch
from tests.support.fake_nvml import UUID, FakeNvml, error, without_driver

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
NOT_SUPPORTED = error(pynvml.NVML_ERROR_NOT_SUPPORTED)


@pytest.fixture
def _one_gpu(monkeypatch):
    told_by_torch(monkeypatch)


# -- the table ---------------------------------------------------------------------------------------------


def test_every_row_names_something_that_opens():
    assert all(callable(COUNTERS.load(name)) for name in COUNTERS)


@pytest.mark.skipif(
    Path("/sys/class/powercap/intel-rapl:0").exists(),
    reason="what a machine without RAPL says: run it on one",
)
@pytest.mark.skipif(sys.platform != "linux", reason="RAPL is Linux: run it there")
def test_without_rapl_the_cpu_has_a_reason_and_a_way_out():
    found = open_counter("cpu")
    assert isinstance(found, Unavailable)
    assert "RAPL" in found.reason
    assert "bare machine" in found.reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU says: run it on one")
def test_without_a_gpu_cuda_has_one_reason_said_once():
    found = open_counter("cuda")
    assert isinstance(found, Unavailable)
    assert found.reason.count("NVML does not answer") == 1


def test_the_first_that_opens_is_taken_and_reasons_are_collected():
    one, two = object(), object()
    rows = {"a": lambda d: Unavailable("no a"), "b": lambda d: None, "c": lambda d: one, "d": lambda d: two}
    table = Registry("energy counter", {name: Row(open_, "") for name, open_ in rows.items()})
    assert open_counter("cpu", table) is one
    del rows["c"], rows["d"]
    rows["e"] = lambda d: Unavailable("no e")
    table = Registry("energy counter", {name: Row(open_, "") for name, open_ in rows.items()})
    assert open_counter("cpu", table) == Unavailable("no a; no e")


def test_a_device_that_nobody_meters_is_said():
    with DEVICE_KINDS.registered("meta", DeviceKind):
        assert "no energy counter is made for device 'meta'" in open_counter("meta").reason


def test_what_is_no_device_is_refused():
    with pytest.raises(PruneSearchError, match="unknown device 'toaster'"):
        open_counter("toaster")


# -- NVML --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_one_gpu")
def test_the_boards_counter_is_read_in_mj():
    counter = open_total_energy(CUDA, FakeNvml())
    assert counter.read().energy_mj == 123_456.0
    assert (counter.name, counter.covers, counter.temperature_c()) == ("nvml-total-energy", "GPU board", 41.0)


@pytest.mark.usefixtures("_one_gpu")
def test_grace_hopper_counts_the_cpu_in():
    assert open_total_energy(CUDA, FakeNvml(Name="NVIDIA GH200 480GB")).covers == "GPU and CPU module"


@pytest.mark.usefixtures("_one_gpu")
@pytest.mark.parametrize("open_", [open_total_energy, open_polled_power])
@pytest.mark.parametrize(
    ("nvml", "reason"),
    [
        (FakeNvml(MigMode=[pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_DISABLE]), "MIG is enabled"),
        (FakeNvml(uuid=f"MIG-{UUID}", MigMode=NOT_SUPPORTED), "MIG is enabled"),
        (FakeNvml(VirtualizationMode=pynvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU), "shared (vgpu)"),
        (FakeNvml(VirtualizationMode=pynvml.NVML_GPU_VIRTUALIZATION_MODE_HOST_VGPU), "shared (host_vgpu)"),
        (FakeNvml(uuid="GPU-another"), "NVML does not know GPU"),
        (without_driver(), "NVML does not answer (Driver Not Loaded)"),
    ],
)
def test_what_is_not_this_devices_energy_alone_is_unavailable(open_, nvml, reason):
    found = open_(CUDA, nvml)
    assert isinstance(found, Unavailable)
    assert reason in found.reason


@pytest.mark.usefixtures("_one_gpu")
def test_a_gpu_passed_through_to_a_virtual_machine_is_whole():
    nvml = FakeNvml(VirtualizationMode=pynvml.NVML_GPU_VIRTUALIZATION_MODE_PASSTHROUGH)
    assert open_total_energy(CUDA, nvml).read().energy_mj == 123_456.0


@pytest.mark.usefixtures("_one_gpu")
def test_a_gpu_before_volta_is_polled_and_one_without_power_is_unavailable():
    old = FakeNvml(TotalEnergyConsumption=NOT_SUPPORTED, MigMode=NOT_SUPPORTED)
    assert open_total_energy(CUDA, old) == Unavailable("this GPU has no energy counter")
    counter = open_polled_power(CUDA, old)
    counter.read()
    counter.close()
    silent = FakeNvml(FieldValues=NOT_SUPPORTED, PowerUsage=NOT_SUPPORTED)
    assert open_polled_power(CUDA, silent) == Unavailable("this GPU does not tell its power")


@pytest.mark.usefixtures("_one_gpu")
def test_a_counter_that_fails_later_says_so_in_words():
    nvml = FakeNvml()
    counter = open_total_energy(CUDA, nvml)
    nvml.answers["TotalEnergyConsumption"] = error(pynvml.NVML_ERROR_GPU_IS_LOST)
    with pytest.raises(PruneSearchError, match="can no longer be read"):
        counter.read()


def test_other_devices_are_none_of_nvmls_business():
    assert open_total_energy(CPU, FakeNvml()) is None
    assert open_polled_power(torch.device("mps"), FakeNvml()) is None


def test_polled_power_is_integrated_by_the_trapezoid_rule():
    clock = ReplayClock()
    counter = PolledPower(lambda: 100.0 + 10.0 * clock(), covers="x", clock=clock, background=False)
    begin = counter.read()
    for _ in range(40):
        clock.sleep(0.05)
        last = counter.read()
    assert last.energy_mj - begin.energy_mj == pytest.approx((100.0 * 2 + 10.0 * 2**2 / 2) * 1e3)  # a ramp is exact
    assert counter.update_period_s == 0.05


def test_polling_goes_on_in_the_background_until_closed():
    polled = []
    counter = PolledPower(lambda: polled.append(1) or 50.0, covers="x", period_s=0.001)
    while len(polled) < 5:
        pass
    counter.close()
    seen = len(polled)
    assert counter.read().energy_mj > 0
    assert len(polled) == seen + 1  # by that reading alone


def test_power_that_can_no_longer_be_read_is_said():
    powers = iter([50.0])
    counter = PolledPower(lambda: next(powers, None), covers="x", background=False)
    counter.read()
    with pytest.raises(PruneSearchError, match="can no longer be read"):
        counter.read()


# -- RAPL --------------------------------------------------------------------------------------------------


def zone(sysfs, name, label, energy_uj=0, full_uj=1_000_000):
    folder = sysfs / "powercap" / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(label + "\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{full_uj}\n")
    return folder / "energy_uj"


def test_packages_are_added_up_and_parts_of_them_and_the_platform_are_not(tmp_path):
    first = zone(tmp_path, "intel-rapl:0", "package-0", 1000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 2000)
    others = [
        zone(tmp_path, "intel-rapl:2", "psys"),
        zone(tmp_path, "intel-rapl:0:0", "core"),
        zone(tmp_path, "intel-rapl:0:1", "dram"),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0"),
    ]
    counter = open_rapl(CPU, tmp_path)
    begin = counter.read()
    first.write_text("251000")
    second.write_text("502000")
    for other in others:
        other.write_text("999000")
    assert counter.read().energy_mj - begin.energy_mj == 750.0
    assert (counter.name, counter.covers) == ("rapl", "CPU packages (2)")


def test_a_counter_that_wraps_around_goes_on(tmp_path):
    file = zone(tmp_path, "intel-rapl:0", "package-0", 900_000, full_uj=1_000_000)
    counter = open_rapl(CPU, tmp_path)
    begin = counter.read()
    steps = []
    for value in (990_000, 80_000, 80_000, 70_000):  # twice around
        file.write_text(str(value))
        steps.append(counter.read().energy_mj - begin.energy_mj)
    assert steps == [90.0, 180.0, 180.0, 1170.0]


def test_the_hottest_package_is_told(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0")
    for i, (chip, millidegrees) in enumerate([("coretemp", 51000), ("nvme", 90000), ("coretemp", 57500)]):
        folder = tmp_path / "hwmon" / f"hwmon{i}"
        folder.mkdir(parents=True)
        (folder / "name").write_text(chip + "\n")
        (folder / "temp1_input").write_text(f"{millidegrees}\n")
    assert open_rapl(CPU, tmp_path).temperature_c() == 57.5


def test_no_sensor_is_no_temperature(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0")
    assert open_rapl(CPU, tmp_path).temperature_c() is None


class ForRoot(type(Path())):
    """A folder whose energy counters may be read by root alone; tests may run as root."""

    def read_text(self, *args, **kwargs):
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return super().read_text(*args, **kwargs)


def test_a_counter_for_root_only_says_so_with_the_way_out(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0")
    found = open_rapl(CPU, ForRoot(tmp_path))
    assert isinstance(found, Unavailable)
    assert "may only be read by root" in found.reason
    assert "chmod a+r" in found.reason


def test_no_powercap_and_nonsense_in_it_are_unavailable(tmp_path):
    assert "as in most virtual machines" in open_rapl(CPU, tmp_path).reason
    zone(tmp_path, "intel-rapl:0", "package-0", energy_uj="much")
    assert "cannot be read" in open_rapl(CPU, tmp_path).reason


def test_a_counter_that_disappears_says_so_in_words(tmp_path):
    file = zone(tmp_path, "intel-rapl:0", "package-0")
    counter = open_rapl(CPU, tmp_path)
    file.unlink()
    with pytest.raises(PruneSearchError, match="can no longer be read"):
        counter.read()


def test_rapl_is_for_cpus_on_linux(tmp_path):
    assert open_rapl(CUDA, tmp_path) is None
    assert open_rapl(CPU, tmp_path / "absent") is None


# -- zeus --------------------------------------------------------------------------------------------------


class ZeusBaseError(Exception):
    """As zeus.exception has it."""


class Zeus(types.SimpleNamespace):
    """The part of zeus 0.16 that is called: `get_gpus` or `get_soc`; both of its modules at once."""

    ZeusBaseError = ZeusBaseError

    def opened(self, device=CUDA, **here):
        return open_zeus(device, find={"zeus.device": self, "zeus.exception": self}.__getitem__, **here)


class Gpus:
    def __init__(self, supported=True):
        self.supported = supported

    def supports_get_total_energy_consumption(self, index):
        return self.supported

    def get_total_energy_consumption(self, index):
        return 1000 + index

    def get_gpu_temperature(self, index):
        return 60


class Soc:
    def __init__(self, **told):
        self.told = types.SimpleNamespace(**told)

    def get_available_metrics(self):
        return set(vars(self.told))

    def get_total_energy_consumption(self):
        return self.told


ROCM = "6.4"


def test_an_amd_gpu_is_read_by_torchs_index():
    counter = Zeus(get_gpus=Gpus).opened(torch.device("cuda", 3), hip=ROCM)
    assert counter.read().energy_mj == 1003.0
    assert (counter.name, counter.covers, counter.temperature_c()) == ("zeus", "GPU board", 60)
    assert open_total_energy(CUDA, FakeNvml(), ROCM) is None


def test_an_amd_gpu_whose_counter_zeus_distrusts_is_unavailable():
    assert isinstance(Zeus(get_gpus=lambda: Gpus(supported=False)).opened(hip=ROCM), Unavailable)


def test_what_zeus_raises_is_a_reason():
    def fails():
        raise ZeusBaseError("NVML and AMDSMI unavailable.")

    assert "NVML and AMDSMI unavailable)" in Zeus(get_gpus=fails).opened(hip=ROCM).reason


def test_what_zeus_can_no_longer_read_is_one_line():
    gpus = Gpus()
    counter = Zeus(get_gpus=lambda: gpus).opened(hip=ROCM)

    def fails(index):
        raise ZeusBaseError("the card fell off the bus")

    gpus.get_total_energy_consumption = fails
    with pytest.raises(PruneSearchError, match=r"no longer read the energy \(the card fell off the bus\): run again"):
        counter.read()


def test_a_jetson_is_read_at_its_input_and_polled_by_zeus(tmp_path):
    def opened(**told):
        return Zeus(get_soc=lambda: Soc(**told)).opened(tegra=tmp_path)

    counter = opened(cpu_energy_mj=1.0, gpu_energy_mj=2.0, total_energy_mj=5.0)
    assert counter.read().energy_mj == 5.0
    assert (counter.covers, counter.update_period_s) == ("module input", 0.1)
    assert opened(gpu_energy_mj=2.0).covers == "GPU rail"
    assert "only cpu_energy_mj" in opened(cpu_energy_mj=1.0).reason


def test_apple_silicon_is_read_by_device():
    zeus = Zeus(get_soc=lambda: Soc(cpu_total_mj=7, gpu_mj=9))
    assert zeus.opened(CPU, platform="darwin").read().energy_mj == 7.0
    assert zeus.opened(torch.device("mps"), platform="darwin").read().energy_mj == 9.0
    assert math.isfinite(zeus.opened(CPU, platform="darwin").read().seconds)


def test_without_zeus_the_way_out_is_the_extra():
    def missing(module):
        raise ModuleNotFoundError(module)

    assert "pip install 'prunesearch[energy]'" in open_zeus(CPU, platform="darwin", find=missing).reason


def test_zeus_is_not_asked_for_what_is_read_directly():
    assert open_zeus(CUDA) is None
    assert open_zeus(CPU) is None
