"""`prunesearch export` and `prunesearch import` as they are typed, on the synthetic front and on built-in shapes."""

from __future__ import annotations

import json

import pytest
import torch

from prunesearch.cli.app import app
from prunesearch.cli.border import answer
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.export.schedules.model_shape import model_shape
from prunesearch.pruning.apply import apply_
from tests.support.small_models import build, inputs_of


@pytest.fixture
def run(monkeypatch, capsys, make_front, tmp_path):
    """`run(words) -> (exit code, stdout, stderr)` in a folder with the study `demo`."""
    study = tmp_path / "studies" / "demo"
    study.mkdir(parents=True)
    (study / "front.json").write_text(json.dumps(make_front().to_dict()))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        code = answer(app, list(words))
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def test_a_lossy_export_is_refused_in_one_line(run, tmp_path):
    code, out, err = run("export", "demo", "--pick", "p1", "--to", "tome", "-o", "r.py")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "value_norm+fuse becomes bipartite (block 3)" in err
    assert "--lossy" in err
    assert not (tmp_path / "r.py").exists()


def test_lossy_says_what_it_changes_and_writes_it_down(run, tmp_path):
    code, out, err = run("export", "demo", "--pick", "p1", "--to", "tome", "--lossy", "-o", "r.py")
    assert (code, out) == (0, "")
    assert "prunesearch: changed for tome: value_norm+fuse becomes bipartite (block 3)" in err
    assert "# changed: value_norm+fuse becomes bipartite (block 3)" in (tmp_path / "r.py").read_text()
    code, out, _ = run("import", "r.py", "--from", "tome", "--depth", "9", "--tokens", "65", "--protected", "1")
    assert code == 0
    assert Schedule.from_json(out).counts(9, 65, 1) == [65] * 3 + [53] * 6  # 1 + ceil(.8 x 64)


def test_an_import_counts_on_a_model_without_weights(run, tmp_path):
    (tmp_path / "r.txt").write_text("13\n")
    code, out, _ = run("import", "r.txt", "--from", "tome", "--model", "deit-small", "-o", "s.json")
    assert (code, out) == (0, "")
    data = json.loads((tmp_path / "s.json").read_text())
    assert Schedule.from_dict(data).to_removed(12, 197) == [13] * 12
    assert data["provenance"] == {
        "imported_from": "tome",
        "file": "r.txt",
        "depth": 12,
        "tokens": 197,
        "protected": 1,
        "model": {"id": "deit-small"},
    }


def test_notes_of_an_import_are_said_and_kept(run, tmp_path):
    (tmp_path / "d.py").write_text("pruning_loc = [1]\ntoken_ratio = [0.5]\n")
    code, out, err = run("import", "d.py", "--from", "dynamicvit", "--depth", "4", "--tokens", "17", "--protected", "1")
    assert code == 0
    assert "prunesearch: imported from dynamicvit: a trained gate scores the tokens there" in err
    assert json.loads(out)["remarks"][0].startswith("a trained gate")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--from", "tom"], "did you mean 'tome'"),
        (["--from", "tome"], "add --model M, or --depth D --tokens N --protected P"),
        (["--from", "tome", "--depth", "4"], "add --tokens, --protected, or --model"),
        (["--from", "tome", "--depth", "4", "--tokens", "5", "--protected", "5"], "`0 <= protected < tokens`"),
        (["--from", "tome", "--depth", "0", "--tokens", "5", "--protected", "1"], "`depth >= 1`"),
        (["--from", "tome", "--model", "deit-smal"], "did you mean 'deit-small'"),
        (["--from", "tome", "--model", "deit-small", "--entry", "a/b"], "leave it out"),
        (["--from", "evit", "--model", "deit-small"], "must hold EViT's flags"),
    ],
)
def test_bad_imports_are_one_line(run, tmp_path, words, expected):
    (tmp_path / "r.txt").write_text("13\n")
    code, out, err = run("import", "r.txt", *words)
    assert (code, out) == (2, "")
    assert err.startswith("prunesearch: ")
    assert err.count("\n") == 1
    assert expected in err


