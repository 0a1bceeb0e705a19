"""A run whose cost table is not what was promised: it says so, and ranks by multiply-adds and by what it timed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.devices.device import describe_device
from prunesearch.cost.devices.machine import usable_cores
from prunesearch.cost.tables.table_records import PROMISED, Validation
from prunesearch.search.costs.latency import LoadCosts
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.trials import finished_trials, open_study, study_place
from tests.support.heard import hearing
from tests.support.known_device import known_table, settings, slower, write_model
from tests.support.some import some

BROKEN = Validation(
    mape=0.268, worst=0.79, bias=0.1, rank_correlation=0.816, unseen=30, schedules=["unpruned"], predicted_ms=[9.0],
    measured_ms=[8.0],
)  # fmt: skip


def test_a_table_promises_its_error_and_an_estimate_none_but_its_own():
    assert known_table().broken_promise == ""
    assert known_table(validation=BROKEN.model_copy(update={"mape": PROMISED})).broken_promise == ""
    assert known_table(validation=BROKEN).broken_promise == "its mean error is 26.8% where 5% is promised"
    assert known_table(validation=None).broken_promise == ""
    assert known_table(status="estimated", validation=BROKEN).broken_promise == ""


def test_latency_is_then_the_unpruned_ones_share_of_multiply_adds():
    macs = slower(known_table(), attention=0.1)  # what it is does not matter here
    costs = LoadCosts(8, 65, 1.0, known_table(validation=BROKEN), None, macs).costs
    half = Schedule([Stage(1, 0.5)])
    assert costs.predict(Schedule()) == pytest.approx(8.0)
    assert costs.predict(half) == pytest.approx(8.0 * macs.predict(half) / macs.predict(Schedule()))


def test_a_run_goes_on_and_does_not_rank_by_it(tmp_path: Path):
    write_model(tmp_path)
    config = RunConfig(**settings(tmp_path, trials=4))
    folder = StudyFolder.create("noisy", tmp_path / "studies")
    here = {"threads": torch.get_num_threads(), "cores": usable_cores(), "mode": "eager"}
    # a table that says that stages cost the most: ranked by it, nothing would be faster
    table = slower(known_table(validation=BROKEN, **here), reduce=1000.0)
    machine = {"name": str(describe_device(torch.device("cpu"))["name"]), "kind": "cpu"}
    table.model_copy(update={"device": machine}).save(folder.cost_table)
    with hearing() as heard:
        front = run(config, "noisy", root=tmp_path / "studies")
    assert "nothing is ranked by the cost table" in str(heard)
    assert "26.8% where 5% is promised" in str(heard)
    assert any("nothing is ranked by the cost table" in note for note in front.notes)
    records = finished_trials(open_study(objectives=config.objectives, **study_place(folder, None)))
    for record in some(records):
        assert record.predicted_ms <= 8.0
    assert all(point.costs["latency"].measured is not None for point in front.points)


def test_a_precision_is_then_as_much_faster_as_the_table_says_of_the_unpruned_model():
    table = known_table(validation=BROKEN, changed={"int8": slower(known_table(), attention=0.5).cells})
    macs = slower(known_table(), attention=0.1)
    macs = macs.model_copy(update={"changed": {"int8": macs.cells}})  # as many in any precision
    costs, half, int8 = LoadCosts(8, 65, 1.0, table, None, macs).costs, Schedule([Stage(1, 0.5)]), Change.parse("int8")
    share = table.predict(Plan(changes=[int8])) / table.predict(Plan())
    assert share < 1
    assert costs.predict(Plan(half, [int8])) == pytest.approx(share * costs.predict(half))
    assert costs.under((int8,)).mlp(65, 0) == pytest.approx(share * costs.mlp(65, 0))
