"""Exporting a model: what is checked, refused, timed and said. Formats that really write are in the contracts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.export.models.card import model_card, timing_text
from prunesearch.export.models.model_format import ModelFormat, ModelOptions, ModelSource
from prunesearch.export.models.record import ModelExport, Timing
from prunesearch.export.models.write import check_batches, export_model, find_model_format
from prunesearch.export.schedules.native import provenance_of
from tests.support.small_models import build, inputs_of

SCHEDULE = ps.Schedule([ps.Stage(1, 0.5, "value_norm", "drop")])


@pytest.fixture
def source():
    return ModelSource(build("vit").requires_grad_(False), SCHEDULE, inputs_of("vit"))


def fake(off: float = 0.0, **more) -> ModelFormat:
    """A format that pickles nothing: it writes the schedule, and runs the model in torch, `off`."""
    kept = {}

    def write(source, path, options):
        path.write_text(source.schedule.to_json())
        kept["model"] = source.model
        return ("a note",)

    def load(path):
        schedule = ps.Schedule.from_json(path.read_text())

        def forward(batch):
            handle = ps.handle_of(kept["model"])
            if handle is not None:
                handle.set(schedule)
                return {"logits": kept["model"](**batch).logits + off}
            with ps.apply_(kept["model"], schedule), torch.no_grad():
                return {"logits": kept["model"](**batch).logits + off}

        return forward

    return ModelFormat("onnx", "Fake", "eager", write, load, ".fake", from_file="a fake runtime", **more)


def test_an_export_says_what_was_checked(source, tmp_path):
    done = export_model(source, fake(), tmp_path / "m.fake", seconds=None)
    assert (done.error, done.checked, done.timing) == (0.0, (1, 3), None)
    assert done.notes == ("a note",)
    facts = json.loads((tmp_path / "m.fake.json").read_text())
    assert ps.Schedule.from_dict(facts) == SCHEDULE
    assert facts["provenance"]["exported"]["error"] == 0.0
    assert "Not timed." in (tmp_path / "m.fake.md").read_text()


def test_a_wrong_file_is_refused_and_removed(source, tmp_path):
    with pytest.raises(PruneSearchError, match=r"what Fake computes is off by 0\.01 .* more than 0\.0001"):
        export_model(source, fake(off=0.01), tmp_path / "m.fake", seconds=None)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PruneSearchError, match="is off by nan"):
        export_model(source, fake(off=float("nan")), tmp_path / "m.fake", seconds=None)
    assert ps.handle_of(source.model) is None


def test_int8_states_its_error_and_is_not_refused(source, tmp_path):
    to = fake(off=0.3, options=("int8",))
    done = export_model(source, to, tmp_path / "m.fake", options=ModelOptions(int8=True), seconds=None)
    assert done.error == pytest.approx(0.3, abs=1e-5)


def test_timing_runs_all_four_and_leaves_the_model_alone(source, tmp_path):
    before = source.model(**source.inputs).logits
    done = export_model(source, fake(), tmp_path / "m.fake", seconds=0.1)
    timing = done.timing
    assert timing.rounds >= 10
    assert timing.batch_size == 3
    assert timing.threads == torch.get_num_threads()
    assert min(timing.eager_unpruned_ms, timing.eager_pruned_ms, timing.unpruned_ms, timing.pruned_ms) > 0
    assert torch.equal(source.model(**source.inputs).logits, before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.fake", "m.fake.json", "m.fake.md"]
    assert "Fake" not in timing_text(done)
    assert "a fake runtime: unpruned" in timing_text(done)


def timing(unpruned: float, pruned: float, eager_pruned: float) -> Timing:
    return Timing("R", "D", 2, 8, 10.0, eager_pruned, unpruned, pruned, 10, "")


@pytest.mark.parametrize(("pruned", "survives"), [(2.5, True), (2.7, True), (2.8, False), (5.0, False)])
def test_a_speed_up_survives_if_nine_tenths_of_it_are_left(pruned, survives):
    found = timing(5.0, pruned, 5.0)
    assert found.eager_speedup == 2.0
    assert found.speedup == 5.0 / pruned
    assert found.survives == survives


def test_paths_of_the_wrong_kind_are_refused(source, tmp_path):
    with pytest.raises(PruneSearchError, match=r"ONNX files end in \.onnx, but got .*m\.pt2.*m\.pt2\.onnx"):
        export_model(source, find_model_format("onnx"), tmp_path / "m.pt2")
    with pytest.raises(PruneSearchError, match="did you mean 'openvino'"):
        find_model_format("openvin")


def test_an_opset_out_of_reach_leaves_nothing(source, tmp_path):
    with pytest.raises(PruneSearchError, match="`18 <= opset <= "):
        export_model(source, find_model_format("onnx"), tmp_path / "m.onnx", options=ModelOptions(opset=9))
    assert list(tmp_path.iterdir()) == []


def test_batches_to_check_are_padded_texts():
    batches = check_batches(inputs_of("bert", (14, 14, 14, 14)))
    assert [len(b["input_ids"]) for b in batches] == [1, 3, 4]
    assert batches[0]["attention_mask"].sum(1).tolist() == [14]
    lengths = batches[2]["attention_mask"].sum(1).tolist()
    assert lengths[0] == 14
    assert len(set(lengths)) == 4
    assert min(lengths) > 2


def test_a_card_says_where_its_numbers_come_from(make_front):
    front = make_front()
    point = front.points[0]
    done = ModelExport(
        Path("m.onnx"), "onnx", "ONNX", "ONNX Runtime", True, ("opset 18",), 1e-6, 3.0, (1, 3), timing(5.0, 2.5, 4.0)
    )
    card = model_card(point.to_schedule(), provenance_of(point, front), done)
    assert 'base_model: "prunesearch/demo-vit-cifar10"' in card
    assert f"Study `demo`, point {point.id} (trial {point.trial})" in card
    assert f"accuracy {point.quality.value:.4f}" in card
    assert "measured end to end on" in card
    assert "R: unpruned 5 ms, pruned 2.5 ms, 2.00x; eager torch: 10 ms, 4 ms, 2.50x (batch 8, 2 threads, D" in card
    alone = model_card(point.to_schedule(), {}, replace(done, timing=None))
    assert "Study" not in alone
    assert "base_model" not in alone
