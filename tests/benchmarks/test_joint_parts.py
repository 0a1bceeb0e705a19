"""What `benchmarks/joint_parts.py` judges and times of plans, in eager torch and as graphs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from joint_parts import EAGER, Runs

from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.config import RunConfig
from prunesearch.study.setup import Setting, make_setting
from tests.support.known_device import settings, write_model
from tests.support.paths import DEV

SHORT = Plan(Schedule([Stage(1, 0.5)]), [Change("skip", 2, {"part": "mlp"})])


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    root = tmp_path_factory.mktemp("joint")
    write_model(root)
    return make_setting(RunConfig(**{**settings(root), "device": "cpu"}))


def runs_of(setting: Setting, runtime: str, root: Path) -> Runs:
    return Runs(runtime, setting, {}, root, {})


def test_rows_are_judged_as_a_search_does_and_kept(setting: Setting, tmp_path: Path) -> None:
    runs = runs_of(setting, EAGER, tmp_path)
    rows = runs.judge(SHORT, "holdout", 20)
    with apply_(setting.task.model, Plan()) as handle:
        wanted = Evaluator(setting.task, handle, setting.task.holdout.take(20)).evaluate(SHORT)
    assert setting.task.scoring.value(rows) == pytest.approx(wanted.quality)
    (kept,) = tmp_path.rglob("*.npy")
    before = kept.stat().st_mtime_ns
    assert torch.equal(runs.judge(SHORT, "holdout", 20), rows)
    assert kept.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_graph_answers_as_the_model_does(setting: Setting, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason=DEV)
    graphs, eager = (runs_of(setting, name, tmp_path) for name in ("onnxruntime", EAGER))
    assert torch.equal(graphs.judge(SHORT, "holdout", 20), eager.judge(SHORT, "holdout", 20))
    assert graphs.able(SHORT)
    assert runs_of(setting, "openvino", tmp_path).able(Plan(changes=[Change.parse("int8")]))
    assert not runs_of(setting, "openvino", tmp_path).able(Plan(changes=[Change.parse("bfloat16")]))
    found = graphs.time([Plan(), SHORT], 0.1, 2).samples
    assert set(found) == {str(Plan()), str(SHORT), EAGER}
    assert all(len(samples.ms) >= 2 for samples in found.values())


def test_weights_of_a_student_are_its_own(setting: Setting, tmp_path: Path) -> None:
    model = setting.task.model
    (name, weight), *_ = (item for item in model.named_parameters() if item[0] == "classifier.bias")
    before, wrong = weight.detach().clone(), torch.tensor([0.0, 0.0, 100.0])
    rows = Runs(EAGER, setting, {}, tmp_path, {SHORT: {name: wrong}}).judge(SHORT, "holdout", 20)
    assert torch.equal(weight, before)
    labels = torch.as_tensor(setting.task.holdout.take(20).labels)
    assert setting.task.scoring.value(rows) == pytest.approx(float((labels == 2).double().mean()))
