"""Every format on points picked by name, as it is typed: what goes out comes back, or is refused with its reason.

Schedules go out of the synthetic front with schedules that some tool can say; models are the bundled demo.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prunesearch.cli.app import app
from prunesearch.cli.border import answer
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import ENCODER, Stage
from prunesearch.core.tables.export_tables import FORMATS, MODEL_FORMATS
from prunesearch.cost.graphs.graph_running import kept_signal_stack
from tests.support.paths import DEV

SHAPE = (9, 65, 1)
_IMPORT = ["--depth", "9", "--tokens", "65", "--protected", "1"]
# one schedule for each kind of tool; the picks are of the synthetic front: 16, 12, 10 and 8 ms
TOLD = {
    "p1": Schedule(Stage(i, (64 - 4 * (i + 1)) / 64, merge="bipartite") for i in range(9)),  # r = 4 everywhere
    "p2": Schedule([Stage(2, 0.7, "cls_attention", "fuse"), Stage(5, 0.49, "cls_attention", "fuse")]),
    "p3": Schedule([Stage(1, 0.6, "cls_attention", "nearest"), Stage(4, 0.4, "cls_attention", "drop")]),
    "p4": Schedule([Stage(0, 0.5, "attention_received", "drop"), Stage(7, 0.25, "attention_received", "drop")]),
}
PICKS = {"best@16ms": "p1", "p2": "p2", "best@2x": "p3", "31": "p4", "fastest@0.98": "p2"}
EXACT = {
    "json": {"p1", "p2", "p3", "p4"},
    "tome": {"p1"},
    "pruna": {"p1"},
    "lightcompress": {"p1"},
    "evit": {"p2"},
    "diffrate": {"p3"},
    "power-bert": {"p4"},
    "length-adaptive": {"p4"},
    "dynamicvit": set(),  # a trained gate scores there
}
# those of prompts: test_image_tokens.py
OF_ENCODERS = [name for name in FORMATS if ENCODER in FORMATS[name].parts]


@pytest.fixture
def run(monkeypatch, capsys, make_front, tmp_path):
    """`run(words) -> (exit code, stdout, stderr)` in a folder with the study `demo`, its points those of `TOLD`."""
    data = make_front().to_dict()
    for point in data["points"]:
        schedule = TOLD[point["id"]]
        point |= {"plan": schedule.to_dict(), "text": str(schedule), "tokens": schedule.counts(*SHAPE)}
    data["config"] = {"calibration": 64, "holdout": 64, "batch_size": 2}
    study = tmp_path / "studies" / "demo"
    study.mkdir(parents=True)
    (study / "front.json").write_text(json.dumps(data))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        code = answer(app, list(words))
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def test_the_table_has_every_format():
    assert EXACT.keys() == set(OF_ENCODERS)


def said(err, name):
    """The changes that the command stated."""
    head = f"prunesearch: changed for {name}: "
    return [line.removeprefix(head) for line in err.splitlines() if line.startswith(head)]


@pytest.mark.parametrize("spec", PICKS)
@pytest.mark.parametrize("name", OF_ENCODERS)
def test_a_schedule_comes_back_or_is_refused(run, tmp_path, name, spec):
    told = TOLD[PICKS[spec]]
    words = ["export", "demo", "--pick", spec, "--to", name, "-o", "out"]
    code, _, err = run(*words)
    if PICKS[spec] in EXACT[name]:
        assert code == 0, err
        assert "changed for" not in err
    else:
        assert code == 2
        assert err.count("\n") == 1
        assert "cannot say this schedule" in err
        assert "--lossy" in err
        assert not (tmp_path / "out").exists()
        code, _, err = run(*words, "--lossy")
        assert code == 0, err
        assert f"changed for {name}: " in err
    card = (tmp_path / "out.md").read_text()
    assert f"Study `demo`, point {PICKS[spec]} " in card
    changes = said(err, name)
    assert bool(changes) == (PICKS[spec] not in EXACT[name])
    assert all(f"- In {name}, changed: {change}." in card for change in changes)
    code, out, _ = run("import", "out", "--from", name, *_IMPORT)
    assert code == 0
    back = Schedule.from_json(out)
    same = back.counts(*SHAPE) == told.counts(*SHAPE)
    assert same == ("tokens, not" not in err)
    assert len(back)
    if PICKS[spec] in EXACT[name]:
        assert [(s.layer, s.method) for s in back] == [(s.layer, s.method) for s in told]


@pytest.fixture(scope="module")
def loaded():
    """The demo's model and rows, as the command loads them for itself."""
    from prunesearch.study.config import RunConfig
    from prunesearch.study.setup import make_setting

    return make_setting(RunConfig(calibration=64, holdout=64, batch_size=2)).task


