from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from prunesearch.cost.estimate.estimate import shipped_estimator
from prunesearch.cost.tables.device_profile import Energy, find_profile
from prunesearch.cost.tables.table_records import Validation
from prunesearch.report.tables.device_list import list_devices, show_devices
from prunesearch.search.costs.study_table import estimate_table
from prunesearch.tasks.shapes import load_shape, random_inputs
from tests.support.known_device import known_energy, known_table, write_profile
from tests.support.some import some


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(tmp_path))
    return tmp_path


def row_of(name):
    return next(r for r in list_devices()[0] if r.name == name)


def shown(rows, width=80):
    out = io.StringIO()
    show_devices(rows, Console(file=out, width=width, no_color=True))
    return out.getvalue()


def with_error(mape, worst, **changes):
    checked = Validation(mape=mape, worst=worst, bias=0.0, rank_correlation=0.99, unseen=30)
    return known_table(validation=checked, **changes)


def test_a_measured_profile_says_what_it_holds_and_its_error(root):
    tables = [with_error(0.01, 0.03, batch_size=8), with_error(0.03, 0.02, batch_size=1), with_error(0.02, 0.05)]
    energy = Energy(status="measured", source="rapl (package)")
    write_profile(root, "box", tables[0], tables[1], known_table(batch_size=32, model="other"), energy=energy)
    row = row_of("box")
    assert (row.status, row.own, row.tables, row.kind, row.energy) == ("measured", True, 3, "cpu", "measured")
    assert sorted(row.models) == ["known", "other"]
    assert row.conditions == {
        "batch_size": ["1", "8", "32"], "dtype": ["float32"], "attention": ["sdpa"], "mode": ["eager"],
        "threads": ["2"],
    }  # fmt: skip
    assert row.error == pytest.approx((0.01 + 0.03 + 0.012) / 3)
    assert row.worst == 0.034
    assert row.date == "2026-11-20"
    assert json.dumps(row.to_dict())
    text = shown([row])
    for words in ("box (yours)", "a known machine", "batch 1, 8, 32", "2 threads", "measured ±1.7%"):
        assert words in " ".join(text.split()), words


def test_a_profile_without_tables_has_no_error(root):
    write_profile(root, "empty")
    row = row_of("empty")
    assert (row.tables, row.error, row.worst, row.date) == (0, None, None, "")


def test_shipped_devices_are_estimated_and_never_called_measured(root):
    rows, broken = list_devices()
    assert broken == []
    wanted = {"a100-40gb", "a100-80gb", "h100", "v100", "t4", "l4", "a10", "rtx-3090", "rtx-4090", "jetson-agx-orin"}
    estimated = [r for r in rows if not r.tables]
    assert wanted <= {r.name for r in estimated}
    for row in some(estimated):
        assert (row.status, row.own, row.kind) == ("estimated", False, "cuda")
        assert row.error is not None
        assert row.error > 0.01
        assert row.energy == "unavailable"
    text = shown(estimated)
    assert text.count("estimated ±") == len(estimated)
    assert "measured" not in text


@pytest.mark.parametrize("name", ["a100-40gb", "h100", "h100-pcie", "jetson-agx-orin", "rtx-3090"])
def test_the_error_said_here_is_the_one_that_estimates_carry(root, name):
    """At a batch where the device, not its host, is the limit."""
    model = load_shape("deit-tiny", device="meta")
    inputs = random_inputs(load_shape("deit-tiny"), 1)
    big = {"pixel_values": inputs["pixel_values"].expand(512, -1, -1, -1)}
    spec = find_profile(name).spec
    table = estimate_table(spec, model, big, counts=[100], methods=["cls_attention+drop"], dtype="float16")
    assert table.validation.mape != shipped_estimator().host_bound.mape
    row = row_of(name)
    assert (row.error, row.worst) == (table.validation.mape, table.validation.worst)


def test_a_broken_profile_hides_no_other_and_is_named(root):
    write_profile(root, "box", known_table(energy=known_energy()))
    for name, text in (("bad", "{"), ("new", '{"format": "prunesearch.profile", "version": 9}')):
        (root / name).mkdir()
        (root / name / "profile.json").write_text(text)
    rows, broken = list_devices()
    assert {"box", "a100-40gb"} <= {r.name for r in rows}
    assert len(broken) == 2
    assert "bad/profile.json is not JSON" in broken[0].replace(str(root) + "/", "")
    assert "version 9" in broken[1]
    assert all("\n" not in line for line in broken)


def test_a_users_profile_stands_in_place_of_the_shipped_one(root):
    before = len(list_devices()[0])
    write_profile(root, "h200", known_table())
    rows = list_devices()[0]
    assert len(rows) == before
    assert row_of("h200").own


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(root, width):
    write_profile(root, "a-rather-long-name-of-a-profile", known_table(), aliases=["box", "the-same-in-other-words"])
    text = shown(list_devices()[0], width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "prunesearch run --device NAME" in " ".join(text.split())
