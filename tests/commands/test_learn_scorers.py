"""`learn-scorers` and searches with what it learnt, on a small real model whose device is known by its profile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import prunesearch as ps
from prunesearch.commands.tuning.judging import Wanted
from prunesearch.commands.tuning.learn_scorers import LearntScorers, learn_scorers
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.export.models.model_format import ModelOptions, ModelSource
from prunesearch.export.models.write import check_methods, export_model, find_model_format
from prunesearch.pruning.forward.artefacts import loaded, read_weights
from prunesearch.search.run import run
from prunesearch.search.steps import load_evaluate
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.setup import make_setting
from prunesearch.training.settings import TrainingSettings
from tests.commands.test_tune import write_rows
from tests.support.known_device import command, on_box, one_line, settings

TRAIN = "train.parquet"
STAGES = Schedule([ps.Stage(0, 0.5, "saliency", "drop"), ps.Stage(1, 0.25, "leave_one_out", "fuse")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with on_box(tmp_path_factory.mktemp("learned")) as root:
        write_rows(root)
        yield root


@pytest.fixture(scope="module")
def searched(folder: Path) -> Front:
    return run(RunConfig(**settings(folder, device="box")), "plain", root=folder / "studies")


@pytest.fixture(scope="module")
def learnt(folder: Path, searched: Front) -> LearntScorers:
    wanted = Wanted(TrainingSettings(epochs=0.5, batch_size=32), train=str(folder / TRAIN))
    return learn_scorers(StudyFolder(folder / "studies", "plain"), searched, wanted)


def given(folder: Path, learnt: LearntScorers) -> dict[str, Any]:
    return settings(folder, weights=str(learnt.folder))


def test_rules_learned_scorers_and_the_control_are_judged_at_the_same_stages(
    folder: Path, learnt: LearntScorers
) -> None:
    names = {row["scorer"] for row in learnt.judged}
    assert {"cls_attention", "value_norm", "saliency", "leave_one_out", "random_targets"} == names
    assert learnt.best_rule in ("cls_attention", "value_norm")
    assert next(row["to_control"] for row in learnt.judged if row["scorer"] == "random_targets") == 1.0
    task = make_setting(RunConfig(**settings(folder))).task
    row = next(row for row in learnt.judged if row["scorer"] == "value_norm")
    with ps.apply_(task.model, Plan()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        for stage, loss in row["losses"].items():
            block, keep = stage.split(":")
            found = evaluator.evaluate(Schedule([ps.Stage(int(block), float(keep), "value_norm", "drop")]))
            assert loss == pytest.approx(found.loss, rel=1e-5)
    control = next(row["losses"] for row in learnt.judged if row["scorer"] == "random_targets")
    ratios = [row["losses"][stage] / control[stage] for stage in control]
    assert row["to_control"] == pytest.approx(np.prod(ratios) ** (1 / len(ratios)))


def test_the_file_has_the_scorers_without_the_control_and_nothing_of_the_model(learnt: LearntScorers) -> None:
    name = json.loads((learnt.folder / "plan.json").read_text())["weights"]
    tensors = read_weights(learnt.folder / "weights", name)
    assert {key.split("/")[1] for key in tensors} == {"saliency", "leave_one_out"}
    assert all(key.startswith("scorers/") for key in tensors)


def test_a_worker_of_another_process_has_them(folder: Path, learnt: LearntScorers) -> None:
    """What Ray's workers call, with a configuration alone."""
    config = RunConfig(**given(folder, learnt))
    setting = make_setting(config)
    assert setting.weights.scorers == ["leave_one_out", "saliency"]
    with ps.apply_(setting.task.model, Plan()) as handle:
        here = Evaluator(setting.task, handle, setting.task.calibration.take(16)).evaluate(STAGES)
    there = load_evaluate(config.to_dict(), 16)(Plan(STAGES), None)
    assert there.loss == here.loss > 0


def test_a_run_offers_them_and_its_points_carry_them(folder: Path, learnt: LearntScorers) -> None:
    """With a measured table: profiles of other machines know no learned scorer."""
    space = (folder / "space.yaml").read_text().replace("- cls_attention\n", "")
    (folder / "few.yaml").write_text(space)
    asked = {**given(folder, learnt), "space": str(folder / "few.yaml"), "mode": "eager", "precision": "float32"}
    front = run(RunConfig(**asked), "learned", root=folder / "studies")
    name = json.loads((learnt.folder / "plan.json").read_text())["weights"]
    assert all(point.to_plan().weights == name for point in front.points)
    table = json.loads((folder / "studies" / "learned" / "cost_table.json").read_text())
    assert "saliency" in json.dumps(table["cells"])
    assert all(p.tuned.before.value == pytest.approx(p.quality.value) for p in front.points)  # nothing of the model


@pytest.mark.slow
def test_an_onnx_file_has_them_inside_and_a_hugging_face_folder_is_refused(
    folder: Path, learnt: LearntScorers, tmp_path: Path
) -> None:
    setting = make_setting(RunConfig(**given(folder, learnt)))
    model, inputs = setting.task.model, setting.task.timing_inputs(4)
    with ps.apply_(model, STAGES), torch.no_grad():
        wanted = model(**inputs).logits
    source = ModelSource(model, STAGES, inputs)
    export_model(source, find_model_format("onnx"), tmp_path / "m.onnx", options=ModelOptions(), seconds=None)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    (found, *_) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-3, atol=1e-4)
    with pytest.raises(PruneSearchError) as error:
        check_methods(STAGES, find_model_format("hf"))
    one_line(error.value, "saliency", "weights of a learned scorer")


def test_a_plan_is_applied_with_the_folder_of_a_training(folder: Path, learnt: LearntScorers) -> None:
    task = make_setting(RunConfig(**settings(folder))).task
    (batch, *_) = task.holdout.batches
    with ps.apply_(task.model, STAGES), pytest.raises(PruneSearchError) as error:
        task.model(**batch.inputs)
    one_line(error.value, "block 0", "run --weights STUDY/scorers")
    name = json.loads((learnt.folder / "plan.json").read_text())["weights"]
    with loaded(task.model, read_weights(learnt.folder / "weights", name)), ps.apply_(task.model, STAGES):
        assert torch.isfinite(task.model(**batch.inputs).logits).all()


def test_the_command_line(folder: Path, learnt: LearntScorers, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(folder)
    code, _, err = command(monkeypatch, capsys, "learn-scorers", "plain", "--method", "salience")
    assert code == 2
    one_line(err, "unknown learned scorer", "saliency")
    asked = ["--method", "gate", "--train", TRAIN, "--epochs", "0.2", "--quiet"]
    code, out, _ = command(monkeypatch, capsys, "learn-scorers", "plain", *asked)
    assert code == 0
    assert "gate (learned)" in out
    assert "run --weights" in out
