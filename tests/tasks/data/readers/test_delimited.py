"""Headers and delimiters as people's files have them: the judge is what the file was written from."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.readers.delimited import TextTable
from prunesearch.tasks.data.sources import load_source

TEXTS = ["a fine film", "dull, very dull", "what a bore"]
LABELS = ["good", "bad", "bad"]
ROWS = [(i, text, label) for i, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True), 1)]


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
        (["v1", "v2", "", "", ""], ["v1", "v2"]),  # spam.csv of Kaggle
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
        (["", "0", "1"], ["unnamed_0", "0", "1"]),  # and of rows
        (["message", "bad"], None),  # a column of labels that is called as one of them
        (["message"], None),
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
        [TEXTS, ["question", "remark", "question"]],  # one that is called as columns are
        [["good", "bad", "worse"], ["0", "1", "1"]],
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


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
def test_one_row_of_another_width_hides_no_delimiter(delimiter: str, tmp_path: Path):
    file = tmp_path / "a.csv"
    rows = [f"text, {i}" if delimiter != "," else f"text {i}" for i in range(20)]
    lines = [delimiter.join(["text", "label"]), *(delimiter.join([row, str(i % 2)]) for i, row in enumerate(rows))]
    file.write_text("\n".join([*lines[:7], delimiter.join(["a", "b", "1"]), *lines[7:]]))
    with pytest.raises(PruneSearchError, match=r"line 8 of '.*a.csv' has 3: fix that"):
        load_source(str(file))
    assert load_source(str(file), TextTable(skip_bad=True)).splits["all"]["text"][:] == rows


def test_what_the_user_says_wins(tmp_path: Path):
    # "bad" looks like a label, and "a film" like a text
    twice = write(tmp_path / "a.csv", ["bad", "a film"], [["good", "bad", "bad"], TEXTS])
    assert "no header" in load_source(twice).notes[0]
    assert load_source(twice, TextTable(columns=["bad"])).splits["all"].column_names == ["bad", "a film"]
    assert load_source(twice, TextTable(header=True)).splits["all"].column_names == ["bad", "a film"]
    named = write(tmp_path / "b.csv", ["text", "label"], [TEXTS, LABELS])
    assert len(load_source(named, TextTable(header=False)).splits["all"]) == 4
    odd = write(tmp_path / "c.csv", ["text", "label"], [TEXTS, LABELS], "~")
    assert load_source(odd, TextTable(delimiter="~")).splits["all"].column_names == ["text", "label"]
    with pytest.raises(PruneSearchError, match="one character, but got ';;'"):
        TextTable(delimiter=";;")


@pytest.mark.parametrize(
    "lines",
    [
        ["sep=;", "text;label", *(f"{t};{x}" for t, x in zip(TEXTS, LABELS, strict=True))],  # Excel's
        [
            '"text" "label"',
            *(f'"{i}" "{t}" "{x}"' for i, (t, x) in enumerate(zip(TEXTS, LABELS, strict=True), 1)),
        ],  # R's
        ["text,label", *(f'"{t}",{x},' for t, x in zip(TEXTS, LABELS, strict=True))],  # a delimiter too many
        ["text, label", *(f'"{t}", "{x}"' for t, x in zip(TEXTS, LABELS, strict=True))],
    ],
    ids=["sep", "row numbers", "ending", "blanks"],
)
def test_what_tools_put_beside_the_rows_is_none_of_them(lines: list[str], tmp_path: Path):
    (tmp_path / "a.csv").write_text("\n".join(lines))
    rows = load_source(str(tmp_path / "a.csv")).splits["all"]
    assert rows["text"][:] == TEXTS
    assert rows["label"][:] == LABELS


def test_a_comma_too_many_in_every_text_is_not_taken_for_a_column(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"fine, {t},{i}\n" for i, t in enumerate("abc")))
    with pytest.raises(PruneSearchError, match=r"must have 2 columns, but that of line 2 .* has 3"):
        load_source(str(tmp_path / "a.csv"))


def test_tables_that_were_put_together_have_their_header_once(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text,label\na b,0\nc d,1\ntext,label\ne f,1\n")
    source = load_source(str(tmp_path / "a.csv"))
    assert source.splits["all"]["text"][:] == ["a b", "c d", "e f"]
    assert source.notes == ["a.csv: the header comes again in line 4, and is no row there"]
    assert source.numbers["all"].tolist() == [0, 1, 3]


def test_a_tsv_whose_columns_are_set_apart_by_something_else(tmp_path: Path):
    rows = load_source(write(tmp_path / "a.tsv", ["text", "label"], [TEXTS, LABELS])).splits["all"]
    assert rows["text"][:] == TEXTS


def test_a_header_that_nothing_proves_is_said(tmp_path: Path):
    source = load_source(write(tmp_path / "a.csv", ["zeile", "art"], [TEXTS, LABELS]))
    assert "taken for a header (zeile, art)" in source.notes[0]
    assert load_source(write(tmp_path / "b.csv", ["text", "art"], [TEXTS, LABELS])).notes == []


def test_cells_of_several_lines_and_odd_line_ends_stay_whole(tmp_path: Path):
    texts = ["one\ntwo", "a\u2028b\x0bc", "end"]
    rows = load_source(write(tmp_path / "a.csv", ["text", "label"], [texts, LABELS])).splits["all"]
    assert rows["text"][:] == texts
