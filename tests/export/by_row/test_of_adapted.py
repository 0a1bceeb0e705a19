"""A study's cascade and router, exported: what was written answers as what `adapt` judged; all else is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import prunesearch as ps
from prunesearch.cli.app import app
from prunesearch.cli.border import answer
from prunesearch.commands.adapt import adapted
from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.export.by_row.row_rule import SURENESS
from prunesearch.export.by_row.rule_source import find_rule_format
from prunesearch.pruning.apply import apply_
from prunesearch.search.adaptive.adapting import Adapting, AdaptSettings
from prunesearch.search.adaptive.choosing import RowRule
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.setup import make_setting
from tests.support.known_device import on_box, settings

WANTED = AdaptSettings(keep=0.8, batch_sizes=(1,), rows=64, batches=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[StudyFolder]:
    """A study with a router and a cascade that decide."""
    root = tmp_path_factory.mktemp("study")
    with on_box(root):
        front = run(RunConfig(**settings(root, device="box")), "rows", root=root / "studies")
        yield with_rules(front, StudyFolder(root / "studies", "rows"))


def with_rules(front: Front, folder: StudyFolder) -> StudyFolder:
    """The study with a cascade and a router."""
    setting = make_setting(RunConfig(**front.config))
    with apply_(setting.task.model, Plan()) as handle, torch.inference_mode():
        work = Adapting(front, setting, handle, WANTED)
        work.choose()  # its guesses are learnt here; which plans are fast hangs on how busy the machine is
        chosen = {name: divided(work, name) for name in ("cascade", "router")}
        work.choose = lambda: chosen  # type: ignore[method-assign]
        found = adapted(work, folder.weights)
    front.model_copy(update={"adapted": found}).save(folder.front)
    return folder


def divided(work: Adapting, name: str) -> RowRule:
    """A rule between the last point and the unpruned model that half of the holdout rows go to each of."""
    plans = (list(work.plans)[-1], "unpruned")
    answers, states = work.holdout
    sure = work.guesses[plans[0]](states) if name == "router" else SURENESS["margin"](answers[plans[0]].logits)
    by = "block" if name == "router" else "margin"
    ordered = sure.sort().values
    low, high = ordered[len(sure) // 2 - 1 : len(sure) // 2 + 1].tolist()
    return RowRule(plans, by, (low + high) / 2, (0.5, 0.5), 1.0, 1.0)  # no row's sureness to the last digit


@pytest.mark.parametrize("spec", ["cascade", "router"])
def test_it_answers_as_what_was_judged(spec: str, folder: StudyFolder, tmp_path: Path) -> None:
    study, path = ps.load_study(str(folder.path)), tmp_path / "out"
    done = study.export(spec, "hf", path, seconds=0.2)
    front = study.front
    found = next(one for one in front.adapted.contestants if one.name == spec)
    rows = front.adapted.rows
    assert f"{rows} of {rows} holdout rows run the plan that the study's {spec} gives them" in done.notes[-2]
    told = ", ".join(f"{name} {share:.1%} ({share:.1%})" for name, share in zip(found.plans, found.shares, strict=True))
    assert done.notes[-1] == f"shares of the rows (in the study): {told}"
    assert done.error <= 1e-5 * max(done.largest, 1.0)
    unpruned = next(one for one in front.adapted.contestants if one.name == "unpruned")  # on the same rows
    assert list(done.quality.values()) == pytest.approx([unpruned.quality.value, *[found.quality.value] * 2])
    assert done.timing.rounds >= 1
    assert min(done.timing.unpruned_ms, done.timing.pruned_ms, done.timing.eager_pruned_ms) > 0
    card = (path / "README.md").read_text()
    assert "trust_remote_code=True" in card
    assert all(f"### {name}" in card for name in found.plans)
    facts = json.loads((path / "prunesearch.json").read_text())
    assert facts["rule"]["threshold"] == found.threshold
    assert Plan.from_dict(facts["plans"][found.plans[0]]) == front.point(found.plans[0]).to_plan()
    setting = make_setting(RunConfig(**front.config))
    batch = setting.task.splits["holdout"].batches[0]
    logits, places = find_rule_format("hf").load(path)(batch.inputs)
    with torch.no_grad(), apply_(setting.task.model, Plan()) as handle:
        for row, place in enumerate(places.tolist()):
            point = front.point(found.plans[place])
            with handle.under(Plan() if point is None else point.to_plan()):
                alone = setting.task.model(pixel_values=batch.inputs["pixel_values"][row : row + 1]).logits[0]
            torch.testing.assert_close(logits[row], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["cascade", "router"])
def test_as_graphs_too(spec: str, folder: StudyFolder, tmp_path: Path) -> None:
    done = ps.load_study(str(folder.path)).export(spec, "onnx", tmp_path / "out", opset=19, seconds=0.2)
    assert done.error <= 1e-4 * max(done.largest, 1.0)
    assert "opset 19" in done.notes[0]
    assert done.timing.unpruned_ms > 0
    assert {"rule.json", "run.py", "README.md", "prunesearch.json"} < {
        file.name for file in (tmp_path / "out").iterdir()
    }


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "to"), [("cascade", "hf"), ("router", "hf"), ("cascade", "onnx"), ("router", "onnx")])
def test_of_the_trained_demo(spec: str, to: str, make_front, tmp_path: Path) -> None:
    """About half of the rows go to a fast point; each has the answer that the handle gives it; shares are equal."""
    config = RunConfig(calibration=64, holdout=64, batch_size=2).model_dump(mode="json")
    folder = with_rules(make_front(config=config), StudyFolder.create("demo", tmp_path))
    done = ps.load_study(str(folder.path)).export(spec, to, tmp_path / "out", seconds=0.2)
    assert "64 of 64 holdout rows run the plan" in done.notes[-2]
    shares = re.findall(r"([\d.]+)% \(([\d.]+)%\)", done.notes[-1])
    assert [told for told, _ in shares] == [judged for _, judged in shares]
    assert all(40 < float(told) < 60 for told, _ in shares)
    assert done.error <= (1e-5 if to == "hf" else 1e-4) * done.largest
    assert list(done.quality.values())[2] == pytest.approx(list(done.quality.values())[1])


def test_what_cannot_be_is_refused_before_a_model_is_loaded(folder: StudyFolder, tmp_path: Path, capsys) -> None:
    def call(*words: str) -> str:
        assert answer(app, ["export", str(folder.path), *words]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    out = str(tmp_path / "out")
    assert "is written with --to hf or onnx, but got --to json" in call("--pick", "router")
    assert "is written with --to hf or onnx" in call("--pick", "router", "--to", "openvino", "-o", out)
    assert "add -o PATH" in call("--pick", "cascade", "--to", "hf")
    assert "--int8 is of single plans" in call("--pick", "cascade", "--to", "onnx", "--int8", "-o", out)
    assert "--opset goes with" in call("--pick", "cascade", "--to", "hf", "--opset", "18", "-o", out)
    (tmp_path / "out").mkdir()
    assert "already there" in call("--pick", "cascade", "--to", "hf", "-o", out)


def test_what_is_not_in_the_study_is_refused(folder: StudyFolder, tmp_path: Path) -> None:
    front = Front.load(folder.front)

    def told(study: str, **changes) -> ps.Study:
        contestants = [
            one.model_copy(update=changes) if one.name == "router" else one for one in front.adapted.contestants
        ]
        new = front.model_copy(update={"adapted": front.adapted.model_copy(update={"contestants": contestants})})
        place = StudyFolder.create(study, tmp_path)
        new.save(place.front)
        return ps.load_study(str(place.path))

    for name, changes, why in (
        ("old", {"guesses": None}, "`prunesearch adapt rows` finds it again"),
        ("gone", {"guesses": f"sha256:{'0' * 64}"}, "cannot be read"),
        ("one", {"shares": [1.0, *[0.0] * (len(_router(front).plans) - 1)]}, f"export {_router(front).plans[0]}"),
        ("none", {"name": "other"}, "no router kept enough"),
    ):
        with pytest.raises(PruneSearchError, match=why):
            told(name, **changes).export("router", "hf", tmp_path / "out")
    plain = StudyFolder.create("plain", tmp_path)
    front.model_copy(update={"adapted": None}).save(plain.front)
    with pytest.raises(PruneSearchError, match="has no router yet: `prunesearch adapt rows`"):
        ps.load_study(str(plain.path)).export("router", "hf", tmp_path / "out")
    weights = next(folder.weights.iterdir())
    changed = told("changed")
    changed.folder.weights.mkdir()
    (changed.folder.weights / weights.name).write_bytes(weights.read_bytes()[:-4] + b"0000")
    with pytest.raises(CorruptFileError, match="digest"):
        changed.export("router", "hf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _router(front: Front):
    return next(one for one in front.adapted.contestants if one.name == "router")


def test_what_computes_something_else_is_not_kept(folder: StudyFolder, tmp_path: Path) -> None:
    from prunesearch.export.by_row.of_adapted import export_rule
    from prunesearch.export.models.model_format import ModelOptions

    front, right = Front.load(folder.front), find_rule_format("hf")

    def swapped(path: Path):
        forward = right.load(path)
        return lambda inputs: (forward(inputs)[0] + 0.01, forward(inputs)[1])

    def elsewhere(path: Path):
        forward = right.load(path)
        return lambda inputs: (forward(inputs)[0], 1 - forward(inputs)[1].clamp(max=1))

    for load, why in ((swapped, "is off by 0.01"), (elsewhere, "rows to another plan")):
        wrong = replace(right, load=load)
        with pytest.raises(PruneSearchError, match=why):
            export_rule(front, "cascade", wrong, tmp_path / "out", options=ModelOptions(), weights=folder.weights)
        assert not (tmp_path / "out").exists()
