"""Rows that cannot be read: named by file and row, or left out and counted when that is asked for."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers as hf

from prunesearch.core.errors import PruneSearchError
from prunesearch.study.config import RunConfig
from prunesearch.study.setup import make_setting
from prunesearch.tasks import load_task
from prunesearch.tasks.base import Task
from tests.support.tiny import WORDS, make_vit, png
from tests.support.tiny_media import SIZE, encoded, make_waves, save, sound

N, BAD = 36, (4, 11, 20, 30)
Make = Callable[[Path], tuple[str, Path]]
THREE = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}


def images(folder: Path) -> tuple[str, Path]:
    cells = [{"bytes": png(i)[: 150 if i in BAD else None], "path": None} for i in range(N)]
    pq.write_table(pa.table({"image": cells, "label": [i % 3 for i in range(N)]}), folder / "rows.parquet")
    return make_vit(folder / "model"), folder / "rows.parquet"


def sounds(folder: Path) -> tuple[str, Path]:
    """Damaged ones: junk, and files with no samples."""
    broken = {4: b"RIFFjunk", 11: encoded(np.zeros(0, np.float32)), 20: b"fLaC" + bytes(40)}
    broken[30] = b"RIFF" + struct.pack("<I", 36) + b"WAVE"
    cells = [{"bytes": broken.get(i) or encoded(sound(i)), "path": None} for i in range(N)]
    pq.write_table(pa.table({"audio": cells, "label": [i % 3 for i in range(N)]}), folder / "rows.parquet")
    return make_waves(folder / "model", "Wav2Vec2ForSequenceClassification", **THREE), folder / "rows.parquet"


def videos(folder: Path) -> tuple[str, Path]:
    cells = [
        [{"bytes": png(i * 9 + k)[: 150 if i in BAD and k == 3 else None], "path": None} for k in range(4)]
        for i in range(N)
    ]
    pq.write_table(pa.table({"video": cells, "label": [i % 3 for i in range(N)]}), folder / "rows.parquet")
    config = hf.VideoMAEConfig(**SIZE, image_size=16, patch_size=8, num_frames=4, tubelet_size=2, **THREE)
    front = {"image_processor_type": "VideoMAEImageProcessor", "size": {"height": 16, "width": 16}}
    front["crop_size"] = {"height": 16, "width": 16}
    return save(folder / "model", hf.VideoMAEForVideoClassification(config), front), folder / "rows.parquet"


def boxes(folder: Path) -> tuple[str, Path]:
    cells = [{"bytes": png(i)[: 60 if i in BAD else None], "path": None} for i in range(N)]
    marks = [{"bbox": [[1.0, 2.0, 5.0, 6.0]], "category": [i % 2]} for i in range(N)]
    pq.write_table(pa.table({"image": cells, "objects": marks}), folder / "rows.parquet")
    settings = {**SIZE, "image_size": [16, 16], "patch_size": 8, "num_detection_tokens": 4}
    model = hf.YolosForObjectDetection(hf.YolosConfig(**settings, id2label={0: "a", 1: "b"}))
    front = {"image_processor_type": "YolosImageProcessor", "size": {"height": 16, "width": 16}}
    return save(folder / "model", model, front), folder / "rows.parquet"


@pytest.mark.parametrize("make", [images, sounds, videos, boxes], ids=lambda make: make.__name__)
def test_damaged_rows_are_named_or_left_out_and_counted(make: Make, tmp_path: Path):
    model, data = make(tmp_path)
    sizes = {"calibration": 18, "holdout": 18}
    with pytest.raises(PruneSearchError) as caught:
        load_task(model, data, **sizes)
    line = str(caught.value)
    assert "\n" not in line
    assert any(line.startswith(f"row {i + 1} of '{data}': ") for i in BAD), line
    task = load_task(model, data, skip_bad=True, **sizes)
    assert task.calibration.n + task.holdout.n == N - len(BAD)
    (note,) = [note for note in task.notes if "skipped" in note]
    assert note.startswith("4 damaged rows were skipped: row ")
    assert note.endswith(" and 1 more")
    assert sum(f"row {i + 1} of '{data}' (" in note for i in BAD) == 3


def rows_left(task: Task) -> int:
    return task.calibration.n + task.holdout.n


def texts(n: int) -> list[dict[str, object]]:
    return [{"text": f"the {WORDS[i % len(WORDS)]} film w {i}", "label": i % 2} for i in range(n)]


def lines(name: str, broken: dict[int, str]) -> list[str]:
    """Lines of a file of 30 rows, some replaced."""
    rows = texts(30)
    if name.endswith(".jsonl"):
        return [broken.get(i) or json.dumps(row) for i, row in enumerate(rows)]
    mark = "\t" if name.endswith(".tsv") else ","
    return [f"text{mark}label", *(broken.get(i) or f"{row['text']}{mark}{row['label']}" for i, row in enumerate(rows))]


@pytest.mark.parametrize(
    ("name", "broken", "first"),
    [
        ("rows.csv", {3: "a, b, c", 9: "alone"}, "line 5"),
        ("rows.tsv", {3: "a\tb\tc", 9: "alone"}, "line 5"),
        ("rows.jsonl", {3: '{"text": "a", ', 9: "[1, 2]"}, "line 4"),
        ("rows.jsonl", {3: '{"text": 5, "label": 1}', 9: '{"text": ["x"], "label": 1}'}, "line 4"),
    ],
)
def test_rows_of_a_table_that_cannot_be_read(name: str, broken: dict[int, str], first: str, bert: str, tmp_path: Path):
    data = tmp_path / name
    data.write_text("\n".join(lines(name, broken)), encoding="utf-8")
    with pytest.raises(PruneSearchError, match=f"{first} of '{data}'") as caught:
        load_task(bert, data)
    assert "--skip-bad" in str(caught.value)
    task = load_task(bert, data, skip_bad=True)
    assert rows_left(task) == 28
    (note,) = [note for note in task.notes if "skipped" in note]
    assert note.startswith("2 rows ")
    assert f"{first} of '{data}', line" in note


def test_rows_after_those_that_were_skipped_keep_the_numbers_of_the_file(bert: str, tmp_path: Path):
    data = tmp_path / "rows.jsonl"
    rows = lines("rows.jsonl", {3: "broken"})
    rows[20] = json.dumps({"text": "the film", "label": [1]})
    data.write_text("\n".join(rows), encoding="utf-8")
    task = load_task(bert, data, skip_bad=True)
    assert any(f"line 4 of '{data}', line 21 of '{data}'" in note for note in task.notes)
    (tmp_path / "rows.csv").write_text("label,image\n1,a,b\n" + "\n".join(f"{i % 3},{i}.png" for i in range(12)))
    for i in range(12):
        (tmp_path / f"{i}.png").write_bytes(png(i)[: 50 if i == 5 else None])
    task = load_task(make_vit(tmp_path / "vit"), tmp_path / "rows.csv", skip_bad=True, calibration=6, holdout=6)
    assert any("row 7 of" in note for note in task.notes), task.notes  # the sixth that can be read
    assert rows_left(task) == 11


def test_nothing_is_left_is_said(tmp_path: Path):
    cells = [{"bytes": b"junk", "path": None} for _ in range(N)]
    pq.write_table(pa.table({"image": cells, "label": [i % 3 for i in range(N)]}), tmp_path / "rows.parquet")
    with pytest.raises(PruneSearchError, match=r"rows must be readable, but no calibration row is: row .* decoded"):
        load_task(make_vit(tmp_path / "model"), tmp_path / "rows.parquet", skip_bad=True)


def test_a_run_takes_it_and_goes_on_with_the_same_alone(tmp_path: Path):
    model, data = images(tmp_path)
    config = RunConfig(model=model, data=str(data), skip_bad=True, calibration=18, holdout=18)
    assert rows_left(make_setting(config).task) == N - len(BAD)
    assert rows_left(make_setting(config).task) == N - len(BAD)
    without = RunConfig(model=model, data=str(data), calibration=18, holdout=18)
    config.check_resumes(config.located().to_dict(), "s", tried=True)
    config.check_resumes(without.located().to_dict(), "s", tried=False)  # it was refused for a damaged row
    with pytest.raises(PruneSearchError, match="begun with skip_bad=False, but got True"):
        config.check_resumes(without.located().to_dict(), "s", tried=True)
