"""front.json: lossless round trip, one clear line for each kind of damage, and a documentation that keeps up."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import write_text_atomic
from prunesearch.core.schedule import Schedule
from prunesearch.study.front import Front


def damaged(make_front: Any, path: Path, change: Any) -> str:
    """Save a front with `change` applied to its plain form; return the message of loading it."""
    data = make_front().to_dict()
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(CorruptFileError) as caught:
        Front.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_round_trip_is_lossless(make_front, tmp_path):
    front = make_front()
    front.save(tmp_path / "front.json")
    assert Front.load(tmp_path / "front.json") == front
    again = json.loads((tmp_path / "front.json").read_text())
    assert again == front.to_dict()
    assert again["model"]["class"] == "ViTForImageClassification"
    assert os.listdir(tmp_path) == ["front.json"]


def test_odd_floats_and_extra_device_facts_survive(make_front, tmp_path):
    data = make_front().to_dict()
    data["device"]["driver"] = "550.1"
    data["points"][0]["costs"]["macs"]["predicted"] = 0.1 + 0.2
    front = Front.model_validate(data)
    front.save(tmp_path / "front.json")
    loaded = Front.load(tmp_path / "front.json")
    assert loaded.points[0].cost("macs").value == 0.1 + 0.2
    assert loaded.to_dict()["device"]["driver"] == "550.1"


def test_points_give_their_schedule_back(make_front):
    point = make_front().points[1]
    assert point.to_schedule() == Schedule.from_dict(point.schedule)
    assert str(point.to_schedule()) == point.text


def test_within_budget(make_front):
    assert [p.id for p in make_front().within_budget()] == ["p2", "p3", "p4"]
    assert len(make_front(budget=None).within_budget()) == 4


def test_missing_file_says_that_the_study_is_unfinished(tmp_path):
    with pytest.raises(PruneSearchError, match=r"front\.json does not exist.*prunesearch run"):
        Front.load(tmp_path / "front.json")


def test_directory_instead_of_file(tmp_path):
    with pytest.raises(PruneSearchError, match="cannot be read"):
        Front.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"format": "prunesearch.front", "vers'])
def test_broken_json(tmp_path, text):
    path = tmp_path / "front.json"
    path.write_text(text)
    with pytest.raises(CorruptFileError, match=r"front\.json is not JSON \(.*\): run the study again"):
        Front.load(path)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "front.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptFileError, match="not JSON"):
        Front.load(path)


@pytest.mark.parametrize("data", [[], 3, {}, {"format": "prunesearch.schedule", "version": 1}])
def test_another_format(tmp_path, data):
    path = tmp_path / "front.json"
    path.write_text(json.dumps(data))
    with pytest.raises(CorruptFileError, match=r'"format" must be "prunesearch\.front"'):
        Front.load(path)


def test_newer_version(make_front, tmp_path):
    message = damaged(make_front, tmp_path / "f.json", lambda d: d.update(version=5))
    assert '"version" 5 is newer than 4' in message
    assert "upgrade prunesearch" in message


@pytest.mark.parametrize("version", [0, 1, None, "2", True])
def test_impossible_version(make_front, tmp_path, version):
    message = damaged(make_front, tmp_path / "f.json", lambda d: d.update(version=version))
    assert '"version" must be 4' in message


def test_missing_field_is_named_with_its_path(make_front, tmp_path):
    message = damaged(
        make_front, tmp_path / "f.json", lambda d: d["points"][2]["costs"]["latency"]["measured"].pop("value")
    )
    assert "`points[2].costs.latency.measured.value`: Field required" in message
    assert "run the study again" in message


def test_further_errors_are_counted(make_front, tmp_path):
    def change(data: dict[str, Any]) -> None:
        del data["dropped"], data["verdict"]

    assert "(and 1 more)" in damaged(make_front, tmp_path / "f.json", change)


def test_unknown_field(make_front, tmp_path):
    message = damaged(make_front, tmp_path / "f.json", lambda d: d["cost_table"].update(energy=1))
    assert "`cost_table.energy`" in message


def test_broken_schedule_inside(make_front, tmp_path):
    def change(data: dict[str, Any]) -> None:
        data["points"][0]["schedule"]["stages"][0]["scorer"] = "valu_norm"

    message = damaged(make_front, tmp_path / "f.json", change)
    assert "`points[0].schedule`" in message
    assert "did you mean 'value_norm'?" in message


def _swap(data: dict[str, Any]) -> None:
    data["points"].reverse()


def _twin(data: dict[str, Any]) -> None:
    data["points"][1] = copy.deepcopy(data["points"][0])


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (_swap, "slowest first"),
        (_twin, "ids must differ"),
        (lambda d: d["verdict"].update(point="p9"), "names point 'p9'"),
        (lambda d: d["points"][0]["tokens"].pop(), "p1 has 8"),
        (lambda d: d["unpruned"]["qualities"]["accuracy"].update(low=0.9), "low <= high"),
        (lambda d: d["verdict"].update(by_estimate="p9"), "names point 'p9'"),
        (lambda d: d.update(objectives=["latncy"]), "did you mean 'latency'?"),
        (lambda d: d.update(combined="mean"), "`combined` must say"),
        (lambda d: d["cost_table"].update(status="guessed"), "`cost_table.status`"),
    ],
)
def test_inconsistent_content(make_front, tmp_path, change, rule):
    assert rule in damaged(make_front, tmp_path / "f.json", change)


def test_nan_is_refused_when_built(make_front):
    data = make_front().to_dict()
    data["points"][0]["costs"]["macs"]["predicted"] = float("nan")
    with pytest.raises(ValidationError, match="finite"):
        Front.model_validate(data)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "front.json"
    write_text_atomic(path, "old")

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["front.json"]
