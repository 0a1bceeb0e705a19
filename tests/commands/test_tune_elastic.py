"""`tune --elastic` and `run --weights` on a small real model, whose device is known by its profile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import prunesearch as ps
from prunesearch.commands.tuning.judging import Wanted
from prunesearch.commands.tuning.tune import tune
from prunesearch.commands.tuning.tune_elastic import ElasticWeights, tune_elastic
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.pruning.forward.artefacts import read_weights, save_weights
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.setup import make_setting
from prunesearch.training.recover import Learnt, School
from prunesearch.training.settings import TrainingSettings
from prunesearch.training.trainer import Trained, TrainingLength
from tests.commands.test_tune import QUICK, Crammer, write_rows
from tests.support.known_device import command, on_box, one_line, settings

TRAIN = "train.parquet"


class Shifter(School):
    """Learns nothing: moves the head's bias by what the training is called after, so that everybody can tell."""

    def learn(self, draw: Any, key: str, label: str, **more: Any) -> Learnt:
        """Classes change places, or come to stand out."""
        bias = self.task.model.classifier.bias.detach()
        moved = {"elastic": 0.25, "unpruned": 0.125}.get(label, 0.5)
        weights = {**self.given, "classifier.bias": bias + moved * torch.arange(len(bias))}
        name = save_weights(self.folder, weights, {})
        return Learnt(name, weights, Trained(3, 1.5, 0.1), True, TrainingLength(3, 32, 1e-4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with on_box(tmp_path_factory.mktemp("elastic")) as root:
        write_rows(root)
        yield root


@pytest.fixture(scope="module")
def searched(folder: Path) -> Front:
    return run(RunConfig(**settings(folder, device="box")), "plain", root=folder / "studies")


@pytest.fixture(scope="module")
def elastic(folder: Path, searched: Front) -> ElasticWeights:
    wanted = Wanted(TrainingSettings(**QUICK), train=str(folder / TRAIN))
    return tune_elastic(StudyFolder(folder / "studies", "plain"), searched, wanted, school=Shifter)


@pytest.fixture(scope="module")
def again(folder: Path, elastic: ElasticWeights) -> Front:
    """A search on the weights."""
    config = RunConfig(**settings(folder, device="box", weights=str(elastic.folder)))
    return run(config, "on-elastic", root=folder / "studies")


def accuracy(model: Any, task: Any, plan: Plan) -> float:
    right = n = 0
    with ps.apply_(model, plan.schedule), torch.no_grad():
        for batch in task.holdout.batches:
            right += int((model(**batch.inputs).logits.argmax(-1) == batch.labels).sum())
            n += len(batch)
    return right / n


def test_the_folder_says_what_every_point_is_on_the_weights(
    folder: Path, searched: Front, elastic: ElasticWeights
) -> None:
    """By hand: the file's tensors in the model, the stages applied, the holdout rows counted."""
    assert elastic.judged[0]["point"] == "unpruned"
    assert len(elastic.judged) == 1 + sum(len(p.to_plan()) > 0 for p in searched.points)
    plan = json.loads((elastic.folder / "plan.json").read_text())
    task = make_setting(RunConfig(**settings(folder))).task
    plans = {p.id: p.to_plan() for p in searched.points} | {"unpruned": Plan()}
    before = {row["point"]: accuracy(task.model, task, plans[row["point"]]) for row in elastic.judged}
    weights = read_weights(elastic.folder / "weights", plan["weights"])
    task.model.load_state_dict(weights, strict=False)
    for row in elastic.judged:
        after = accuracy(task.model, task, plans[row["point"]])
        assert row["before"]["value"] == pytest.approx(before[row["point"]])
        assert row["after"]["value"] == pytest.approx(after)
        assert row["to_before"]["value"] == pytest.approx(after - before[row["point"]])
        assert row["to_unpruned"]["value"] == pytest.approx(after - before["unpruned"])
        assert row["to_equal"]["value"] == pytest.approx(after - elastic.equal["value"])
    assert (elastic.folder / "README.md").read_text().count("on the model's own weights") == len(elastic.judged)


def test_a_search_on_weights_has_points_that_carry_them(folder: Path, elastic: ElasticWeights, again: Front) -> None:
    name = json.loads((elastic.folder / "plan.json").read_text())["weights"]
    stages = [point for point in again.points if len(point.to_plan())]
    assert stages
    task = make_setting(RunConfig(**settings(folder))).task
    own = accuracy(task.model, task, Plan())
    assert again.unpruned.quality.value == pytest.approx(own)
    for point in stages:
        assert point.to_plan().weights == name
        assert point.tuned.shared
        assert point.tuned.before.value == pytest.approx(accuracy(task.model, task, point.to_plan()))
        with ps.load_study(folder / "studies" / "on-elastic")[point.id].applied(task.model):
            pass
        on_weights = read_weights(folder / "studies" / "on-elastic" / "weights", name)
        with torch.no_grad():
            kept = task.model.classifier.bias.clone()
            task.model.classifier.bias.copy_(on_weights["classifier.bias"])
            found = accuracy(task.model, task, point.to_plan())
            task.model.classifier.bias.copy_(kept)
        assert point.quality.value == pytest.approx(found)
        assert point.difference.value == pytest.approx(found - own)
        assert point.tuned.difference.value == pytest.approx(found - elastic.equal["value"])
    assert any("on its own weights" in note for note in again.notes)


def test_the_model_of_such_a_study_is_the_one_with_the_weights(folder: Path, elastic: ElasticWeights) -> None:
    setting = make_setting(RunConfig(**settings(folder, weights=str(elastic.folder))))
    own = make_setting(RunConfig(**settings(folder))).task.model.classifier.bias
    given = setting.task.model.classifier.bias
    assert not torch.equal(given, own)
    with setting.on_own_weights():
        assert torch.equal(setting.task.model.classifier.bias, own)
    with setting.weights.as_equal():
        assert torch.allclose(setting.task.model.classifier.bias - own, 0.125 * torch.arange(3), atol=1e-6)
    assert torch.equal(setting.task.model.classifier.bias, given)


def test_a_callers_own_model_stays_as_it_is(folder: Path, elastic: ElasticWeights) -> None:
    config = RunConfig(**settings(folder))
    task = make_setting(config).task
    before = task.model.classifier.bias.clone()
    own = RunConfig(**{**settings(folder, weights=str(elastic.folder)), "model": None, "data": None, "given": "mine"})
    setting = make_setting(own, task=task)
    assert torch.equal(task.model.classifier.bias, before)
    assert not torch.equal(setting.task.model.classifier.bias, before)


def test_a_point_of_it_is_tuned_on_top(folder: Path, again: Front, elastic: ElasticWeights) -> None:
    shutil.copytree(folder / "studies" / "on-elastic", folder / "studies" / "on-top")
    study = StudyFolder(folder / "studies", "on-top")
    found = tune(study, again, Wanted(TrainingSettings(**QUICK), train=str(folder / TRAIN)), school=Crammer)
    point = next(p for p in found.points if p.recovered is not None)
    old = again.point(point.id)
    assert point.tuned.before == old.tuned.before
    assert point.to_plan().weights != old.to_plan().weights
    own = make_setting(RunConfig(**settings(folder))).task
    assert point.difference.value == pytest.approx(point.quality.value - accuracy(own.model, own, Plan()))


def test_the_same_call_again_trains_nothing_and_weights_that_changed_are_refused(
    folder: Path, searched: Front, again: Front, heard: Any
) -> None:
    shutil.copytree(folder / "studies" / "plain", folder / "studies" / "twice")
    study = StudyFolder(folder / "studies", "twice")
    wanted = Wanted(TrainingSettings(**QUICK), None, str(folder / TRAIN))
    first = tune_elastic(study, searched, wanted)
    assert tune_elastic(study, searched, wanted).judged == first.judged
    assert str(heard).count("trained before") == 2
    asked = settings(folder, device="box", trials=9, weights=str(folder / "studies" / "plain" / "elastic"))
    plan = folder / "studies" / "plain" / "elastic" / "plan.json"
    text = plan.read_text()
    plan.write_text(text.replace("0.25", "0.250") + " ")
    with pytest.raises(PruneSearchError, match="begun with other weights"):
        run(RunConfig(**asked), "on-elastic", root=folder / "studies")
    plan.write_text(text)


def test_the_command_line(folder: Path, elastic: ElasticWeights, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(folder)
    code, _, err = command(monkeypatch, capsys, "tune", "plain", "--elastic", "--front")
    assert code == 2
    one_line(err, "--front goes without --elastic")
    code, _, err = command(monkeypatch, capsys, "tune", "--elastic", "--model", "model")
    assert code == 2
    one_line(err, "--elastic needs the schedules that a study has tried")
    code, out, _ = command(
        monkeypatch, capsys, "tune", "plain", "--elastic", "--train", TRAIN, "--epochs", "0.1", "--quiet"
    )
    assert code == 0
    assert "run --weights" in out
    assert "unpruned" in out
    code, _, err = command(monkeypatch, capsys, "run", "--weights", "nowhere", "--model", "model", "--data", TRAIN)
    assert code == 2
    one_line(err.splitlines()[-1], "nowhere", "prunesearch tune")
