"""A caller's own model is never taken for the demo: its study says so, and asks for it again wherever it is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from transformers import ViTForImageClassification

from prunesearch.commands.transfer_table import transfer_study
from prunesearch.commands.verify import verify
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.export.models.from_study import export_study_model
from prunesearch.export.models.model_format import ModelOptions
from prunesearch.pruning.apply import apply_
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.setup import make_setting
from prunesearch.tasks.base import Task
from tests.support.known_device import command, known_table, one_line, settings, write_model, write_profile

NAME = "ViTForImageClassification"
ASKED_AGAIN = (f"model '{NAME}' is an object", "handed in from Python", "task=...")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("objects")
    write_model(root)
    write_profile(root / "profiles", "box", known_table())
    return root


@pytest.fixture(autouse=True)
def _profiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(folder / "profiles"))
    monkeypatch.chdir(folder)


def asked(folder: Path, **changes: object) -> RunConfig:
    """Settings that name no model: the demo's, but for the object that goes with them."""
    return RunConfig(**{**settings(folder), "model": None, "data": None, "device": "box", "trials": 6, **changes})


@pytest.fixture(scope="module")
def mine(folder: Path) -> Task:
    return make_setting(RunConfig(**settings(folder))).task


@pytest.fixture(scope="module")
def front(folder: Path, mine: Task) -> Front:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESEARCH_PROFILES", str(folder / "profiles"))
        return run(asked(folder), root=folder / "studies", task=mine)


@pytest.fixture
def study(folder: Path, front: Front) -> StudyFolder:
    return StudyFolder(folder / "studies", front.study)


def test_the_study_is_called_and_recorded_as_the_callers(front: Front, study: StudyFolder) -> None:
    assert front.study == f"{NAME}-box-b8"
    assert (front.model.id, front.model.tokens) == (NAME, 65)
    assert front.config["given"] == NAME
    assert yaml.safe_load(study.config.read_text())["given"] == NAME


def test_a_name_may_be_given(folder: Path, mine: Task) -> None:
    found = run(asked(folder, given="my-vit", trials=2), root=folder / "named", task=mine)
    assert (found.study, found.model.id) == ("my-vit-box-b8", "my-vit")


def test_it_is_resumed_with_the_object_and_never_with_the_demo(
    folder: Path, front: Front, mine: Task, heard: object
) -> None:
    again = run(asked(folder, trials=7), front.study, root=folder / "studies", task=mine)
    assert again.search.trials == 7
    with pytest.raises(PruneSearchError) as error:
        run(asked(folder), front.study, root=folder / "studies")
    one_line(error.value, "is of a caller's own model", "got the demo")
    with pytest.raises(PruneSearchError) as error:
        run(RunConfig(**front.config), front.study, root=folder / "studies")
    one_line(error.value, *ASKED_AGAIN)


def test_a_demo_study_takes_no_object(folder: Path, mine: Task) -> None:
    demo = StudyFolder.create("demo", folder / "studies")
    demo.save_config(asked(folder).to_dict())
    with pytest.raises(PruneSearchError) as error:
        run(asked(folder), "demo", root=folder / "studies", task=mine)
    one_line(error.value, "study 'demo' is of the demo", f"({NAME})")


def test_verify_measures_the_callers_model_or_refuses(study: StudyFolder, front: Front, mine: Task) -> None:
    with pytest.raises(PruneSearchError) as error:
        verify(study, front, seconds=0.0)
    one_line(error.value, *ASKED_AGAIN)
    found = verify(study, front, seconds=0.0, task=mine)
    assert [p.id for p in found.points] == ["unpruned", *(p.id for p in front.points)]


def test_transfer_prices_the_callers_model_or_refuses(study: StudyFolder, front: Front, mine: Task) -> None:
    with pytest.raises(PruneSearchError) as error:
        transfer_study(study, front, "box")
    one_line(error.value, *ASKED_AGAIN)
    found = transfer_study(study, front, "box", task=mine)
    assert [p.here_ms for p in found.points] == pytest.approx([p.there_ms for p in found.points])


def test_export_writes_the_callers_model_or_refuses(tmp_path: Path, front: Front, mine: Task) -> None:
    point, path = front.points[-1], tmp_path / "m.pt2"
    with pytest.raises(PruneSearchError) as error:
        export_study_model(front, point.id, "torch-export", path, options=ModelOptions(), seconds=None)
    one_line(error.value, *ASKED_AGAIN)
    assert not path.exists()
    export_study_model(front, point.id, "torch-export", path, options=ModelOptions(), seconds=None, task=mine)
    pixels = mine.holdout.batches[0].inputs["pixel_values"][:3]
    with apply_(mine.model, point.to_schedule()), torch.inference_mode():
        expected = mine.model(pixel_values=pixels).logits
    found = torch.export.load(path).module()(pixel_values=pixels)
    assert torch.allclose(found["logits"], expected, atol=1e-4)


@pytest.mark.parametrize("args", [["verify"], ["transfer", "--to", "box"]])
def test_the_command_line_says_that_it_is_pythons(
    front: Front, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    code, out, err = command(monkeypatch, capsys, args[0], front.study, *args[1:])
    assert (code, out) == (2, "")
    one_line(err, *ASKED_AGAIN)


def test_a_model_alone_goes_with_data_that_is_named(folder: Path) -> None:
    """The weights are the object's: the same checkpoint with its head turned round is right on other rows."""
    model = ViTForImageClassification.from_pretrained(folder / "model")
    with torch.no_grad():
        model.classifier.weight.neg_()
        model.classifier.bias.neg_()
    config = asked(folder, trials=2)
    rows = str(folder / "data.parquet")
    found = run(config, "alone", root=folder / "studies", model=model, data=rows)
    assert found.model.id == NAME
    assert found.unpruned.quality.value < 0.5  # of the checkpoint it is 1: it labelled the rows
    with pytest.raises(PruneSearchError) as error:
        make_setting(config, model=model)
    one_line(error.value, f"model '{NAME}' needs data beside it")
    assert make_setting(config, model=model, data=rows).task.model is model


def test_a_callers_object_is_evaluated_here(folder: Path, mine: Task) -> None:
    with pytest.raises(PruneSearchError) as error:
        run(asked(folder, engine="ray"), "far", root=folder / "studies", task=mine)
    one_line(error.value, "a caller's own model is evaluated by engine 'local', but got 'ray'")


def test_the_callers_model_is_left_as_it_was(folder: Path, front: Front, mine: Task) -> None:
    fresh = make_setting(RunConfig(**settings(folder))).task.model
    pixels = mine.holdout.batches[0].inputs["pixel_values"][:3]
    with torch.inference_mode():
        assert torch.equal(mine.model(pixel_values=pixels).logits, fresh(pixel_values=pixels).logits)
    with apply_(mine.model, Schedule()):  # nothing of the run is installed on it any more
        pass
