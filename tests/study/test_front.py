"""front.json: lossless round trip, one clear line for each kind of damage, and a documentation that keeps up."""

from __future__ import annotations

import copy
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.files import write_text_atomic
from prunesearch.core.plans.schedule import Schedule
from prunesearch.report.tables.show import show_front
from prunesearch.study.front import Front

FIXTURES = Path(__file__).parent / "fixtures"


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
    assert point.to_schedule() == Schedule.from_dict(point.plan)
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
        data["points"][0]["plan"]["stages"][0]["scorer"] = "valu_norm"

    message = damaged(make_front, tmp_path / "f.json", change)
    assert "`points[0].plan`" in message
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


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "front.json"
    write_text_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):  # after the first half of it was written
        write_text_atomic(path, 100_000 * "new" + "\ud800")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["front.json"]


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "front.json" / "kept").mkdir(parents=True)
    with pytest.raises(OSError, match=r"front\.json"):
        write_text_atomic(tmp_path / "front.json", "new")
    assert os.listdir(tmp_path) == ["front.json"]
    assert os.listdir(tmp_path / "front.json") == ["kept"]


# -- older versions ------------------------------------------------------------------------------------------


def shown(front: Front) -> str:
    out = io.StringIO()
    show_front(front, Console(file=out, width=100, color_system=None))
    return out.getvalue()


def test_a_study_of_version_3_shows_what_it_showed():
    """`front-v3.txt` was printed by the code of version 3."""
    assert shown(Front.load(FIXTURES / "front-v3.json")) == (FIXTURES / "front-v3.txt").read_text(encoding="utf-8")


def test_the_example_in_git_is_that_study_rewritten():
    example = FIXTURES.parents[2] / "studies" / "example" / "front.json"
    assert json.loads(example.read_text())["version"] == 4
    assert Front.load(example) == Front.load(FIXTURES / "front-v3.json")


def old_front(version: int) -> dict[str, Any]:
    """The study of the fixture with everything that a file of version 3 could hold."""
    data: dict[str, Any] = json.loads((FIXTURES / "front-v3.json").read_text())
    for i, item in enumerate([data["unpruned"], *data["points"]]):
        item["energy"] = {"predicted_mj": 9.0 - i / 10, "measured": None, "net_mj": None}
        item["memory"] = {"predicted_mib": 3.0, "measured_mib": 2.5 - i / 10}
        item["latency"]["percentile_ms"] = item["latency"]["p90_ms"]
        item["loads"] = [item["latency"], item["latency"] | {"percentile_ms": None}]
        item["energy"]["measured"] = {"value": 8.0, "low": 7.0, "high": 9.5}
        item["energy"]["net_mj"] = 3.0
    data["loads"] = [{"batch_size": 8, "tokens": 65, "weight": w, "mape": 0.01} for w in (1.0, 2.0)]
    data |= {"across": "mean", "budget": {"text": "40mJ", "limit": 40.0, "unit": "mJ", "each": False}}
    if version == 2:
        for name in ("percentile", "loads", "across", "constraints", "hypervolume", "selection", "notes"):
            del data[name]
        for item in (data["unpruned"], *data["points"]):
            del item["loads"], item["memory"], item["latency"]["percentile_ms"]
        del data["budget"]["each"], data["budget"]["unit"], data["search"]["saved"], data["search"]["stopped"]
    return {**data, "version": version}


def test_nothing_of_version_3_is_lost(tmp_path):
    old = old_front(3)
    (tmp_path / "front.json").write_text(json.dumps(old))
    new = Front.load(tmp_path / "front.json")
    assert (new.budget.cost, new.budget.unit, new.budget.limit) == ("energy", "mJ", 40.0)
    for before, item in zip([old["unpruned"], *old["points"]], [new.unpruned, *new.points], strict=True):
        ms, mj, mib = before["latency"], before["energy"], before["memory"]
        latency, energy = item.latency.measured, item.cost("energy").measured
        assert (item.latency.predicted, latency.median, latency.value) == (
            ms["predicted_ms"], ms["median_ms"], ms["percentile_ms"],
        )  # fmt: skip
        assert (latency.p10, latency.p90) == (ms["p10_ms"], ms["p90_ms"])
        assert [load["latency"].value for load in item.loads] == [ms["percentile_ms"], ms["median_ms"]]
        assert (item.cost("energy").predicted, energy.value, energy.low, energy.high, energy.net) == (
            mj["predicted_mj"], 8.0, 7.0, 9.5, 3.0,
        )  # fmt: skip
        assert (item.cost("memory").predicted, item.cost("memory").value) == (3.0, mib["measured_mib"])
        assert item.cost("macs").value == before["gmacs"]
        assert {n: getattr(item.quality, n) for n in ("value", "low", "high")} == before["quality"]
        assert item.quality.calibration == before["calibration"]["quality"]
    for before, point in zip(old["points"], new.points, strict=True):
        assert {n: getattr(point.difference, n) for n in ("value", "low", "high")} == before["difference"]
        assert (point.fidelity.kl, point.fidelity.agreement) == tuple(before["fidelity"].values())
        assert point.fidelity.calibration_kl == before["calibration"]["kl"]
        assert (point.speedup, point.text) == (before["speedup"], before["text"])
        assert point.to_schedule() == Schedule.from_dict(before["schedule"])
    assert new.verdict.model_dump() == {**old["verdict"], "by_estimate": None}


def test_version_2_is_read_too(tmp_path):
    """What version 3 added to it had defaults."""
    (tmp_path / "front.json").write_text(json.dumps(old_front(2)))
    found = Front.load(tmp_path / "front.json")
    assert (found.loads, found.percentile, found.notes, found.search.saved) == ([], None, [], 0.0)
    assert found.budget.cost == "latency"
    assert found.unpruned.costs.keys() == {"latency", "macs", "energy"}


@pytest.mark.parametrize(
    "damage",
    [lambda d: d.pop("unpruned"), lambda d: d["points"][0].pop("latency"), lambda d: d.update(points=3)],
)
def test_a_damaged_old_file_is_one_line(tmp_path, damage):
    data = old_front(3)
    damage(data)
    (tmp_path / "front.json").write_text(json.dumps(data))
    with pytest.raises(CorruptFileError, match="is no front of version 3") as caught:
        Front.load(tmp_path / "front.json")
    assert "\n" not in str(caught.value)
