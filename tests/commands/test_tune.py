"""`tune` on a small real model, whose device is known by its profile: nothing here is timed."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import prunesearch as ps
from prunesearch.commands.tuning.judging import Wanted
from prunesearch.commands.tuning.tune import tune
from prunesearch.commands.tuning.tune_schedule import tune_schedule
from prunesearch.commands.verify import verify
from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.tables.export_tables import FORMATS
from prunesearch.export.models.from_study import export_study_model
from prunesearch.export.models.model_format import ModelOptions
from prunesearch.pruning.forward.artefacts import loaded, read_weights, save_weights, weights_path
from prunesearch.search.finish.need import rows_note
from prunesearch.search.finish.tuned import with_tuned
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.setup import make_setting
from prunesearch.training.recover import Learnt, School
from prunesearch.training.settings import TrainingSettings
from prunesearch.training.trainer import Trained, TrainingLength
from tests.support.known_device import command, known_table, one_line, settings, write_model, write_profile

QUICK: dict[str, Any] = {"epochs": 0.5, "batch_size": 32}


class Crammer(School):
    """Learns nothing but the head, and that by heart, from the very rows that decide whether it is better."""

    def learn(self, draw: Any, key: str, label: str, **more: Any) -> Learnt:
        """Least squares of the labels on what the head is given under the schedule."""
        model, (plan,) = self.task.model, draw()
        seen: list[torch.Tensor] = []
        hook = model.classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        with ps.apply_(model, plan), torch.no_grad():
            for batch in self.task.calibration.batches:
                model(**batch.inputs)
        hook.remove()
        features = torch.cat(seen).double()
        wanted = torch.nn.functional.one_hot(torch.as_tensor(self.task.calibration.labels), 3).double()
        wide = torch.cat([features, torch.ones(len(features), 1).double()], dim=1)
        found = torch.linalg.lstsq(wide, wanted, driver="gelsd").solution.float()
        weights = {"classifier.weight": found[:-1].T.contiguous(), "classifier.bias": found[-1].contiguous()}
        name = save_weights(self.folder, weights, {})
        return Learnt(name, weights, Trained(3, 1.5, 0.1), True, TrainingLength(3, 32, 1e-4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tuned")
    write_model(root)
    write_profile(root / "profiles", "box", known_table())
    write_rows(root)
    return root


def write_rows(root: Path, rows: int = 256) -> None:
    """`train.parquet`: the 60 rows of the study, and others, as the model sees them."""
    pictures = np.random.default_rng(1).integers(0, 255, (rows, 32, 32, 3), dtype=np.uint8)
    model = make_setting(RunConfig(**settings(root))).task.model
    with torch.no_grad():
        labels = model(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1).logits.argmax(-1).tolist()
    cells = []
    for picture, label in zip(pictures, labels, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="PNG")
        cells.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": label})
    mine = pd.DataFrame(cells)
    pd.concat([mine, pd.read_parquet(root / "data.parquet")]).to_parquet(root / "train.parquet")


@pytest.fixture(autouse=True)
def _profiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(folder / "profiles"))
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def searched(folder: Path) -> Front:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESEARCH_PROFILES", str(folder / "profiles"))
        return run(RunConfig(**settings(folder, device="box")), "plain", root=folder / "studies")


@pytest.fixture(scope="module")
def tuned(folder: Path, searched: Front) -> Front:
    """All points of a copy of the study."""
    shutil.copytree(folder / "studies" / "plain", folder / "studies" / "tuned")
    study = StudyFolder(folder / "studies", "tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESEARCH_PROFILES", str(folder / "profiles"))
        return tune(
            study, searched, Wanted(TrainingSettings(**QUICK), train=str(folder / "train.parquet")), school=Crammer
        )


def the_first(front: Front) -> Any:
    return next(point for point in front.points if point.tuned is not None)


def test_a_tuned_point_has_weights_of_its_own_and_both_references(folder: Path, searched: Front, tuned: Front) -> None:
    point = the_first(tuned)
    name = point.to_plan().weights
    path = folder / "studies" / "tuned" / "weights" / f"{name.removeprefix('sha256:')[:16]}.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == name.removeprefix("sha256:")
    before = searched.point(point.id)
    assert point.tuned.before == before.quality
    assert point.costs == before.costs
    assert point.to_plan().on_own_weights == before.to_plan()
    assert point.tuned.rows + 25 == 256  # a tenth of the rows tells when to stop; the study's own 60 are left out
    assert point.tuned.labels
    assert point.tuned.equal.difference is not None
    assert point.tuned.difference.value == pytest.approx(point.quality.value - point.tuned.equal.value)
    assert Front.load(folder / "studies" / "tuned" / "front.json") == tuned


def test_a_note_says_of_how_many_rows_points_are_now(searched: Front, tuned: Front) -> None:
    few = searched.points[0].model_copy(update={"rows": 7})
    before = searched.model_copy(update={"points": [few, *searched.points[1:]]})
    before = before.model_copy(update={"notes": ["mine", str(rows_note(before.points))]})
    after = with_tuned(before, [p for p in tuned.points if p.tuned is not None], blind=False)
    assert after.notes == [note for note in ("mine", rows_note(after.points)) if note]


def test_what_is_in_the_front_is_what_the_weights_do(folder: Path, tuned: Front) -> None:
    """By hand: the file's tensors in the model, its stages applied, the holdout rows counted."""
    point = the_first(tuned)
    task = make_setting(RunConfig(**tuned.config)).task
    weights = read_weights(folder / "studies" / "tuned" / "weights", point.to_plan().weights)
    right = n = 0
    with loaded(task.model, weights), ps.apply_(task.model, point.to_plan().schedule), torch.no_grad():
        for batch in task.holdout.batches:
            right += int((task.model(**batch.inputs).logits.argmax(-1) == batch.labels).sum())
            n += len(batch)
    assert point.quality.value == right / n
    assert point.quality.calibration >= point.tuned.before.calibration


