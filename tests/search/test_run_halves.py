"""A run that is free in tokens, precision, width, rank and skip: what it prices, tries, keeps and hands on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunesearch as ps
from prunesearch.compress.fits import FILE, load_fits
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.cost.counting.flops import count_macs
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.search.run import run
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.trials import finished_trials, open_study, study_place
from tests.support.known_device import settings, write_model

WORDS = {"attention": {"", "heads1", "none"}, "mlp": {"", "mlp48", "mlp32", "mlp16", "rank8", "none"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("halves")
    write_model(root)
    return root


def asked(folder: Path, **changes: Any) -> RunConfig:
    mine = {"device": "cpu", "table_seconds": 2.0, "patience_s": 0.0, "trials": 12, "precision": ["float32", "int8"]}
    # size tells plans apart, however fast this machine is
    mine |= {"objectives": ["latency", "size"], "free": "tokens,precision,width,rank,skip"}
    return RunConfig(**{**settings(folder), **mine, **changes})


@pytest.fixture(scope="module")
def front(folder: Path) -> Front:
    return run(asked(folder), "all", root=folder / "studies")


@pytest.fixture
def study(folder: Path, front: Front) -> StudyFolder:
    return StudyFolder(folder / "studies", "all")


def plans(folder: Path, study: StudyFolder, **changes: Any) -> list[Plan]:
    config = asked(folder, **changes)
    found = open_study(objectives=config.objectives, **study_place(study, config.storage))
    return [trial.plan for trial in finished_trials(found)]


def test_one_table_has_every_form_of_every_half_in_every_precision(study: StudyFolder) -> None:
    table = CostTable.load(study.cost_table)
    assert table.variants == ("", "int8")
    for cells in (table.cells, table.changed["int8"]):
        assert {cell.variant for cell in cells.attention} == WORDS["attention"]
        assert {cell.variant for cell in cells.mlp} == WORDS["mlp"]
    assert table.validation is not None
    assert any("skip(part=" in text or "width(" in text for text in table.validation.schedules)
    smaller = Plan(changes=[Change.parse("0:skip(part=mlp)"), Change.parse("2:width(mlp=16)")])
    assert (
        0 < table.predict(smaller) != table.predict(Plan())
    )  # which is faster, a machine that others use does not say


def test_what_every_form_loses_by_itself_is_measured(study: StudyFolder) -> None:
    halves = Sensitivities.load(study.path / "sensitivities.json").halves
    assert len([name for name in halves if "keep" not in name]) == 6 * 7
    assert all(loss >= 0 for loss in halves.values())
    assert halves["0:width(mlp=48)"] < halves["0:width(mlp=32)"] < halves["0:width(mlp=16)"]


def test_what_is_tried_is_tried_once(folder: Path, study: StudyFolder) -> None:
    tried = plans(folder, study)
    assert len(set(tried)) == len(tried) == 12


def test_a_point_is_put_on_another_model_with_what_was_fitted(folder: Path, study: StudyFolder, front: Front) -> None:
    fits = load_fits(study.path)
    assert len(fits) == 6 * 5
    assert (study.path / FILE).exists()
    model = ps.load_study(study.path).model_or(None)
    plan = Plan(changes=[Change.parse("1:width(mlp=16)"), Change.parse("0:rank(mlp=8)")])
    small = sum(p.numel() for p in model.parameters())
    x = torch.randn(2, 3, 32, 32)
    inputs = {"pixel_values": x}
    with torch.no_grad():
        whole = model(**inputs).logits
        with ps.apply_(model, plan, fits=fits):
            assert not torch.equal(model(**inputs).logits, whole)
        assert torch.equal(model(**inputs).logits, whole)
    assert small == sum(p.numel() for p in model.parameters())
    assert isinstance(model, nn.Module)


def test_a_study_goes_on_with_what_it_has(folder: Path, study: StudyFolder, front: Front) -> None:
    written = (study.path / FILE).stat().st_mtime_ns
    more = run(asked(folder, trials=14), "all", root=folder / "studies")
    assert more.search.trials == 14
    assert (study.path / FILE).stat().st_mtime_ns == written


def test_width_alone_proposes_no_stage(folder: Path) -> None:
    alone = {"free": "width", "precision": None, "trials": 6, "objectives": ["latency", "macs"]}
    front = run(asked(folder, **alone), "width", root=folder / "studies")
    tried = plans(folder, StudyFolder(folder / "studies", "width"), **alone)
    assert front.search.trials == 6
    assert all(not len(plan) and not plan.whole for plan in tried)
    assert {change.kind for plan in tried for change in plan.changes} == {"width"}
    model = ps.load_study("width", root=folder / "studies").model_or(None)
    for point in front.points:  # as fvcore counts them of the model that runs
        with ps.apply_(model, point.to_plan(), fits=load_fits(folder / "studies" / "width")):
            counted = count_macs(model, {"pixel_values": torch.zeros(1, 3, 32, 32)}) / 1e9
        assert point.cost("macs").value == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"free": "tokens,breadth"}, "plans cannot be free in 'breadth'"),
        ({"free": ""}, "plans cannot be free in ''"),
        ({"free": "tokens,width", "objectives": ["latency", "memory"]}, "memory is known of whole blocks alone"),
        (
            {"free": "tokens,width", "space": "constant-r-small"},
            "kind 'constant-r' is solved for stages alone",
        ),
        ({"free": "tokens,width", "engine": "ray"}, "workers of the engine 'ray' have no fitted weights"),
        ({"free": "precision", "precision": ["float32"]}, "leaves nothing to search here: add tokens"),
    ],
)
def test_what_cannot_be_searched_is_refused(folder: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(PruneSearchError, match=why) as caught:
        run(asked(folder, **changes), "none", root=folder / "studies")
    assert "\n" not in str(caught.value)
