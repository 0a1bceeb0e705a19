"""Tables that were measured before blocks had variants: read, and priced as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prunesearch.core.plans.schedule_text import parse_schedule
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.device_profile import Profile
from tests.support.paths import ROOT
from tests.support.some import some

# what the prunesearch of then predicted from the same files (commit edff8e3)
BEFORE = json.loads((Path(__file__).parent / "prices_before.json").read_text())


def tables() -> dict[str, CostTable]:
    profile = Profile.load(ROOT / "hw_profiles" / "epyc-2c")
    found = {entry.id: profile.read(entry) for entry in profile.tables}
    return {**found, "studies/example": CostTable.load(ROOT / "studies" / "example" / "cost_table.json")}


def test_every_table_prices_as_before() -> None:
    schedules = [parse_schedule(text) for text in BEFORE["schedules"]]
    found = {name: [table.predict(schedule) for schedule in schedules] for name, table in tables().items()}
    assert found.keys() == BEFORE["ms"].keys()
    for name, ms in found.items():
        # the same to the last bit where this was written; a machine with other BLAS fits surfaces a hair otherwise
        assert ms == pytest.approx(BEFORE["ms"][name], rel=1e-12), name


def test_a_plain_table_is_written_as_before_but_for_its_version() -> None:
    path = ROOT / "studies" / "example" / "cost_table.json"
    written, table = json.loads(path.read_text()), CostTable.load(path)
    assert written["version"] == 2
    assert json.loads(table.model_dump_json()) == {**written, "version": 3}


def test_the_cells_of_a_profile_are_written_as_before() -> None:
    profile = Profile.load(ROOT / "hw_profiles" / "epyc-2c")
    for entry in some(profile.tables[:3]):
        rows = json.loads((profile.folder / entry.file).read_text())
        written = profile.read(entry).cells.rows()
        assert [{k: v for k, v in row.items() if v is not None} for row in written] == rows
        assert "variants" not in entry.shape.model_dump()