def test_a_study_applies_its_weights_and_puts_the_models_own_back(folder: Path, tuned: Front) -> None:
    study, point = ps.load_study(folder / "studies" / "tuned"), the_first(tuned)
    model = make_setting(RunConfig(**tuned.config)).task.model
    before = {name: value.clone() for name, value in model.named_parameters()}
    weights = read_weights(study.folder.weights, point.to_plan().weights)
    with study[point.id].applied(model):
        now = dict(model.named_parameters())
        assert all(torch.equal(now[name], value) for name, value in weights.items())
        assert ps.handle_of(model).schedule == point.to_plan().schedule
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    handle = study[point.id].apply_(model)
    handle.remove()
    assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in weights.items())


def test_the_same_call_again_trains_nothing(folder: Path, searched: Front, heard: Any) -> None:
    shutil.copytree(folder / "studies" / "plain", folder / "studies" / "again")
    study, point = StudyFolder(folder / "studies", "again"), searched.points[-1].id
    wanted = Wanted(TrainingSettings(**QUICK), point, str(folder / "train.parquet"))
    first = tune(study, searched, wanted)
    assert "trained before" not in heard.take()
    assert tune(study, searched, wanted) == first
    assert heard.take().count("trained before") == 2  # the point, and the second reference


def test_a_run_that_goes_on_keeps_what_was_tuned(folder: Path, tuned: Front) -> None:
    shutil.copytree(folder / "studies" / "tuned", folder / "studies" / "more")
    more = run(RunConfig(**settings(folder, device="box", trials=9)), "more", root=folder / "studies")
    known = {p.to_plan().weights for p in tuned.points if p.tuned is not None}
    kept = {p.to_plan().weights for p in more.points if p.tuned is not None}
    assert kept
    assert kept <= known


def test_an_export_has_the_weights_and_other_formats_say_what_they_leave_out(folder: Path, tuned: Front) -> None:
    study, point = ps.load_study(folder / "studies" / "tuned"), the_first(tuned)
    text = study.export(point.id, to="json", path=folder / "plan.json")
    assert Plan.from_json(text) == point.to_plan()
    name = point.to_plan().weights
    written = (folder / "plan.json.safetensors").read_bytes()
    assert "sha256:" + hashlib.sha256(written).hexdigest() == name
    assert "trained under this schedule" in (folder / "plan.json.md").read_text()
    with pytest.raises(PruneSearchError, match="weights that it was tuned to are left out"):
        study.export(point.id, to=next(name for name in FORMATS if not FORMATS[name].lossless))


def test_a_hugging_face_folder_holds_the_trained_weights(folder: Path, tuned: Front) -> None:
    point = the_first(tuned)
    weights = folder / "studies" / "tuned" / "weights"
    done = export_study_model(
        tuned, point.id, "hf", folder / "hf", options=ModelOptions(), seconds=None, weights=weights
    )
    found = done.quality or {}
    assert next(value for name, value in found.items() if "transformers" in name) == pytest.approx(point.quality.value)
    with pytest.raises(PruneSearchError, match="say in which folder they are"):
        export_study_model(tuned, point.id, "hf", folder / "hf2", options=ModelOptions(), seconds=None)


def test_weights_that_were_changed_are_refused(folder: Path, tuned: Front) -> None:
    shutil.copytree(folder / "studies" / "tuned", folder / "studies" / "damaged")
    study, point = StudyFolder(folder / "studies", "damaged"), the_first(tuned)
    path = weights_path(study.weights, point.to_plan().weights)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CorruptFileError, match="must hold what the plan was judged with"):
        verify(study, tuned, device="cpu", seconds=0.0)
    path.unlink()
    with pytest.raises(PruneSearchError, match="cannot be read"):
        verify(study, tuned, device="cpu", seconds=0.0)


