"""Question answering: the SQuAD v1.1 script judges the metrics, transformers the answers."""

import json
import random
import re
import string
from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny import WORDS, make_bert
from transformers import AutoTokenizer, BertForQuestionAnswering

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.schedule import Schedule, Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.evaluate import Evaluator
from prunesearch.tasks import load_task
from prunesearch.tasks.metrics import find_metric
from prunesearch.tasks.qa import LONGEST_ANSWER, best_spans, references

HALF = Schedule([Stage(0, 0.5, "value_norm", "drop")])


# The official evaluate-v1.1.py of SQuAD (Rajpurkar et al. 2016), the judge.
def normalize_answer(s):
    def remove_articles(text):
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def white_space_fix(text):
        return " ".join(text.split())

    def remove_punc(text):
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    return white_space_fix(remove_articles(remove_punc(s.lower())))


def squad_f1(prediction, ground_truth):
    prediction_tokens = normalize_answer(prediction).split()
    ground_truth_tokens = normalize_answer(ground_truth).split()
    common = Counter(prediction_tokens) & Counter(ground_truth_tokens)
    num_same = sum(common.values())
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(prediction_tokens)
    recall = 1.0 * num_same / len(ground_truth_tokens)
    return (2 * precision * recall) / (precision + recall)


SAID = ["The good film!", "a story", "of love", "", "war, it was", "dull dull bright"]
TRUE = [["good film", "film"], ["the Story."], ["hate"], ["war"], ["was it a war"], ["bright dull", "story"]]


def test_the_metrics_are_those_of_the_squad_script():
    f1, exact = find_metric("answer_f1"), find_metric("exact_match")
    want = [max(squad_f1(said, t) for t in true) for said, true in zip(SAID, TRUE, strict=True)]
    assert f1.statistics(SAID, TRUE).flatten().tolist() == pytest.approx(want)
    same = [
        max(normalize_answer(said) == normalize_answer(t) for t in true) for said, true in zip(SAID, TRUE, strict=True)
    ]
    assert exact.statistics(SAID, TRUE).flatten().tolist() == same
    assert 0 < sum(same) < len(same)


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bert(tmp_path_factory.mktemp("qa"), BertForQuestionAnswering, initializer_range=0.5)


def row(seed: int, words: int = 12) -> dict:
    chance = random.Random(seed)
    context = " ".join(chance.choices(WORDS, k=words)) + f" w{seed % 10}"
    answer = " ".join(context.split()[2:4])
    question = " ".join(chance.choices(WORDS, k=4))
    start = context.index(answer)
    return {"question": question, "context": context, "answers": {"text": [answer], "answer_start": [start]}}


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_answers_are_those_of_transformers_and_pruning_shows(answerer: str, tmp_path: Path):
    task = load_task(answerer, write(tmp_path / "a.jsonl", [row(i) for i in range(40)]), quiet=True)
    assert (task.name, task.metric) == ("question-answering", "answer_f1")
    model, tokenizer = (
        BertForQuestionAnswering.from_pretrained(answerer).eval(),
        AutoTokenizer.from_pretrained(answerer),
    )
    batch = task.holdout.batches[0]
    said = task.answers(task.outputs(batch), batch)
    for answer, question, ids, mask in zip(
        said, batch.labels, batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True
    ):
        ids = ids[: int(mask.sum())]
        types = (torch.cumsum(ids == tokenizer.sep_token_id, 0) > 0).long().roll(1)
        types[0] = 0
        with torch.no_grad():
            found = model(input_ids=ids[None], token_type_ids=types[None])
        places = range(question.first, question.first + len(question.spans))
        pairs = [(i, j) for i in places for j in places if i <= j < i + LONGEST_ANSWER]
        i, j = max(pairs, key=lambda p: float(found.start_logits[0, p[0]] + found.end_logits[0, p[1]]))
        want = question.context[question.spans[i - question.first][0] : question.spans[j - question.first][1]]
        assert answer == want
        pieces = tokenizer.convert_ids_to_tokens(ids[i : j + 1].tolist())
        assert want.replace(" ", "") == "".join(piece.removeprefix("##") for piece in pieces)
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        unpruned, again, pruned = evaluator.unpruned(), evaluator.evaluate(Schedule()), evaluator.evaluate(HALF)
    assert torch.equal(unpruned.statistics, again.statistics)
    assert again.loss == pytest.approx(0, abs=1e-6)
    assert (again.agreement, pruned.loss > 1e-3) == (1.0, True)
    assert 0 < pruned.agreement < 1


def test_the_best_span_is_found_by_looking_at_all():
    torch.manual_seed(0)
    start, end = torch.randn(20, 50), torch.randn(20, 50)
    found = best_spans({"start": start, "end": end})
    for k in range(20):
        pairs = [(i, j) for i in range(50) for j in range(i, min(50, i + LONGEST_ANSWER))]
        assert tuple(found[k].tolist()) == max(pairs, key=lambda p: float(start[k, p[0]] + end[k, p[1]]))


def test_forms_of_data(answerer: str, tmp_path: Path):
    rows = [row(i) for i in range(30)]
    paragraphs = [
        {
            "context": r["context"],
            "qas": [
                {
                    "question": r["question"],
                    "id": str(i),
                    "answers": [{"text": r["answers"]["text"][0], "answer_start": r["answers"]["answer_start"][0]}],
                }
            ],
        }
        for i, r in enumerate(rows)
    ]
    own = tmp_path / "squad.json"
    own.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    flat = write(tmp_path / "flat.jsonl", rows)
    tasks = [load_task(answerer, path, quiet=True) for path in (own, flat)]
    said = [[q.references for b in task.holdout.batches for q in b.labels] for task in tasks]
    assert said[0] == said[1]
    assert references("x") == references(["x"]) == references({"text": ["x"]}) == references([{"text": "x"}]) == ["x"]
    assert references(None) == references({"text": []}) == []


def test_long_contexts_are_cut_and_unanswerable_questions_left_out(answerer: str, tmp_path: Path):
    rows = [row(i, words=60 if i < 3 else 10) for i in range(30)]
    rows[5]["answers"] = {"text": [], "answer_start": []}
    task = load_task(answerer, write(tmp_path / "a.jsonl", rows), calibration=9, holdout=20, quiet=True)
    assert any("3 contexts fill the 40 tokens" in note for note in task.notes)
    assert any("1 questions without an answer" in note for note in task.notes)
    assert task.timing_inputs(2)["input_ids"].shape == (2, task.tokens)
    with pytest.raises(PruneSearchError, match="needs the columns question, context and answers"):
        load_task(answerer, write(tmp_path / "b.jsonl", [{"question": "a", "context": "b"}] * 3), quiet=True)
    for r in rows:
        r["question"] = " ".join(WORDS * 4)
    with pytest.raises(PruneSearchError, match="must leave room for its context"):
        load_task(answerer, write(tmp_path / "c.jsonl", rows), quiet=True)
