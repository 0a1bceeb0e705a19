"""Question answering: the SQuAD v1.1 script judges the metrics, transformers the answers."""

import json
import random
import re
import string
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from transformers import AutoTokenizer, BertForQuestionAnswering

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.finish.illustrate import illustrate
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from prunesearch.tasks.batching.batches import Batch
from prunesearch.tasks.kinds.qa import LONGEST_ANSWER, Answering, best_spans, references
from prunesearch.tasks.kinds.qa_windows import Question, Window
from prunesearch.tasks.metrics.metric import find_metric
from tests.support.some import some
from tests.support.tiny import WORDS, make_bert

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
    task = load_task(answerer, write(tmp_path / "a.jsonl", [row(i) for i in range(40)]))
    assert (task.name, task.metric) == ("question-answering", "answer_f1")
    model, tokenizer = (
        BertForQuestionAnswering.from_pretrained(answerer).eval(),
        AutoTokenizer.from_pretrained(answerer),
    )
    batch = task.holdout.batches[0]
    said = task.answers(task.outputs(task.model, batch), batch)
    for answer, question, ids, mask in zip(
        said, batch.labels, batch.inputs["input_ids"][:, 0], batch.inputs["attention_mask"][:, 0], strict=True
    ):
        ids, (window,) = ids[: int(mask.sum())], question.windows
        types = (torch.cumsum(ids == tokenizer.sep_token_id, 0) > 0).long().roll(1)
        types[0] = 0
        with torch.no_grad():
            found = model(input_ids=ids[None], token_type_ids=types[None])
        places = range(window.first, window.first + len(window.spans))
        pairs = [(i, j) for i in places for j in places if i <= j < i + LONGEST_ANSWER]
        i, j = max(pairs, key=lambda p: float(found.start_logits[0, p[0]] + found.end_logits[0, p[1]]))
        want = question.context[window.spans[i - window.first][0] : window.spans[j - window.first][1]]
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
    start, end = torch.randn(20, 3, 50), torch.randn(20, 3, 50)
    found = best_spans({"start": start, "end": end})
    places = [(w, i, j) for w in range(3) for i in range(50) for j in range(i, min(50, i + LONGEST_ANSWER))]
    for k in range(20):
        assert tuple(found[k].tolist()) == max(places, key=lambda p: float(start[k, p[0], p[1]] + end[k, p[0], p[2]]))


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
    tasks = [load_task(answerer, path) for path in (own, flat)]
    said = [[q.references for b in task.holdout.batches for q in b.labels] for task in tasks]
    assert said[0] == said[1]
    assert references("x") == references(["x"]) == references({"text": ["x"]}) == references([{"text": "x"}]) == ["x"]
    assert references(None) == references({"text": []}) == []


def slow_answer(model: BertForQuestionAnswering, tokenizer, r: dict, maximum: int, overlap: int) -> tuple[str, int]:
    """Windows cut by hand and read one at a time; the best answer, and the number of windows."""
    asked = tokenizer(r["question"], add_special_tokens=False)["input_ids"]
    text = tokenizer(r["context"], add_special_tokens=False, return_offsets_mapping=True)
    ids, characters = text["input_ids"], text["offset_mapping"]
    room, first = maximum - len(asked) - 3, len(asked) + 2
    starts = [0]
    while starts[-1] + room < len(ids):
        starts.append(starts[-1] + room - overlap)
    best = (-float("inf"), "")
    for begin in starts:
        piece = ids[begin : begin + room]
        given = [tokenizer.cls_token_id, *asked, tokenizer.sep_token_id, *piece, tokenizer.sep_token_id]
        types = [0] * first + [1] * (len(piece) + 1)
        with torch.no_grad():
            out = model(input_ids=torch.tensor([given]), token_type_ids=torch.tensor([types]))
        for i in range(len(piece)):
            for j in range(i, min(len(piece), i + LONGEST_ANSWER)):
                score = float(out.start_logits[0, first + i] + out.end_logits[0, first + j])
                best = max(best, (score, r["context"][characters[begin + i][0] : characters[begin + j][1]]))
    return best[1], len(starts)


