"""Cells that are no texts: refused by row, or left out and counted, in every file format alike."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from transformers import BartConfig, BartForConditionalGeneration, BertForQuestionAnswering, BertModel

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks import load_task
from prunesearch.tasks.base import Task
from prunesearch.tasks.data.columns import Columns
from prunesearch.tasks.data.usable import lists_of_texts, texts_of, without_gaps
from tests.support.tiny import WORDS, make_bert, make_tokenizer

FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", "folder")
TYPED = FORMATS[2:]
N = 30
Rows = list[dict[str, Any]]


def write(folder: Path, kind: str, rows: Rows) -> Path:
    """The same rows in a file of one format, or a folder of `datasets`; None is an empty cell."""
    path = folder / f"rows.{kind}"
    if kind in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            out.writeheader()
            out.writerows(rows)
    elif kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        Dataset.from_list(rows).save_to_disk(str(path))
    return path


def texts(changed: dict[int, Any] | None = None, **all_of: Any) -> Rows:
    """Rows of texts and labels, some with another text."""
    made = [{"text": f"the {WORDS[i % 15]} film {WORDS[i % 7]} w {WORDS[i // 2]}", "label": i % 2} for i in range(N)]
    for i, cell in (changed or {}).items():
        made[i]["text"] = cell
    return [row | {name: value(i) for name, value in all_of.items()} for i, row in enumerate(made)]


def used(task: Task) -> int:
    return task.calibration.n + task.holdout.n


@pytest.mark.parametrize("kind", FORMATS)
def test_missing_texts_are_left_out_and_counted(kind: str, bert: str, tmp_path: Path):
    """What a table has for "nothing": no cell, an empty one, blanks."""
    task = load_task(bert, write(tmp_path, kind, texts({3: None, 8: "", 20: "  "})))
    assert used(task) == N - 3
    assert "3 rows of 'all' with an empty cell were left out (3 of 'text')" in task.notes


@pytest.mark.parametrize("kind", FORMATS)
def test_missing_labels_are_left_out_and_counted(kind: str, bert: str, tmp_path: Path):
    rows = texts()
    for i in (1, 9):
        rows[i]["label"] = None
    if kind in ("csv", "tsv"):
        rows[17]["label"] = "NaN"
    elif kind in ("parquet", "folder"):
        rows = [
            row | {"label": math.nan if i == 17 else row["label"] and float(row["label"])} for i, row in enumerate(rows)
        ]
        rows = [row | {"label": None if row["label"] is None else float(row["label"])} for row in rows]
    else:
        rows[17]["label"] = -1
    task = load_task(bert, write(tmp_path, kind, rows))
    assert used(task) == N - 3
    assert "3 rows of 'all' without a label were left out" in task.notes


@pytest.mark.parametrize("kind", TYPED)
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda i: [WORDS[i % 15], "film"], "a list"),
        (lambda i: {"en": WORDS[i % 15]}, "a dictionary"),
        (lambda i: i, "a number"),
        (lambda i: i / 2 + 0.25, "a number"),
    ],
    ids=["list", "dictionary", "number", "fraction"],
)
def test_a_text_is_a_text_in_every_format_with_types(kind: str, value: Any, said: str, bert: str, tmp_path: Path):
    path = write(tmp_path, kind, texts(text=value))
    with pytest.raises(
        PruneSearchError, match=rf"column 'text' must hold texts, but row \d+ of .* has {said}"
    ) as caught:
        load_task(bert, path, columns={"text": "text"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_column_of_numbers_is_not_taken_for_texts(kind: str, bert: str, tmp_path: Path):
    rows = texts(text=lambda i: f"{i * 7}.5")
    with pytest.raises(
        PruneSearchError, match=r"'text' of .* holds numbers alone \('0.5'\): name .* columns text=NAME"
    ):
        load_task(bert, write(tmp_path, kind, rows))
    more = [row | {"number": row["text"], "said": good["text"]} for row, good in zip(rows, texts(), strict=True)]
    task = load_task(bert, write(tmp_path, kind, more))
    assert "columns: text=said, label=label" in task.notes


def test_texts_that_are_numbers_are_taken_where_the_user_names_them(tmp_path: Path):
    path = write(tmp_path, "csv", texts(text=lambda i: f"{i}"))
    with pytest.raises(PruneSearchError, match=r"tokens .* unknown|unknown"):  # the tiny tokenizer has no digits
        load_task(make_bert(tmp_path / "m", BertModel), path, columns={"text": "text"})


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bart")
    size = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "max_position_embeddings": 40}
    heads = {
        f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("attention_heads", 2), ("ffn_dim", 32))
    }
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}
    config = BartConfig(vocab_size=make_tokenizer(folder), **size, **heads, **special, forced_eos_token_id=None)
    BartForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", TYPED)
@pytest.mark.parametrize(
    ("value", "said"),
    [(lambda i: [WORDS[i % 15]], "a list"), (lambda i: {"de": "film"}, "a dictionary"), (lambda i: i, "a number")],
    ids=["list", "dictionary", "number"],
)
def test_a_reference_is_a_text(kind: str, value: Any, said: str, writer: str, tmp_path: Path):
    rows = [{"document": row["text"], "summary": value(i)} for i, row in enumerate(texts())]
    with pytest.raises(PruneSearchError, match=rf"column 'summary' must hold texts, but row \d+ of .* has {said}"):
        load_task(writer, write(tmp_path, kind, rows), task="summarization")


@pytest.mark.parametrize("kind", FORMATS)
def test_missing_references_are_left_out_and_counted(kind: str, writer: str, tmp_path: Path):
    rows = [{"document": row["text"], "summary": None if i % 10 == 4 else "the film"} for i, row in enumerate(texts())]
    task = load_task(writer, write(tmp_path, kind, rows), task="summarization")
    assert used(task) == N - 3
    assert "3 rows of 'all' with an empty cell were left out (3 of 'summary')" in task.notes


def test_questions_keep_the_numbers_of_the_file(tmp_path: Path):
    """Rows without an answer are dropped before others are read: what is wrong with these is said by the file's row."""
    rows = [
        {
            "question": ["x"] if i == 21 else ["which"],
            "context": f"the good film {WORDS[i % 15]} w {WORDS[i // 2]}",
            "answers": [] if i % 2 == 0 else ["film"],
        }
        for i in range(N)
    ]
    path = tmp_path / "qa.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    model = make_bert(tmp_path / "m", BertForQuestionAnswering)
    with pytest.raises(PruneSearchError, match=r"column 'question' must hold texts, but row (\d+) of") as caught:
        load_task(model, path)
    assert int(str(caught.value).split(" but row ")[1].split()[0]) % 2 == 0  # counted from 1
    only = [
        row | {"question": "which film", "context": None if i == 21 else row["context"]} for i, row in enumerate(rows)
    ]
    path.write_text("\n".join(map(json.dumps, only)))
    task = load_task(model, path)
    assert used(task) == N // 2 - 1
    assert "15 questions without an answer were left out" in task.notes
    assert "1 rows of 'all' with an empty cell were left out (1 of 'context')" in task.notes


