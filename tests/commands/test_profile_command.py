"""`prunesearch profile` as it is typed; what it measures is the known machine's."""

from __future__ import annotations

import itertools
import json

import pytest

from prunesearch.cost.tables.device_profile import Profile
from tests.support.known_device import command, one_line


def test_the_command_measures_draws_and_prints_the_folder(folder, tmp_path, measured, monkeypatch, capsys):
    args = ["--model", str(folder / "model"), "--batch-size", "1", "4", "--name", "box", "--folder", str(tmp_path)]
    code, out, err = command(monkeypatch, capsys, "profile", *args, "--plot", str(tmp_path / "curves.html"))
    assert code == 0
    assert out.strip() == str(tmp_path / "box")
    assert "2 tables" in err
    assert "mean error 1.2%, worst 3.4%, rank 0.997 on 30 unseen" in err
    assert (tmp_path / "curves.html").stat().st_size > 1e6
    code, _, err = command(monkeypatch, capsys, "profile", *args)
    assert err.count("kept from before") == 2
    code, out, err = command(monkeypatch, capsys, "profile", *args, "--quiet")
    assert (code, out.strip(), err) == (0, str(tmp_path / "box"), "")


@pytest.mark.parametrize(
    "sizes",
    [
        ["--batch-size", "1", "4"],
        ["--batch-size", "1", "--batch-size", "4"],
        ["--dtype", "float32", "--batch-size", "1", "4"],
    ],
)
def test_several_sizes_may_be_written_with_blanks(folder, tmp_path, measured, monkeypatch, capsys, sizes):
    args = ["--model", str(folder / "model"), *sizes, "--name", "box", "--folder", str(tmp_path)]
    code, _, err = command(monkeypatch, capsys, "profile", *args)
    assert code == 0, err
    assert [c["rows"] for c in measured.calls] == [1, 4]


def test_several_models_and_dtypes_may_be_written_with_blanks(folder, tmp_path, measured, monkeypatch, capsys):
    models = [str(folder / "model"), str(folder / "wide" / "model")]
    args = ["--model", *models, "--batch-size", "1", "2", "--dtype", "float32", "bfloat16", "--folder", str(tmp_path)]
    code, _, err = command(monkeypatch, capsys, "profile", *args, "--name", "box", "--quiet")
    assert code == 0, err
    tables = Profile.load(tmp_path / "box").tables
    found = {(t.shape.width, t.conditions["batch_size"], t.conditions["dtype"]) for t in tables}
    assert found == set(itertools.product((16, 32), (1, 2), ("float32", "bfloat16")))
    assert len(measured.calls) == len(tables) == 8


def test_ctrl_c_says_what_is_kept(folder, tmp_path, measured, monkeypatch, capsys):
    measured.fails_at = {2: KeyboardInterrupt()}
    args = ["--model", str(folder / "model"), "--batch-size", "1", "4", "--name", "box", "--folder", str(tmp_path)]
    code, _, err = command(monkeypatch, capsys, "profile", *args)
    assert code == 130
    one_line(err.splitlines()[-1], "interrupted; finished tables are kept, and the same command resumes")
    assert len(Profile.load(tmp_path / "box").tables) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--quick", "--full"], ["exclude each other", "quick and full"]),
        (["--effort", "ful"], ["did you mean 'full'"]),
        (["--effort", "full", "--quick"], ["full and quick"]),
        (["--plot", "curves.jpg"], ["FILE.html or FILE.png"]),
        (["--batch-size", "8", "0"], ["0", ">= 1"]),
        (["--dtype", "float8"], ["float8"]),
        (["--model", "nosuchmodel"], ["nosuchmodel"]),
        (["--model", "deit-tiny", "--length", "64"], ["length 64", "leave it out"]),
        (["--model", "minilm-l6", "--length", "4"], ["8 <= length <= 512"]),
        (["--model", "deit-tiny", "--attn", "flash"], ["flash", "--attn sdpa"]),
    ],
)
def test_bad_options_end_in_one_line_and_code_2(tmp_path, measured, monkeypatch, capsys, args, words):
    code, out, err = command(monkeypatch, capsys, "profile", *args, "--folder", str(tmp_path), "--quiet")
    assert (code, out) == (2, "")
    assert one_line(err, *words).startswith("prunesearch: ")


def test_a_broken_profile_of_that_name_ends_in_one_line_and_code_2(folder, tmp_path, measured, monkeypatch, capsys):
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "profile.json").write_text(json.dumps({"format": "prunesearch.profile", "version": 3}))
    args = ["--model", str(folder / "model"), "--name", "box", "--folder", str(tmp_path), "--quiet"]
    code, _, err = command(monkeypatch, capsys, "profile", *args)
    assert code == 2
    one_line(err, "version 3", "upgrade prunesearch")
    assert measured.calls == []