def answers(path, name, batch):
    """Logits of the written file in its own runtime, with nothing of prunesearch."""
    pixels = batch.inputs["pixel_values"]
    if name == "torch-export":
        return torch.export.load(path).module()(pixel_values=pixels)["logits"]
    if name == "openvino":
        import openvino

        with kept_signal_stack():
            compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return torch.from_numpy(next(iter(compiled({"pixel_values": pixels.numpy()}).values())).copy())
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"pixel_values": pixels.numpy()})[0])


@pytest.mark.parametrize(
    ("name", "spec", "file"),
    [
        ("hf", "best@16ms", "model"),
        pytest.param("torch-export", "fastest@0.98", "model.pt2", marks=pytest.mark.slow),
        pytest.param("openvino", "best@2x", "model.xml", marks=pytest.mark.slow),
        pytest.param("tensorrt", "31", "model.onnx", marks=pytest.mark.slow),
    ],
)
def test_a_model_of_a_point_picked_by_name(run, loaded, tmp_path, name, spec, file):
    if name == "openvino":
        pytest.importorskip("openvino", reason=DEV)
    if name == "tensorrt":
        pytest.importorskip("onnxruntime", reason=DEV)
    code, out, err = run("export", "demo", "--pick", spec, "--to", name, "-o", file, "--no-timing")
    assert (code, out) == (0, ""), err
    assert f"written: {file}" in err
    beside = tmp_path / file / "prunesearch.json" if name == "hf" else tmp_path / f"{file}.json"
    assert Schedule.from_dict(json.loads(beside.read_text())) == TOLD[PICKS[spec]]
    batch = loaded.holdout.batches[0].rows(torch.arange(3))
    from prunesearch.pruning.apply import apply_

    task = loaded
    with apply_(task.model, TOLD[PICKS[spec]]), torch.inference_mode():
        expected = task.model(**batch.inputs).logits
    if name == "hf":
        from transformers import AutoModelForImageClassification

        model = AutoModelForImageClassification.from_pretrained(tmp_path / file, trust_remote_code=True)
        with torch.inference_mode():
            found = model.eval()(**batch.inputs).logits
    else:
        found = answers(Path(file), name, batch)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_every_model_format_is_tried_here():
    assert set(MODEL_FORMATS) == {"hf", "onnx", "torch-export", "openvino", "tensorrt"}


def test_int8_composes_with_a_schedule_and_its_quality_is_measured(run, loaded, tmp_path):
    onnx = pytest.importorskip("onnx", reason=DEV)
    pytest.importorskip("onnxruntime", reason=DEV)
    words = ["export", "demo", "--pick", "best@12ms", "--to", "onnx", "--int8", "--no-timing", "-o", "int8.onnx"]
    code, out, err = run(*words)
    assert (code, out) == (0, ""), err
    kinds = {node.op_type for node in onnx.load("int8.onnx").graph.node}
    assert "MatMulInteger" in kinds
    weights = sum(parameter.numel() for parameter in loaded.model.parameters())
    assert Path("int8.onnx").stat().st_size < 2 * weights  # bytes; in float32 it would be 4 each
    right, rows = 0, 0
    for batch in loaded.holdout.batches:
        found = answers("int8.onnx", "onnx", batch).argmax(-1)
        right, rows = right + int((found == torch.as_tensor(batch.labels)).sum()), rows + len(found)
    assert rows == 64
    assert f"pruned in ONNX Runtime, int8 (64 rows) {np.round(right / rows, 4):g}" in err
    assert "int8: dynamic quantisation" in err
    assert "pruned in ONNX Runtime, int8 (64 rows)" in (tmp_path / "int8.onnx.md").read_text()