def test_shapes_of_texts_need_a_length():
    with pytest.raises(PruneSearchError, match="texts of any length: add --tokens"):
        model_shape("minilm-l6")
    shape = model_shape("minilm-l6", tokens=64)
    assert shape is not None
    assert (shape.depth, shape.tokens, shape.protected) == (6, 64, 2)
    with pytest.raises(PruneSearchError, match="`tokens <= 512`"):
        model_shape("minilm-l6", tokens=600)
    with pytest.raises(PruneSearchError, match="has its own --depth, --tokens: leave it out"):
        model_shape("deit-small", depth=12, tokens=197)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("evit", '--base_keep_rate 0.6 --drop_loc "(1, 3)" --fuse_token'),
        ("tome", "r = 3"),
        ("diffrate", '{"m": {"1": {"prune_kept_num": "[17, 14, 9, 9]", "merge_kept_num": "[15, 12, 9, 4]"}}}'),
        ("dynamicvit", "pruning_loc = [1, 2]\ntoken_ratio = [0.5, 0.3]"),
        ("power-bert", "17,12,9,4"),
    ],
)
def test_an_imported_schedule_runs_with_its_counts(run, tmp_path, name, text):
    (tmp_path / "file").write_text(text)
    code, out, _ = run("import", "file", "--from", name, "--depth", "4", "--tokens", "17", "--protected", "1")
    assert code == 0
    schedule = Schedule.from_json(out)
    counts, seen, model = schedule.counts(4, 17, 1), [], build("vit")
    with apply_(model, schedule) as handle, torch.inference_mode():
        for block in handle.encoder.blocks:
            block.register_forward_hook(lambda _m, _i, y: seen.append(y.shape[1]))
        model(**inputs_of("vit"))
    assert seen == counts
    assert counts[-1] < 17


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--to", "onnx"], "add -o PATH to --to onnx"),
        (["--to", "onnx", "-o", "m.pt2"], "ONNX files end in .onnx, but got 'm.pt2'"),
        (["--to", "hf", "-o", "studies"], "'studies' is already there"),
        (["--to", "hf", "-o", "m", "--opset", "18"], "--opset goes with --to onnx, openvino, tensorrt"),
        (["--to", "hf", "-o", "m", "--int8"], "--int8 goes with --to onnx, openvino, but got --to hf"),
        (["--to", "onnx", "-o", "m.onnx", "--lossy"], "leave it out"),
        (["--to", "tome", "--no-timing"], "are for models (hf, onnx"),
        (["--to", "onxx", "-o", "m.onnx"], "unknown export format 'onxx': did you mean 'onnx'"),
    ],
)
def test_bad_model_exports_are_one_line_before_anything_is_loaded(run, words, expected):
    """The model is not there: loading it would be another line."""
    code, out, err = run("export", "demo", "--pick", "p1", *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert expected in err


def test_a_model_export_says_what_it_found(make_front, tmp_path, heard):
    from prunesearch.export.models.record import ModelExport, Timing
    from prunesearch.export.point import export_point

    asked = []

    def export(front, spec, to, path, *, options, seconds, task, model, weights, fits):
        asked.append((spec, to, options.opset, seconds))
        timing = Timing("ONNX Runtime", "this CPU", 2, 8, 10.0, 5.0, 4.0, 3.9, 20, "")
        return ModelExport(path, to, "ONNX", "ONNX Runtime", True, ("opset 20",), 1e-6, 3.0, (1, 3, 8), timing)

    path = tmp_path / "m.onnx"
    done = export_point(make_front(), "p1", "onnx", path, opset=20, seconds=20.0, write=export)
    assert done.path == path
    assert asked == [("p1", "onnx", 20, 20.0)]
    err = str(heard)
    assert "greatest error of an output 1e-06 (batches of 1, 3, 8)" in err
    assert "unpruned 4 ms, pruned 3.9 ms, 1.03x; eager torch: 10 ms, 5 ms, 2.00x (batch 8, 2 threads" in err
    assert "does not survive in ONNX Runtime: 1.03x, less than 0.9 of 2.00x" in err


def test_a_schedule_says_which_study_it_is_from(run, tmp_path):
    code, out, _ = run("export", "demo", "--pick", "p1", "--to", "tome", "--lossy")
    assert code == 0
    assert out.startswith("# from prunesearch ")
    assert "study demo, point p1 (trial 17)" in out.splitlines()[0]
