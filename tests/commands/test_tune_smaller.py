"""`tune` of points whose halves of blocks are smaller: what was fitted is learnt with the rest, and is the point's."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunesearch as ps
from prunesearch.commands.tuning.judging import Wanted
from prunesearch.commands.tuning.tune import tune
from prunesearch.compress.fits import FILE, load_fits, save_fits
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.export.models.from_study import export_study_model
from prunesearch.export.models.model_format import ModelOptions
from prunesearch.pruning.forward.artefacts import read_weights
from prunesearch.pruning.forward.beside import Beside
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.front_items import Point
from prunesearch.study.setup import make_setting
from prunesearch.training.recover import Learnt, School
from prunesearch.training.settings import TrainingSettings
from tests.commands.test_tune import write_rows
from tests.support.known_device import on_box, settings
from tests.training.test_training import seen_rows

PLAN = Plan.parse("unpruned | 1:width(heads=1) | 0:width(mlp=8) | 1:rank(mlp=2)")


class ByHeart(School):
    """Trains on the very rows that decide whether it is better, so that it is."""

    def learn(self, *asked: Any, **more: Any) -> Learnt:
        """See `School`."""
        return School.learn(replace(self, rows=seen_rows(self.task)), *asked, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with on_box(tmp_path_factory.mktemp("smaller")) as root:
        write_rows(root)
        yield root


@pytest.fixture(scope="module")
def fitted(folder: Path) -> tuple[StudyFolder, Front]:
    """A study whose one point has fewer heads, fewer neurons, and two factors."""
    front = run(RunConfig(**settings(folder, device="box", search_samples=24)), "fitted", root=folder / "studies")
    study = StudyFolder(folder / "studies", "fitted")
    task = make_setting(RunConfig(**settings(folder))).task
    save_fits(ps.fit_plan(task.model, PLAN, [batch.inputs for batch in task.calibration.batches]), study.path / FILE)
    point = front.points[0].model_copy(update={"plan": PLAN.to_dict(), "text": str(PLAN), "rows": 7})
    front = front.model_copy(update={"points": [point]})
    front.save(study.front)
    return study, front


@pytest.fixture(scope="module")
def tuned(folder: Path, fitted: tuple[StudyFolder, Front]) -> tuple[StudyFolder, Point, dict[str, Tensor]]:
    """The same after a real training: the study, its point, and what is in the file of weights."""
    study, front = fitted
    asked = TrainingSettings(epochs=12, batch_size=20, rate=3e-3, augment=False)
    front = tune(study, front, Wanted(asked, train=str(folder / "train.parquet")), school=ByHeart)
    (point,) = front.points
    return study, point, read_weights(study.weights, str(point.to_plan().weights))


def test_what_was_fitted_is_learnt_and_belongs_to_the_point(
    tuned: tuple[StudyFolder, Point, dict[str, Tensor]],
) -> None:
    study, point, weights = tuned
    assert point.tuned is not None
    assert point.tuned.before.calibration < point.quality.calibration
    held = Beside.made(weights, torch.device("cpu")).fits
    assert held is not None
    assert sorted(held.changes) == sorted(map(str, PLAN.changes))
    for change, fit in load_fits(study.path).items():
        own = held.of(change)
        assert own is not None
        assert {name: value.shape for name, value in own.items()} == {name: value.shape for name, value in fit.items()}
        assert {name for name in fit if torch.equal(own[name], fit[name])} == {"kept"} & fit.keys(), change
    assert any("/" not in name for name in weights)  # the rest of the model


def test_the_point_computes_what_is_in_the_file(
    folder: Path, tuned: tuple[StudyFolder, Point, dict[str, Tensor]]
) -> None:
    """By hand: the model with these weights, and other linear layers in the places of its own."""
    study, point, weights = tuned
    task = make_setting(RunConfig(**settings(folder))).task
    inputs, before = task.timing_inputs(8), {name: value.clone() for name, value in task.model.state_dict().items()}
    with torch.no_grad(), ps.load_study(study.path)[point.id].applied(task.model):
        logits = task.model(**inputs).logits
        wanted = by_hand(task.model, weights)(**inputs).logits
    torch.testing.assert_close(logits, wanted)
    assert Beside.of(task.model) == Beside()
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


def by_hand(model: Any, weights: dict[str, Tensor]) -> Any:
    """A copy with one head in block 1, 8 neurons in block 0 and factors of rank 2 in the MLP of block 1."""
    made = copy.deepcopy(model)
    ps.handle_of(made).remove()
    own = dict(made.named_parameters())
    for name, value in weights.items():
        if "/" not in name:
            own[name].data = value.clone()

    def of(change: str) -> dict[str, Tensor]:
        return {name.split("/")[2]: value for name, value in weights.items() if change in name}

    first, second, *_ = made.vit.layers
    neurons, heads, factors = of("mlp=8"), of("heads=1"), of("rank")
    into, out = linear_layers(first.mlp).values()
    into.weight.data, into.bias.data = into.weight[neurons["kept"]], into.bias[neurons["kept"]]
    out.weight.data, out.bias.data = neurons["weight"], neurons["bias"]
    for name, layer in linear_layers(second).items():
        if name.startswith("mlp"):
            layer.weight.data = factors[f"{name}.up"] @ factors[f"{name}.down"]
            layer.bias.data = factors[f"{name}.bias"]
    *asks, out = (layer for name, layer in linear_layers(second).items() if not name.startswith("mlp"))
    size = out.in_features // made.config.num_attention_heads
    (kept,) = heads["kept"].tolist()
    wide = torch.zeros_like(out.weight)  # a head that is gone answers nothing
    wide[:, kept * size : (kept + 1) * size] = heads["weight"]
    out.weight.data, out.bias.data = wide, heads["bias"]
    assert len(asks) == 3
    return made


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}


def test_what_is_exported_has_what_was_trained(
    folder: Path, fitted: tuple[StudyFolder, Front], tuned: tuple[StudyFolder, Point, dict[str, Tensor]]
) -> None:
    study, point, _ = tuned
    done = export_study_model(
        Front.load(study.front),
        point.id,
        "hf",
        folder / "hf",
        options=ModelOptions(),
        seconds=None,
        weights=study.weights,
        fits=load_fits(study.path),
    )
    found = done.quality or {}
    assert next(value for name, value in found.items() if "transformers" in name) == pytest.approx(point.quality.value)
    assert not [name for name in read_state(folder / "hf") if "fit" in name]


def read_state(folder: Path) -> list[str]:
    """The names of the tensors in a folder."""
    from safetensors import safe_open

    (path,) = folder.glob("*.safetensors")
    with safe_open(path, "pt") as file:
        return list(file.keys())


def test_a_second_training_goes_on_from_the_first_files_fits(
    folder: Path, fitted: tuple[StudyFolder, Front], heard: Any
) -> None:
    """The same call trains nothing anew, and comes to the same weights."""
    shutil.copytree(fitted[0].path, folder / "studies" / "twice")
    study, asked = StudyFolder(folder / "studies", "twice"), TrainingSettings(epochs=0.5, batch_size=32)
    wanted = Wanted(asked, train=str(folder / "train.parquet"))
    first = tune(study, fitted[1], wanted)
    assert "trained before" not in heard.take()
    assert tune(study, fitted[1], wanted) == first
    assert heard.take().count("trained before") == 2


def test_additions_to_layers_that_are_others_are_refused(folder: Path, fitted: tuple[StudyFolder, Front]) -> None:
    wanted = Wanted(TrainingSettings(parameters="lora"), train=str(folder / "train.parquet"))
    with pytest.raises(PruneSearchError, match="'lora' stand in the places of linear layers"):
        tune(*fitted, wanted)
