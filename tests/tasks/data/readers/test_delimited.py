"""Headers and delimiters as people's files have them: the judge is what the file was written from."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.readers.delimited import TextTable
from prunesearch.tasks.data.sources import load_source

TEXTS = ["a fine film", "dull, very dull", "what a bore"]
LABELS = ["good", "bad", "bad"]


def write(path: Path, header: list[str] | None, columns: list[list[str]], delimiter: str = ",") -> str:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows(([header] if header else []) + [list(row) for row in zip(*columns, strict=True)])
    return str(path)


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (["", "text", "label"], ["unnamed_0", "text", "label"]),  # pandas' index
        (["v1", "v2", "", "", ""], ["v1", "v2", "unnamed_2", "unnamed_3", "unnamed_4"]),  # spam.csv of Kaggle
        (["Review (raw)", "Stars [1-5]"], None),
        (["What was said?", "Spam?"], None),
        (["the_review_that_a_customer_wrote_about_the_product", "y"], None),
        (["text", "text"], ["text", "text.1"]),
        (["q1_text", "Überschrift"], None),
        (["2019 text", "#"], None),
        (["$text", "@label"], None),
        (["No.", "comment"], None),
        (["text'", '"label"'], None),
        (["0", "1"], None),  # pandas' numbers of columns
    ],
)
def test_a_first_row_is_a_header_unless_it_cannot_be_one(header: list[str], names: list[str] | None, tmp_path: Path):
    columns = [TEXTS, LABELS, ["", "", ""], ["", "", ""], ["", "", ""]][: len(header)]
    if header[0] == "":
        columns = [["0", "1", "2"], TEXTS, LABELS]
    found = load_source(write(tmp_path / "a.csv", header, columns)).splits["all"]
    assert found.column_names == (names or header)
    assert found[found.column_names[0]][:] == columns[0]


@pytest.mark.parametrize(
    "columns",
    [
        [TEXTS, [*LABELS[1:], "bad"]],  # a label that comes again
        [["I did not like it at all.", *TEXTS[1:]], LABELS],
        [["x" * 300, *TEXTS[1:]], LABELS],
        [["1", "0", "1"], TEXTS],
        [["3.5", "-1", "2e3"], TEXTS],
        [["a/1.png", "a/2.png", "a/3.png"], LABELS],
    ],
)
def test_a_first_row_of_values_is_none(columns: list[list[str]], tmp_path: Path):
    source = load_source(write(tmp_path / "a.csv", None, columns))
    assert len(source.splits["all"]) == 3
    assert "no header" in source.notes[0]


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
def test_the_delimiter_is_found_though_texts_have_commas(delimiter: str, tmp_path: Path):
    texts = [f"{text}, you, {i}" * (i + 1) for i, text in enumerate(TEXTS)]
    rows = load_source(write(tmp_path / "a.csv", ["text", "label"], [texts, LABELS], delimiter)).splits["all"]
    assert rows["text"][:] == texts
    assert rows["label"][:] == LABELS


def test_what_the_user_says_wins(tmp_path: Path):
    twice = write(tmp_path / "a.csv", ["bad", "x"], [["good", "bad", "bad"], TEXTS])  # "bad" looks like a label
    assert "no header" in load_source(twice).notes[0]
    assert load_source(twice, TextTable(columns=["bad"])).splits["all"].column_names == ["bad", "x"]
    assert load_source(twice, TextTable(header=True)).splits["all"].column_names == ["bad", "x"]
    named = write(tmp_path / "b.csv", ["text", "label"], [TEXTS, LABELS])
    assert len(load_source(named, TextTable(header=False)).splits["all"]) == 4
    odd = write(tmp_path / "c.csv", ["text", "label"], [TEXTS, LABELS], "~")
    assert load_source(odd, TextTable(delimiter="~")).splits["all"].column_names == ["text", "label"]
    with pytest.raises(PruneSearchError, match="one character, but got ';;'"):
        TextTable(delimiter=";;")


def test_a_header_that_nothing_proves_is_said(tmp_path: Path):
    source = load_source(write(tmp_path / "a.csv", ["zeile", "art"], [TEXTS, LABELS]))
    assert "taken for a header (zeile, art)" in source.notes[0]
    assert load_source(write(tmp_path / "b.csv", ["text", "art"], [TEXTS, LABELS])).notes == []


def test_cells_of_several_lines_and_odd_line_ends_stay_whole(tmp_path: Path):
    texts = ["one\ntwo", "a\u2028b\x0bc", "end"]
    rows = load_source(write(tmp_path / "a.csv", ["text", "label"], [texts, LABELS])).splits["all"]
    assert rows["text"][:] == texts
