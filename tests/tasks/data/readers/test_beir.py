"""Retrieval from a folder in BEIR's form: pools looked up by hand, nDCG by scikit-learn over single texts."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from sklearn.metrics import ndcg_score
from transformers import AutoTokenizer, BertModel

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from prunesearch.tasks.data.readers.beir import POOL, is_beir, read_beir
from tests.support.some import some
from tests.support.tiny import make_bert, sentence

HALF = Schedule([Stage(0, 0.5, "value_norm", "nearest")])
CORPUS = {f"d{i}": {"title": f"w{i}" if i % 2 else "", "text": sentence(i)} for i in range(60)}
QUERIES = {f"q{i}": sentence(5000 + i) for i in range(24)}
# of every query three documents are judged, one of them not to answer it
QRELS = {
    "dev": [(f"q{i}", f"d{(7 * i + k) % 60}", k) for i in range(12) for k in (0, 1, 2)],
    "test": [(f"q{i}", f"d{(7 * i + k) % 60}", k) for i in range(12, 24) for k in (0, 1, 2)],
}


def write(folder: Path, corpus=CORPUS, queries=QUERIES, qrels=QRELS) -> Path:
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": name, **document}) for name, document in corpus.items()]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"_id": name, "text": text, "metadata": {}}) for name, text in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines))
    for split, rows in qrels.items():
        table = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in rows)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(table) + "\n")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bert(tmp_path_factory.mktemp("encoder"), BertModel, initializer_range=0.4)


def text_of(name: str) -> str:
    return f"{CORPUS[name]['title']} {CORPUS[name]['text']}".strip()


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def slow_score(query: str, document: str, documents: list[str]) -> float:
    """Robertson and Zaragoza 2009, equation 3.15, with Lucene's idf, k1 = 0.9 and b = 0.4; one word at a time."""
    split = [words(d) for d in documents]
    average = sum(map(len, split)) / len(split)
    mine, total = words(document), 0.0
    for word in words(query):
        tf = mine.count(word)
        holding = sum(word in d for d in split)
        idf = math.log(1 + (len(split) - holding + 0.5) / (holding + 0.5))
        total += idf * tf / (tf + 0.9 * (1 - 0.4 + 0.4 * len(mine) / average))
    return total


def test_an_id_of_two_texts_is_refused(tmp_path: Path):
    for name in ("queries", "corpus"):
        folder = write(tmp_path / name)
        file = folder / f"{name}.jsonl"
        lines = [line for line in file.read_text().split("\n") if line]
        file.write_text("\n".join([*lines, lines[0]]))  # the same text twice does no harm
        assert read_beir(folder)[0]
        file.write_text("\n".join([*lines, json.dumps(json.loads(lines[0]) | {"text": "something else"})]))
        with pytest.raises(CorruptFileError, match=rf"every `_id` must be of one text, but '.*' of '{file}' is of two"):
            read_beir(folder)


def test_a_pool_is_what_answers_and_the_nearest_of_the_others(tmp_path: Path):
    splits, notes = read_beir(write(tmp_path / "b"))
    assert {name: len(rows) for name, rows in splits.items()} == {"dev": 12, "test": 12}
    assert any(f"{POOL} documents a query, out of 60:" in note for note in notes)
    texts = [text_of(name) for name in CORPUS]
    by_query = {text: name for name, text in QUERIES.items()}
    placed = []
    for split, rows in splits.items():
        for row in some(rows):
            gains = {text_of(d): g for q, d, g in QRELS[split] if q == by_query[row["query"]]}
            found = dict(zip(row["documents"], row["relevance"], strict=True))
            assert len(found) == POOL
            assert found == {document: gains.get(document, 0) for document in found}
            assert {document for document, gain in gains.items() if gain} <= set(found)
            by_score = {text: slow_score(row["query"], text, texts) for text in texts}
            others = [by_score[d] for d in found if not gains.get(d)]
            left = [by_score[t] for t in texts if t not in found]
            assert min(others) >= max(left) - 1e-9
            placed.append(row["relevance"].index(2))
    assert len(set(placed)) > 6  # what answers is not put first, where ties would favour it


def test_a_folder_is_a_retrieval_task_and_ndcg_is_that_of_single_texts(encoder: str, tmp_path: Path):
    task = load_task(encoder, write(tmp_path / "b"), calibration=8, holdout=12)
    assert (task.name, task.metric) == ("text-retrieval", "ndcg10")
    assert (task.calibration.n, task.holdout.n) == (8, 12)
    assert any("BEIR folder" in note for note in task.notes)
    assert any("calibration rows come from the split 'dev', holdout rows from 'test'" in note for note in task.notes)
    model, tokenizer = BertModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)

    def vector(text: str) -> torch.Tensor:
        given = tokenizer(text, return_tensors="pt", truncation=True, max_length=40)
        with torch.no_grad():
            return model(**given).last_hidden_state[0].mean(0)

    rows = read_beir(tmp_path / "b")[0]["test"]
    want = []
    for row in rows:
        query = vector(row["query"])
        scores = [float(torch.cosine_similarity(query, vector(d), dim=0)) for d in row["documents"]]
        want.append(ndcg_score([row["relevance"]], [scores], k=10))
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        unpruned, pruned = evaluator.unpruned(), evaluator.evaluate(HALF)
    assert sorted(unpruned.statistics.flatten().tolist()) == pytest.approx(sorted(want), abs=1e-4)
    assert min(want) < max(want)
    assert pruned.loss > 1e-3


