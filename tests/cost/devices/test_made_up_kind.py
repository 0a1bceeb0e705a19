"""A kind of device from outside the project: one class and one row, and everything else takes it as it is.

torch's `meta` device stands for it: its operations compute nothing, and its clock counts them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import ClassVar

import pytest
import torch

from prunesearch.commands.profile import ProfileConfig, open_profile
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule, Stage
from prunesearch.core.tables.registry import COUNTERS, DEVICE_KINDS
from prunesearch.cost.devices.device import at_hand, kind_of
from prunesearch.cost.devices.kind import DeviceKind, Ready
from prunesearch.cost.energy.counters import open_counter
from prunesearch.cost.measure import measure_table
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.report.tables.device_list import list_devices, show_devices
from prunesearch.study.target import is_here, resolve_target
from prunesearch.tasks.shapes import load_shape, random_inputs


class CountingClock:
    """Every mark is 2 ms after the one before."""

    def __init__(self) -> None:
        self.numbers = itertools.count()

    def mark(self) -> int:
        return next(self.numbers)

    def between_ms(self, marks: Sequence[int]) -> list[float]:
        return [2.0 * (b - a) for a, b in itertools.pairwise(marks)]


class Imaginary(DeviceKind):
    """Computes nothing, slowly."""

    name: ClassVar[str] = "meta"
    worked: ClassVar[list[str]] = []

    def identity(self):
        return {"name": "Imaginary One"}

    def describe(self, device):
        return {"name": "Imaginary One", "cores": 7}

    def clock(self):
        return CountingClock()

    def synchronize(self, device):
        self.worked.append("synchronize")

    def make_ready(self, run, device, patience_s):
        run()
        self.worked.append("ready")
        return Ready(waited_s=3.0, doubt="it is not there")


@pytest.fixture
def imaginary(monkeypatch, tmp_path) -> Iterator[None]:
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(tmp_path))
    Imaginary.worked.clear()
    with DEVICE_KINDS.registered("meta", Imaginary):
        yield


def measured():
    model = load_shape("deit-tiny", device="meta")
    return measure_table(
        model, random_inputs(model, 2), counts=[50, 100, 150], methods=["cls_attention+drop", "bipartite"],
        time_budget_s=0.0, min_rounds=1, unseen=4,
    )  # fmt: skip


def test_a_table_is_measured_on_it(imaginary):
    table = measured()
    assert table.conditions["device"] == "meta"
    assert table.conditions["threads"] is table.conditions["cores"] is None
    assert (table.device["kind"], table.device["name"], table.device["cores"]) == ("meta", "Imaginary One", 7)
    assert table.device["cpu"]
    # a step is 2 ms; what passes between two blocks belongs to the attention that follows: a cell may have both
    assert {cell.median_ms for cell in (*table.cells.mlp, *table.cells.reduce)} == {2.0}
    assert {cell.median_ms for cell in table.cells.attention} <= {2.0, 3.0, 4.0}
    # 12 blocks of 4 marks each, one at the start, one at the end: 49 steps, whatever the schedule
    assert table.predict(Schedule()) == pytest.approx(98.0, rel=0.2)
    assert table.predict(Schedule([Stage(3, 0.5)])) == pytest.approx(98.0, rel=0.2)
    assert table.noise.waited_s == 3.0
    assert "it is not there" in table.noise.why
    assert Imaginary.worked == ["ready"]


def test_a_profile_of_it_is_measured_listed_and_known_again(imaginary, tmp_path, capsys):
    found = open_profile(ProfileConfig(device="meta"))
    found.put(CostTable(**{**dict(measured()), "model": "deit-tiny", "source": "a test"}))
    assert found.folder == tmp_path / "imaginary-one"
    rows = {row.name: row for row in list_devices()[0]}
    assert (rows["imaginary-one"].kind, rows["imaginary-one"].tables) == ("meta", 1)
    show_devices([rows["imaginary-one"]])
    assert "Imaginary One" in capsys.readouterr().out
    assert at_hand().name == "meta"
    assert is_here(found)
    target = resolve_target("Imaginary-One")
    assert (target.device, target.here, target.profile.name) == ("meta:0", True, "imaginary-one")
    assert resolve_target("meta:0").profile is None
    assert found.command("m", {"batch_size": 1}).startswith("prunesearch profile --model m --device meta:0 --name ima")


def test_its_energy_has_a_counter_of_its_own(imaginary):
    counter = object()
    with COUNTERS.registered("imaginary", lambda device: counter if device.type == "meta" else None):
        assert open_counter("meta") is counter


def test_it_is_gone_when_its_row_is():
    with pytest.raises(PruneSearchError, match="unknown device 'meta'"):
        kind_of(torch.device("meta"))