def test_which_rows_have_a_cell_in_every_column():
    cells = {
        "text": ["a", None, " ", "b", "c", "nan"],
        "other": [1.0, 2.0, 3.0, float("nan"), 5.0, None],
        "image": [{"bytes": b"x", "path": None}, {"bytes": b"x", "path": ""}, None, {"bytes": None, "path": None}]
        + [{"bytes": None, "path": "a.png"}] * 2,
    }
    rows = Dataset.from_dict(cells)
    there, gone = without_gaps(rows, Columns(None, text="text"), [])
    assert there.tolist() == [True, False, False, True, True, True]
    assert gone == {"text": 2}  # a text may say "nan"
    there, gone = without_gaps(rows, Columns(None, text="text"), ["other", "missing"])
    assert there.tolist() == [True, False, False, False, True, False]
    assert gone == {"text": 2, "other": 2}
    there, gone = without_gaps(rows, Columns(None, image="image"), [])
    assert there.tolist() == [True, True, False, False, True, True]
    lists = Dataset.from_dict({"words": [["a"], [], None]})
    assert without_gaps(lists, Columns(None, text="words"), [])[0].tolist() == [True, False, False]


def test_what_is_said_of_cells():
    def name(place: int) -> str:
        return f"row {place + 1}"

    assert texts_of(["a", "b"], name, "t") == ["a", "b"]
    assert lists_of_texts([["a"], []], name, "t") == [["a"], []]
    for cell, said in ((None, "nothing"), (b"x", "bytes"), (np.float64(3), "a number"), (True, "true or false")):
        with pytest.raises(PruneSearchError, match=f"row 2 has {said}"):
            texts_of(["a", cell], name, "t")
        with pytest.raises(PruneSearchError, match=f"row 1 has {said}"):
            lists_of_texts([["a", cell]], name, "t")