def test_points_that_are_not_better_are_said_and_dropped(folder: Path, searched: Front, heard: Any) -> None:
    """At such a rate, nothing is learnt: weights hardly move, and rounding decides no row."""
    shutil.copytree(folder / "studies" / "plain", folder / "studies" / "flat")
    wanted = Wanted(TrainingSettings(epochs=0.1, rate=1e-12), searched.points[-1].id, str(folder / "train.parquet"))
    found = tune(StudyFolder(folder / "studies", "flat"), searched, wanted)
    assert all(point.tuned is None for point in found.points)
    assert "dropped, since its trained weights are not better" in str(heard)


def test_the_command_line(folder: Path, tuned: Front, monkeypatch: Any, capsys: Any) -> None:
    code, _, err = command(monkeypatch, capsys, "tune", "tuned")
    assert code == 2
    one_line(err, "give --pick", "--front")
    code, _, err = command(monkeypatch, capsys, "tune", "tuned", "--pick", "p1", "--epochs", "1", "--time", "1m")
    assert code == 2
    one_line(err, "--epochs or --time", "leave one out")
    code, out, _ = command(monkeypatch, capsys, "show", "tuned")
    assert code == 0
    assert "unpruned, same" in " ".join(out.split())
    assert f"{100 * the_first(tuned).tuned.equal.value:.1f} %" in out
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = command(monkeypatch, capsys, "show", "tuned", "--json")
    assert json.loads(out)["points"][0]["tuned"] == tuned.to_dict()["points"][0]["tuned"]


def test_rows_must_be_left_to_train_on(folder: Path, searched: Front) -> None:
    with pytest.raises(PruneSearchError) as error:
        tune(StudyFolder(folder / "studies", "plain"), searched, Wanted(TrainingSettings(), searched.points[0].id))
    one_line(error.value, "data.parquet", "no calibration or holdout rows", "--train DATA")


def test_a_schedule_of_ones_own_needs_no_study(folder: Path) -> None:
    config = RunConfig(**settings(folder, device="box"))
    wanted = Wanted(TrainingSettings(**QUICK), train=str(folder / "train.parquet"))
    stages = ps.Schedule([ps.Stage(0, 0.25, "cls_attention", "drop")])
    made = tune_schedule(config, stages, wanted, folder / "alone", school=Crammer)
    assert made is not None
    found = ps.load_tuned(folder / "alone")
    assert found.plan == made.plan
    assert "trained under this schedule" in (folder / "alone" / "README.md").read_text()
    model = make_setting(RunConfig(**settings(folder))).task.model
    weights = read_weights(folder / "alone" / "weights", str(found.plan.weights))
    with found.applied(model):
        assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in weights.items())
        assert ps.handle_of(model).schedule == found.plan.schedule
    with pytest.raises(PruneSearchError, match="it has none: nothing would be recovered"):
        ps.tune(folder / "model", folder / "data.parquet", "unpruned", folder / "none", run={"device": "box"})


def test_without_a_study_all_of_it_is_named(monkeypatch: Any, capsys: Any) -> None:
    code, _, err = command(monkeypatch, capsys, "tune", "--model", "model")
    assert code == 2
    one_line(err, "give STUDY, or --model, --data, --schedule and -o")
    code, _, err = command(monkeypatch, capsys, "tune", "tuned", "--pick", "p1", "--model", "model")
    assert code == 2
    one_line(err, "--model goes without a study")


class Watched(Crammer):
    """The same, which remembers what was trained under."""

    drawn: ClassVar[list[Plan]] = []

    def learn(self, draw: Any, key: str, label: str, **more: Any) -> Learnt:
        """See `Crammer`."""
        self.drawn.extend(draw())
        return super().learn(draw, key, label, **more)


def test_what_a_point_leaves_out_is_left_out_in_training(folder: Path, searched: Front) -> None:
    shutil.copytree(folder / "studies" / "plain", folder / "studies" / "shorter")
    wanted = Wanted(TrainingSettings(**QUICK), train=str(folder / "train.parquet"))
    point = searched.points[0]
    short = Plan(point.to_plan().schedule, [Change("skip", 1, {"part": "mlp"})])
    changed = point.model_copy(update={"plan": short.to_dict(), "text": str(short)})
    front = searched.model_copy(update={"points": [changed]})
    found = tune(StudyFolder(folder / "studies", "shorter"), front, wanted, school=Watched)
    assert Watched.drawn[0] == short
    assert the_first(found).to_plan().on_own_weights == short
