"""A study from Python: the same front as the command line's, in frames; points that are applied, exported, judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Change
from tests.support.paths import ROOT
from tests.support.tiny import make_vit

EXAMPLE = ROOT / "studies" / "example"


@pytest.fixture(scope="module")
def example() -> ps.Study:
    return ps.load_study(EXAMPLE)


def test_the_frame_is_the_front(example: ps.Study) -> None:
    frame, front = example.to_pandas(), example.front
    assert list(frame.index) == ["unpruned", *(p.id for p in front.points)]
    for point in front.points:
        row = frame.loc[point.id]
        assert row.speedup == point.speedup
        assert row.accuracy == point.quality.value
        assert row.difference_low == point.difference.low
        assert row.latency_ms == point.cost("latency").value
        assert row.schedule == point.text
    assert frame.loc["unpruned", "latency_ms"] == front.unpruned.cost("latency").value
    assert example.verdict == front.verdict.text


def test_points_are_picked_as_by_the_command_line(example: ps.Study) -> None:
    first = example.front.points[0]
    assert example[first.id].schedule == first.to_schedule()
    assert example.best("2x").speedup >= 2
    assert example.pick("knee").id in {p.id for p in example}
    assert example.recommended is not None
    assert example.recommended.id == example.front.verdict.point
    assert len(example) == len(example.front.points) == len(example.points)
    with pytest.raises(PruneSearchError, match="p99"):
        example["p99"]


def test_studies_and_points_show_themselves_in_a_notebook(example: ps.Study) -> None:
    for thing in (example, example["p1"]):
        assert "<table" in thing._repr_html_()
    assert example.verdict.split(":")[0] in example._repr_html_()


def test_a_schedule_is_exported_with_its_card(example: ps.Study, tmp_path: Path) -> None:
    done = example.export("p1", to="json", path=tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text())["stages"]
    assert (tmp_path / "s.json").read_text() == done
    assert (tmp_path / "s.json.md").exists()
    with pytest.raises(PruneSearchError, match="are for models"):
        example.export("p1", int8=True)
    with pytest.raises(PruneSearchError, match="written to a file or folder"):
        example.export("p1", to="onnx")


def test_a_study_of_files_loads_its_model(example: ps.Study) -> None:
    """The bundled demo, of which the example is."""
    with example["p1"].applied() as model:
        assert ps.handle_of(model).schedule == example["p1"].schedule
    assert type(model).__name__ == "ViTForImageClassification"


def test_an_unknown_study_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(PruneSearchError, match=r"no study 'exmaple'.*example"):
        ps.load_study("exmaple", root=ROOT / "studies")


@pytest.fixture(scope="module")
def mine() -> tuple[Any, Tensor, Tensor]:
    """A model with opinions, pictures, and labels that it gets right on three rows of four."""
    torch.manual_seed(0)
    shape = {"image_size": 32, "patch_size": 2, "hidden_size": 64, "intermediate_size": 128}  # 257 tokens: half pay
    heads = {"num_hidden_layers": 4, "num_attention_heads": 2, "num_labels": 3, "initializer_range": 0.3}
    model = ViTForImageClassification(ViTConfig(**shape, **heads)).eval()
    pixels = torch.randn(60, 3, 32, 32)
    with torch.no_grad():
        labels = model(pixels).logits.argmax(-1)
    labels[::4] = (labels[::4] + 1) % 3
    return model, pixels, labels


# one precision: whether int8 is on the front hangs on the machine, and transformers cannot hold it
QUICK: dict[str, Any] = {
    "trials": 4,
    "table_seconds": 0.5,
    "patience_s": 0,
    "front_points": 2,
    "sensitivity_units": 1,
    "precision": "float32",
}


@pytest.fixture(scope="module")
def found(mine: Any, tmp_path_factory: pytest.TempPathFactory) -> ps.Study:
    model, pixels, labels = mine
    return ps.run(model, (pixels, labels), root=tmp_path_factory.mktemp("studies"), **QUICK)


def test_objects_are_searched_and_the_model_is_left_as_it_was(mine: Any, found: ps.Study) -> None:
    model, pixels, _ = mine
    assert found.name == "ViTForImageClassification-cpu-b8"
    assert found.front.model.depth == 4
    assert ps.handle_of(model) is None
    point = found.points[0]
    with torch.inference_mode():
        before = model(pixels).logits
        with point.applied() as inside:
            assert inside is model
            assert not torch.equal(model(pixels).logits, before)
        assert torch.equal(model(pixels).logits, before)


def test_trials_are_a_frame(found: ps.Study) -> None:
    frame = found.trials.to_pandas()
    assert len(frame) == len(found.trials) == found.front.search.trials > 0
    assert frame.index.is_unique
    assert {"loss", "quality", "latency_ms", "schedule"} <= set(frame)
    assert "<table" in found.trials._repr_html_()


def test_the_report_is_copied(found: ps.Study, tmp_path: Path) -> None:
    assert "<html" in found.report(tmp_path / "r.html").read_text()


def test_the_same_call_returns_the_study(mine: Any, found: ps.Study) -> None:
    model, pixels, labels = mine
    again = ps.run(model, (pixels, labels), root=found.folder.root, **QUICK)
    assert again.front == found.front


def test_other_weights_or_rows_do_not_go_on_with_it(mine: Any, found: ps.Study) -> None:
    model, pixels, labels = mine
    with pytest.raises(PruneSearchError, match="other weights or other rows"):
        ps.run(model, (pixels + 1, labels), root=found.folder.root, **QUICK)


def test_a_study_of_objects_is_verified_and_exported_with_them(found: ps.Study, tmp_path: Path) -> None:
    done = found.verify(seconds=0.5)
    assert {p.id for p in done.points} == {"unpruned", *(p.id for p in found)}
    exported = found.export(found.points[0].id, to="hf", path=tmp_path / "hf", seconds=None)
    assert exported.error < 1e-4
    with pytest.raises(PruneSearchError, match="handed in"):
        ps.load_study(found.folder.path).verify(seconds=0.5)


def test_a_function_of_rows_is_the_quality(mine: Any, tmp_path: Path) -> None:
    model, pixels, labels = mine

    def confidence(outputs: Any, wanted: Tensor) -> Tensor:
        return outputs.logits.softmax(-1).gather(1, wanted[:, None])[:, 0]

    study = ps.run(model, (pixels, labels), metric=confidence, root=tmp_path, **QUICK)
    frame = study.to_pandas()
    rows = study.task.holdout.batches  # type: ignore[union-attr]
    with torch.inference_mode():
        expected = torch.cat([confidence(model(**b.inputs), torch.as_tensor(b.labels)) for b in rows]).mean()
    assert frame.loc["unpruned", "confidence"] == pytest.approx(float(expected), rel=1e-5)
    assert frame.confidence_low.iloc[0] < frame.confidence.iloc[0] < frame.confidence_high.iloc[0]
    assert study.name == "ViTForImageClassification-confidence-cpu-b8"


def test_an_evaluation_of_the_whole_model_promises_nothing(mine: Any, tmp_path: Path) -> None:
    model, pixels, labels = mine

    def score(module: nn.Module) -> float:
        with torch.inference_mode():
            return float((module(pixels).logits.argmax(-1) == labels).float().mean())

    study = ps.run(model, (pixels, labels), evaluate=score, root=tmp_path, **QUICK)
    frame = study.to_pandas()
    assert frame.loc["unpruned", "score"] == pytest.approx(score(model))
    assert pd.isna(frame.score_low).all()
    assert study.front.verdict.point is None


def test_latencies_are_measured_side_by_side(mine: Any) -> None:
    model, pixels, _ = mine
    schedule = ps.Schedule([ps.Stage(0, 0.1)])
    frame = ps.measure(model, {"pixel_values": pixels[:4]}, [[], schedule], seconds=0.3)
    assert list(frame.index) == ["unpruned", str(schedule)]
    assert frame.speedup.iloc[0] == 1
    assert (frame.p10_ms <= frame.median_ms).all()
    assert (frame.samples >= 10).all()


def test_a_plan_is_measured_with_its_changes(mine: Any) -> None:
    """Told by what a linear layer gives."""
    model, pixels, _ = mine
    plans = [ps.Plan(), ps.Plan(ps.Schedule([ps.Stage(0, 0.1)]), [Change.parse("int8")])]
    layer, own = next(m for m in model.modules() if isinstance(m, nn.Linear)), set()

    def look(module: nn.Linear, args: tuple[Tensor], out: Tensor) -> None:
        own.add(torch.equal(out, nn.functional.linear(args[0], module.weight, module.bias)))

    hook = layer.register_forward_hook(look)
    try:
        frame = ps.measure(model, {"pixel_values": pixels[:4]}, plans, seconds=0.1)
    finally:
        hook.remove()
    assert list(frame.index) == [str(plan) for plan in plans]
    assert own == {True, False}


def test_latencies_of_a_model_by_name(tmp_path: Path) -> None:
    """By a folder: its shape counts, and so many random rows."""
    frame = ps.measure(make_vit(tmp_path), 2, [[], [ps.Stage(0, 0.1)]], seconds=0.1)
    assert len(frame) == 2
    assert (frame.median_ms > 0).all()


def test_devices_are_a_frame() -> None:
    frame = ps.devices()
    assert {"epyc-2c", "a100-80gb"} <= set(frame.index)
    assert set(frame.status) <= {"measured", "estimated"}


def test_what_was_understood(mine: Any) -> None:
    model, pixels, labels = mine
    found = ps.inspect(model, (pixels, labels), calibration=20, holdout=40)
    assert (found.tokens, found.protected, found.depth, found.metric) == (257, 1, 4, "accuracy")
    assert found.rows == {"calibration": 20, "holdout": 40}
    assert found.judged == 20
    assert 0.5 < found.quality < 1
    assert found.total_s == pytest.approx(sum(found.seconds.values())) != 0
    assert json.loads(json.dumps(found.to_dict()))["tokens"] == 257
    assert "257, of which 1 are protected" in found._repr_html_()


def test_parts_that_do_not_go_together_are_refused(mine: Any) -> None:
    model, pixels, labels = mine
    with pytest.raises(PruneSearchError, match="need a model"):
        ps.run(None, (pixels, labels))
    with pytest.raises(PruneSearchError, match="unknown setting 'bugdet': did you mean 'budget'"):
        ps.run(model, (pixels, labels), bugdet="2x")
