import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.sources import load_source
from tests.support.paths import ASSETS, needs_assets
from tests.support.tiny import png

AGNEWS = ASSETS / "text" / "agnews_dev.tsv"


def only(path: Path):
    return load_source(str(path)).splits["all"]


def test_tsv_without_header_and_with_loose_quotes(tmp_path: Path):
    path = tmp_path / "a.tsv"
    path.write_text('He said "no.\tbad\nA fine, fine film\tgood\n"Yes" she said\tgood\n')
    source = load_source(str(path))
    rows = source.splits["all"]
    assert rows["text"][:] == ['He said "no.', "A fine, fine film", '"Yes" she said']
    assert rows["label"][:] == ["bad", "good", "good"]
    assert "no header" in source.notes[0]


@pytest.mark.parametrize("header", ["sentence\tlabel", "zeile\tart"])
def test_tsv_with_header(tmp_path: Path, header: str):
    path = tmp_path / "a.tsv"
    path.write_text(f"{header}\nfilm\t1\nplay\t0\nact\t1\n")
    rows = only(path)
    assert rows.column_names == header.split("\t")
    assert len(rows) == 3


def test_header_is_not_seen_in_short_texts_whose_label_comes_again(tmp_path: Path):
    path = tmp_path / "a.tsv"
    path.write_text("nice film\tgood\nawful\tbad\nfine\tgood\n")
    assert only(path)["label"][:] == ["good", "bad", "good"]


@needs_assets("text/agnews_dev.tsv")
def test_real_agnews_has_every_line():
    rows = only(AGNEWS)
    assert len(rows) == len(AGNEWS.read_text(encoding="utf-8").strip().split("\n"))
    assert set(rows["label"][:]) == {"World", "Sports", "Business", "Sci/Tech"}


def test_csv_with_quotes_jsonl_json_and_parquet_agree(tmp_path: Path):
    rows = [{"text": 'a, "b"', "label": "x"}, {"text": "c\nd", "label": "y"}]
    (tmp_path / "a.csv").write_text('text,label\n"a, ""b""",x\n"c\nd",y\n')
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.csv", "a.jsonl", "a.json", "a.parquet"):
        assert list(only(tmp_path / name)) == rows, name


def test_class_folders_and_split_folders(tmp_path: Path):
    for split in ("train", "test"):
        for k, name in enumerate(["frog", "cat"]):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            (folder / "1.png").write_bytes(png(k))
    source = load_source(str(tmp_path))
    assert set(source.splits) == {"train", "test"}
    rows = load_source(str(tmp_path / "train")).splits["all"]
    assert rows["label"][:] == ["cat", "frog"]


def test_saved_by_datasets(tmp_path: Path):
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    rows.save_to_disk(str(tmp_path / "one"))
    DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "many"))
    assert list(load_source(str(tmp_path / "one")).splits) == ["all"]
    assert list(load_source(str(tmp_path / "many")).splits) == ["train", "test"]


def test_folder_of_data_files_goes_through_datasets(tmp_path: Path):
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "train.csv").write_text("text,label\na,1\nb,0\n")
    (folder / "test.csv").write_text("text,label\nc,1\n")
    source = load_source(str(folder))
    assert {name: len(rows) for name, rows in source.splits.items()} == {"train": 2, "test": 1}


def test_folder_of_mixed_files_is_one_line(tmp_path: Path):
    (tmp_path / "train.csv").write_text("text,label\na,1\n")
    (tmp_path / "test.jsonl").write_text('{"text": "a", "label": 1}')
    with pytest.raises(PruneSearchError, match="give one of its files") as caught:
        load_source(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_two_files_are_calibration_and_holdout(tmp_path: Path):
    for name, n in (("a", 2), ("b", 3)):
        pq.write_table(pa.table({"text": ["t"] * n, "label": [0] * n}), tmp_path / f"{name}.parquet")
    source = load_source(f"{tmp_path / 'a.parquet'}, {tmp_path / 'b.parquet'}")
    assert {name: len(rows) for name, rows in source.splits.items()} == {"calibration": 2, "holdout": 3}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.parquet", None, "no file or folder"),
        ("nowhere/at/all", None, "no file or folder"),
        ("a.parquet", b"not parquet", "cannot be read as parquet"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"text,label\n", "is empty"),
        ("a.xlsx", b"x", "known extension.*Known: .conll, .csv"),
        ("a.parqet", b"x", "did you mean '.parquet'"),
        ("a.tsv", b"a long text\tx\nb\n", "line 2 .* has 1"),
        ("a.csv", b"\xff\xfe\x00", "must be in UTF-8, but byte 1 of"),
        ("a.csv", "text,label\ncaf\xe9,1".encode("latin-1"), "must be in UTF-8, but byte 15 of"),
        ("a.jsonl", b'{"a": 1}\n{"a": 2, "a": 3}', "line 2 of .* is not JSON .the key 'a' comes twice"),
        ("a.json", b'[{"a": 1}, {"a": {"b": 1, "b": 2}}]', "a.json' cannot be read as json: the key 'b' comes twice"),
        ("a.jsonl", b'{"a": 1}\n{"a"', "line 2"),
        ("a.jsonl", b"3\n", "JSON object"),
    ],
)
def test_one_line_errors(tmp_path: Path, name: str, content: bytes | None, message: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PruneSearchError, match=message) as caught:
        load_source(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_empty_folder_and_too_many_files(tmp_path: Path):
    with pytest.raises(PruneSearchError, match="class folders"):
        load_source(str(tmp_path))
    with pytest.raises(PruneSearchError, match="at most two"):
        load_source("a.csv,b.csv,c.csv")


def test_hub_failure_is_one_line():
    seen = []

    def refuse(*args):
        seen.append(args)
        raise ConnectionError("offline\nand a second line")

    with pytest.raises(PruneSearchError, match=r"could not be loaded \(offline\): check the name"):
        load_source("nyu-mll/glue:sst2", fetch=refuse)
    assert seen == [("nyu-mll/glue", "sst2")]
