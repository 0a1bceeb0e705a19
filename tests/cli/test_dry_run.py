"""`run --dry-run`: what was understood, on one screen or as JSON; nothing is searched or written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.known_device import command, one_line

ROWS = ["--calibration", "40", "--holdout", "60"]


def test_it_says_what_was_understood_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = command(monkeypatch, capsys, "run", "--dry-run", *ROWS)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for words in ("65, of which 1 are protected", "image-classification; quality is accuracy", "40 calibration, 60"):
        assert words in out
    code, out, _ = command(monkeypatch, capsys, "run", "--dry-run", "--json", *ROWS)
    found = json.loads(out)
    assert code == 0
    assert (found["family"], found["depth"], found["judged"]) == ("vit", 9, 40)
    assert found["classes"][0] == "airplane"
    assert 0.5 < found["quality"] <= 1
    assert found["total_s"] == pytest.approx(sum(found["seconds"].values()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--precision", "fp8"], "--precision fp8 cannot be had (nothing makes it on 'cpu')"),
        (["--device", "a100", "--free", "tokens,width"], "--free width cannot be searched here"),
    ],
)
def test_what_a_run_refuses_is_refused(
    asked: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = command(monkeypatch, capsys, "run", "--dry-run", *ROWS, *asked)
    assert code == 2
    one_line(err, said)
