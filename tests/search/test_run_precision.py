"""A run of tokens and precision together, on a tiny real model: what it tries, shows, keeps and hands on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prunesearch.commands.transfer_table import transfer_study
from prunesearch.commands.verify import verify
from prunesearch.compress.precision import Cast
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import Event, listening
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.registry import PRECISIONS, RUNTIMES
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.export import export
from prunesearch.pruning.apply import apply_
from prunesearch.report.tables.frames import front_rows, trial_rows
from prunesearch.search.costs.precisions import variants_to_search
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.setup import make_setting
from prunesearch.study.trials import finished_trials, open_study
from prunesearch.tasks.base import Task
from tests.support.known_device import known_table, settings, write_model, write_profile
from tests.support.some import some
from tests.support.tables import in_place

INT8 = (Change.parse("int8"),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("precision")
    write_model(root)
    return root


def asked(folder: Path, **changes: Any) -> RunConfig:
    mine = {"device": "cpu", "table_seconds": 1.0, "patience_s": 0.0, "trials": 8, "precision": ["float32", "int8"]}
    # size tells the precisions apart, however fast this machine is
    return RunConfig(**{**settings(folder), **mine, "objectives": ["latency", "size"], **changes})


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return make_setting(asked(folder)).task


@pytest.fixture(scope="module")
def front(folder: Path) -> Front:
    return run(asked(folder), "both", root=folder / "studies")


@pytest.fixture
def study(folder: Path, front: Front) -> StudyFolder:
    return StudyFolder(folder / "studies", "both")


def test_both_precisions_are_measured_in_one_table(study: StudyFolder) -> None:
    table = CostTable.load(study.cost_table)
    assert table.variants == ("", "int8")
    assert table.validation is not None
    assert any(text.endswith("| int8") for text in table.validation.schedules)


def test_the_unpruned_model_in_int8_is_tried_first_without_being_asked(study: StudyFolder, front: Front) -> None:
    records = finished_trials(open_study(study.journal, objectives=["latency", "size"]))
    assert records[0].plan == Plan(changes=INT8)
    assert {record.plan.variant for record in records} == {"", "int8"}
    assert {row["schedule"] for row in trial_rows(records)} == {str(record.plan) for record in records}
    sizes = {point.variant: point.cost("size").value for point in front.points}
    assert sizes["int8"] < 0.5 * front.unpruned.cost("size").value
    known = json.loads((study.path / "sensitivities.json").read_text())
    assert known["base"].keys() == {"int8"}


def test_points_are_plans_that_compute_what_was_evaluated(front: Front, task: Task) -> None:
    point = next(point for point in some(front.points) if point.variant)
    plan = point.to_plan()
    assert plan.changes == INT8
    assert point.text == str(plan)
    found = []
    with torch.inference_mode(), apply_(task.model, plan):
        for batch in task.holdout.batches:
            found.append(task.statistics(task.outputs(task.model, batch), batch))
    assert task.scoring.value(torch.cat(found).cpu()) == pytest.approx(point.quality.value)
    rows = {row["id"]: row for row in front_rows(front)}
    assert rows[point.id]["schedule"].endswith("int8")


def test_the_front_is_read_back_and_the_same_call_goes_on(folder: Path, front: Front, study: StudyFolder) -> None:
    assert Front.load(study.front) == front
    assert run(asked(folder), "both", root=folder / "studies") == front
    more = run(asked(folder, trials=10), "both", root=folder / "studies")
    assert more.search.trials == 10
    assert more.ladder
    assert (more.ladder[0].runtime, more.ladder[0].precision) == ("eager", "float32")


def test_it_is_verified_and_exported_by_plan(front: Front, study: StudyFolder) -> None:
    found = verify(study, front, seconds=0.5)
    assert [point.text for point in found.points[1:]] == [point.text for point in front.points]
    point = next(point for point in some(front.points) if point.variant)
    assert Plan.from_json(export(front, point.id).text) == point.to_plan()
    with pytest.raises(PruneSearchError, match=r"int8, which the model is in, is left out"):
        export(front, point.id, "tome")


def test_a_device_without_that_precision_prices_the_others(
    folder: Path, front: Front, study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_profile(folder / "profiles", "box", known_table())
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(folder / "profiles"))
    narrow = [point for point in some(front.points) if point.variant]
    with pytest.raises(PruneSearchError, match="can be priced on 'box', whose table is of float32 alone"):
        transfer_study(study, front.model_copy(update={"points": narrow}), "box")
    plain = narrow[0].model_copy(update={"id": "p0", "plan": Plan(narrow[0].to_plan().schedule).to_dict()})
    found = transfer_study(study, front.model_copy(update={"points": [plain, *narrow]}), "box")
    assert [point.id for point in found.points] == ["p0"]
    assert f"{len(narrow)} points are left out: the table there is of float32 alone" in found.notes


def test_a_study_of_schedules_goes_on_as_it_was(folder: Path) -> None:
    root = folder / "before"
    config = asked(folder, precision=["float32"], trials=4)
    run(config, "old", root=root)
    kept = StudyFolder(root, "old")
    written = json.loads(json.dumps(kept.load_config()))
    written.pop("precision")
    kept.save_config(written)
    known = json.loads((kept.path / "sensitivities.json").read_text())
    known.pop("base")
    (kept.path / "sensitivities.json").write_text(json.dumps(known))
    more = run(asked(folder, precision=None, trials=6), "old", root=root)
    assert more.search.trials == 6
    assert all(not point.variant for point in more.points)


def test_precisions_that_change_a_cost_unseen_are_not_searched(folder: Path) -> None:
    """Memory is estimated from the shapes of the model's own activations; in int8 these stay, in another dtype not."""
    with PRECISIONS.registered("made-up", Cast("float32"), "of the tests", bits=16):
        for objectives, wanted in ((["latency"], {"int8", "made-up"}), (["latency", "memory"], {"int8"})):
            setting = make_setting(asked(folder, precision=None, objectives=objectives))
            with apply_(setting.task.model, Plan()) as handle:
                found = {str(changes[0]) for changes in variants_to_search(setting, handle)[1:]}
            assert found & {"int8", "made-up"} == wanted