def test_what_is_too_much_is_drawn_and_said(tmp_path: Path):
    few = {"most_queries": 5, "most_documents": 20}
    qrels = {"test": [*QRELS["dev"], ("q1", "gone", 1), ("q23", "gone", 1), ("nobody", "d1", 1)]}
    folder = write(tmp_path / "b", qrels={"test": QRELS["dev"]})
    splits, notes = read_beir(folder, **few)
    assert len(splits["test"]) == 5
    assert any("5 of the 12 queries of 'test' were drawn" in note for note in notes)
    assert any("out of 60, " in note and "of them drawn" in note for note in notes)
    for row in splits["test"]:
        assert sorted(row["relevance"])[-2:] == [1, 2]  # what is judged is never left out
    assert read_beir(folder, **few)[0]["test"].to_list() == splits["test"].to_list()
    splits, notes = read_beir(write(tmp_path / "c", qrels=qrels))
    assert len(splits["test"]) == 12
    assert any("2 queries that no document answers were left out" in note for note in notes)


def test_ten_answers_are_as_many_as_the_metric_sees(tmp_path: Path):
    qrels = {"test": [("q0", f"d{i}", 1 + (i >= 30)) for i in range(40)] + [("q1", "d0", 1), ("q1", "d1", -1)]}
    rows = read_beir(write(tmp_path / "b", qrels=qrels))[0]["test"]
    many, one = rows
    assert sorted(many["relevance"]) == [0] * 20 + [2] * 10  # the whole corpus has but 20 others
    assert (len(one["documents"]), sorted(one["relevance"])) == (POOL, [0] * (POOL - 1) + [1])


def test_qrels_as_json_lines_and_tables_without_a_header(tmp_path: Path):
    plain = read_beir(write(tmp_path / "a"))[0]["test"].to_list()
    folder = write(tmp_path / "b", qrels={})
    assert not is_beir(folder)
    names = ("query-id", "corpus-id", "score")
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in QRELS["test"]]
    (folder / "qrels" / "test.jsonl").write_text("\n".join(lines))
    assert is_beir(folder)
    as_lines = read_beir(folder)[0]["test"].to_list()
    (folder / "qrels" / "test.tsv").write_text("\n".join("\t".join(map(str, row)) for row in QRELS["test"]))
    without = read_beir(folder)[0]["test"].to_list()
    # pools are shuffled by one generator, so the order within them is not that of a folder with two splits
    sets = [
        [(r["query"], {*zip(r["documents"], r["relevance"], strict=True)}) for r in rows] for rows in (plain, as_lines)
    ]
    assert sets[0] == sets[1]
    assert as_lines == without


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("corpus.jsonl", '{"_id": "d1"}\n', "must be a JSON object with _id, text, but line 1"),
        ("queries.jsonl", '{"_id": "q1", "text": "a"}\nnot json', "but line 2 is 'not json'"),
        (
            "qrels/test.tsv",
            "query-id\tcorpus-id\tscore\nq1\td1\tgood",
            "a document's id and a number, but one is 'q1 d1",
        ),
        (
            "qrels/dev.jsonl",
            '{"query-id": "q1", "corpus-id": "d1", "score": null}',
            "a number, but one is 'q1 d1 None'",
        ),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td99\t1", "queries must have a document that answers them"),
        ("corpus.jsonl", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_what_does_not_fit_is_one_line(name: str, content: str | bytes, message: str, encoder: str, tmp_path: Path):
    folder = write(tmp_path / "b", qrels={"test": QRELS["test"]})
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(PruneSearchError, match=message) as error:
        load_task(encoder, folder)
    assert "\n" not in str(error.value)
    if "answers" not in message and "read" not in message:
        assert isinstance(error.value, CorruptFileError)


def test_documents_without_a_word_of_the_query_are_drawn_not_taken_from_the_top_of_the_file(tmp_path: Path):
    corpus = {f"d{i}": {"text": f"Über{i} x"} for i in range(80)}
    folder = write(tmp_path / "b", corpus, {"q0": "nothing"}, {"test": [("q0", "d3", 1)]})
    (first,), (again,) = (read_beir(folder)[0]["test"] for _ in range(2))
    assert first["documents"] == again["documents"]
    numbers = {int(re.findall(r"\d+", text)[0]) for text in first["documents"]}
    assert len(numbers) == POOL
    assert max(numbers) > POOL + 10
    found = read_beir(write(tmp_path / "c", corpus, {"q0": "ÜBER77?"}, {"test": [("q0", "d3", 1)]}))[0]["test"][0]
    assert "Über77 x" in found["documents"]  # words are of any script, in any case, without their punctuation


def test_a_corpus_without_words_is_one_line(tmp_path: Path):
    folder = write(tmp_path / "b", {"d0": {"text": "!"}, "d1": {"text": "?"}}, {"q0": "x"}, {"test": [("q0", "d0", 1)]})
    with pytest.raises(PruneSearchError, match="documents must have words"):
        read_beir(folder)