def test_answers_are_the_best_of_all_windows_read_one_by_one(answerer: str, tmp_path: Path):
    rows = [row(i, words=(10, 40, 90)[i % 3]) for i in range(36)]
    path = write(tmp_path / "a.jsonl", rows)
    task = load_task(answerer, path, batch_size=8, calibration=12, holdout=24)
    model, tokenizer = (
        BertForQuestionAnswering.from_pretrained(answerer).eval(),
        AutoTokenizer.from_pretrained(answerer),
    )
    by_context = {r["context"]: slow_answer(model, tokenizer, r, 40, 40 // 3) for r in rows}
    later = 0
    for batch in some(task.holdout.batches):
        counts = [by_context[question.context][1] for question in batch.labels]
        assert {*counts} == {batch.inputs["input_ids"].shape[1]} == {len(q.windows) for q in batch.labels}
        assert len(batch) * counts[0] <= 8
        outputs = task.outputs(task.model, batch)
        assert task.answers(outputs, batch) == [by_context[question.context][0] for question in batch.labels]
        later += int((best_spans(outputs)[:, 0] > 0).sum())
    assert later > 5
    assert {by_context[q.context][1] for q in task.holdout.labels} == {1, 2, 4}
    long = sum(count > 1 for _, count in by_context.values())
    assert any(f"{long} of 36 contexts are longer than the 40 tokens" in note for note in task.notes)


def test_a_row_is_a_question_however_many_windows_it_has(answerer: str, tmp_path: Path):
    path = write(tmp_path / "a.jsonl", [row(i, words=(10, 40, 90)[i % 3]) for i in range(48)])
    task = load_task(answerer, path, batch_size=8, calibration=32, holdout=16)
    split, few = task.calibration, task.calibration.take(13)
    assert (split.n, few.n) == (32, 13)
    assert sorted(int(i) for batch in few.batches for i in batch.index) == list(range(13))
    assert max(batch.inputs["input_ids"].shape[:2].numel() for batch in few.batches) <= 8
    with apply_(task.model, Schedule()) as handle:
        found = {}
        for part in (split, few):
            evaluator = Evaluator(task, handle, part)
            unpruned, again, pruned = evaluator.unpruned(), evaluator.evaluate(Schedule()), evaluator.evaluate(HALF)
            assert torch.equal(unpruned.statistics, again.statistics)
            assert (again.agreement, again.loss) == (1.0, pytest.approx(0, abs=1e-6))
            index = torch.cat([batch.index for batch in evaluator.batches()]).tolist()
            found[part.n] = dict(
                zip(index, zip(unpruned.statistics[:, 0].tolist(), pruned.kl.tolist(), strict=True), strict=True)
            )
    for i, (statistic, kl) in found[13].items():
        assert (statistic, kl) == pytest.approx(found[32][i], abs=1e-4)
    assert min(kl for _, kl in found[32].values()) > 0


def test_windows_go_through_the_search_as_other_rows_do(answerer: str, tmp_path: Path):
    """A block can be entered with what came into it before, and a report has a word for every token it draws."""
    path = write(tmp_path / "a.jsonl", [row(i, words=(10, 90)[i % 2]) for i in range(24)])
    task = load_task(answerer, path, batch_size=8, calibration=12, holdout=12)
    late = Schedule([Stage(1, 0.5, "value_norm", "drop")])
    with apply_(task.model, Schedule()) as handle, torch.inference_mode():
        for batch in some(task.calibration.batches):
            handle.set(Schedule())
            with handle.observing() as entering:
                task.outputs(task.model, batch)
            inputs = list(entering)
            handle.set(late)
            whole = task.outputs(task.model, batch)
            with handle.resuming(1, inputs[1]):
                resumed = task.outputs(task.model, batch)
            assert all(torch.equal(whole[name], resumed[name]) for name in whole)
        point = SimpleNamespace(id="p1", to_plan=lambda: Plan(HALF))
        rows, traces = illustrate(task, handle, [point], answerer)
    words = {r.index: len(r.words) for r in rows}
    assert {40} < {*words.values()}
    assert all(len(stage.owner) == words[trace.row] for trace in some(traces) for stage in trace.stages)


def test_both_places_of_an_answer_are_one_answer():
    """A stretch that two windows share is the same characters, so a change of window is no change of the answer."""
    spans = np.array([[0, 3], [4, 7], [8, 11], [12, 15]], dtype=np.int32)
    question = Question(["bbb"], "aaa bbb ccc ddd", [Window(1, spans[:3]), Window(1, spans[1:])])
    batch = Batch({}, [question], torch.tensor([0]))
    one, other = ({name: torch.full((1, 2, 5), -9.0) for name in ("start", "end")} for _ in range(2))
    for outputs, place in ((one, (0, 0, 2)), (other, (0, 1, 1))):
        for value in outputs.values():
            value[place] = 5.0
    task = Answering("qa", torch.nn.Identity(), {}, 5, lambda rows: {})
    assert task.answers(one, batch) == task.answers(other, batch) == ["bbb"]
    assert task.agrees(one, other, batch).tolist() == [True]
    p, q = (softmax(outputs["start"].numpy().ravel()) for outputs in (one, other))
    assert float(task.divergence(one, other, batch)[0]) == pytest.approx(2 * entropy(p, q), rel=1e-4)


def test_unanswerable_questions_are_left_out_and_what_does_not_fit_is_one_line(answerer: str, tmp_path: Path):
    rows = [row(i, words=10) for i in range(30)]
    rows[5]["answers"] = {"text": [], "answer_start": []}
    task = load_task(answerer, write(tmp_path / "a.jsonl", rows), calibration=9, holdout=20)
    assert not any("windows" in note for note in task.notes)
    assert any("1 questions without an answer" in note for note in task.notes)
    assert task.timing_inputs(2)["input_ids"].shape == (2, task.tokens)
    with pytest.raises(PruneSearchError, match="needs the columns question, context and answers"):
        load_task(answerer, write(tmp_path / "b.jsonl", [{"question": "a", "context": "b"}] * 3))
    for r in rows:
        r["question"] = " ".join(WORDS * 4)
    with pytest.raises(PruneSearchError, match="must leave room for its context"):
        load_task(answerer, write(tmp_path / "c.jsonl", rows))