def test_int8_is_left_out_of_a_runtime_whose_quantiser_is_missing(folder: Path) -> None:
    told: list[Event] = []
    lacking = replace(RUNTIMES.entry("onnxruntime"), quantiser="no_such_package")
    with in_place(RUNTIMES, "onnxruntime", lacking):
        setting = make_setting(asked(folder, precision=None, mode="onnxruntime"))
        with apply_(setting.task.model, Plan()) as handle, listening(told.append):
            assert variants_to_search(setting, handle) == [()]
            asks = replace(setting, config=asked(folder, mode="onnxruntime"))
            with pytest.raises(PruneSearchError, match=r"cannot be had .ONNX Runtime's quantiser is the package"):
                variants_to_search(asks, handle)
    assert any("int8 is left out: ONNX Runtime's quantiser is the package no_such" in str(one) for one in told)


def test_a_study_does_not_go_on_where_its_precisions_cannot_be_had(
    folder: Path, study: StudyFolder, tmp_path: Path
) -> None:
    shutil.copytree(study.path, tmp_path / "both")
    table = tmp_path / "both" / "cost_table.json"
    table.write_text(table.read_text().replace('"int8":', '"int9":'))
    with pytest.raises(PruneSearchError, match="begun with plans in int9, which cannot be had here"):
        run(asked(folder, trials=99), "both", root=tmp_path)


def test_what_cannot_be_had_is_refused_before_anything_is_measured(folder: Path) -> None:
    with pytest.raises(PruneSearchError, match=r"--precision int8-weights cannot be had .*torchao") as caught:
        run(asked(folder, precision=["float32", "int8-weights"]), "none", root=folder / "studies")
    assert "\n" not in str(caught.value)
    assert not (folder / "studies" / "none" / "cost_table.json").exists()
    with pytest.raises(PruneSearchError, match="unknown precision 'int9': did you mean 'int8'"):
        asked(folder, precision="float32,int9")


def test_fp8_is_refused_on_a_cpu_in_a_line(folder: Path) -> None:
    with pytest.raises(PruneSearchError, match=r"--precision fp8 cannot be had \(nothing makes it on 'cpu'\)"):
        run(asked(folder, precision=["float32", "fp8"]), "none", root=folder / "studies")


def test_a_seed_may_be_a_plan(folder: Path, tmp_path: Path) -> None:
    plan = Plan(Schedule([Stage(1, 0.5, "value_norm", "drop")]), INT8)
    (tmp_path / "seed.json").write_text(plan.to_json())
    # bounded by the unpruned model's size, not by its latency: how fast int8 is hangs on the machine
    names = ["size", "macs"]
    config = asked(folder, start_from=[str(tmp_path / "seed.json")], trials=2, objectives=names)
    run(config, "seeded", root=folder / "studies")
    records = finished_trials(open_study(folder / "studies" / "seeded" / "study.journal", names))
    assert records[0].plan.variant == "int8"
    assert len(records[0].plan) == 1
