"""Embeddings: scipy and scikit-learn judge the metrics, the encoder run on single texts the vectors."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score
from transformers import AutoTokenizer, BertModel

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from prunesearch.tasks.metrics.metric import find_metric
from tests.support.some import some
from tests.support.tiny import make_bert, sentence

HALF = Schedule([Stage(0, 0.5, "value_norm", "nearest")])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bert(tmp_path_factory.mktemp("encoder"), BertModel, initializer_range=0.4)


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def pairs(n: int = 40) -> list[dict]:
    return [{"sentence1": sentence(i), "sentence2": sentence(1000 + i), "score": (7 * i) % 6} for i in range(n)]


def queries(n: int = 20) -> list[dict]:
    chance, found = random.Random(0), []
    for i in range(n):
        k = chance.randint(2, 14)
        gains = chance.choices([0, 1, 3], k=k)
        gains[chance.randrange(k)] = 2
        documents = [sentence(100 * i + j) for j in range(k)]
        found.append({"query": sentence(5000 + i), "documents": documents, "relevance": gains})
    return found


def vector(model: BertModel, tokenizer, text: str) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)


def test_spearman_is_that_of_scipy_ties_and_constants_too():
    random = np.random.default_rng(0)
    metric = find_metric("spearman")
    for rows in (random.normal(size=(80, 2)), random.integers(0, 4, size=(80, 2)).astype(float)):
        assert metric.of_rows(rows) == pytest.approx(spearmanr(*rows.T).statistic)
    assert metric.of_rows(np.ones((5, 2))) == 0
    value, low, high = metric.interval(torch.randn(60, 2, generator=torch.Generator().manual_seed(1)))
    assert -1 <= low < value < high <= 1


def test_ndcg_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    scores = [random.normal(size=k) for k in (2, 9, 10, 11, 30)]
    gains = [random.integers(0, 4, size=len(s)) for s in scores]
    found = find_metric("ndcg10").statistics([s.tolist() for s in scores], [g.tolist() for g in gains])
    want = [ndcg_score([g], [s], k=10) for g, s in zip(gains, scores, strict=True)]
    assert found.flatten().tolist() == pytest.approx(want, abs=1e-6)


def test_similarity_is_that_of_single_texts(encoder: str, tmp_path: Path):
    task = load_task(encoder, write(tmp_path / "a.jsonl", pairs()), holdout=20)
    assert (task.name, task.metric) == ("sentence-similarity", "spearman")
    model, tokenizer = BertModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    by_pair = {(r["sentence1"], r["sentence2"]): r["score"] for r in pairs()}
    cosines = {}
    for (a, b), score in by_pair.items():
        one, other = vector(model, tokenizer, a), vector(model, tokenizer, b)
        cosines[float(torch.cosine_similarity(one, other, dim=0))] = score
    said, true = [], []
    for batch in task.holdout.batches:
        said += task.answers(task.outputs(task.model, batch), batch).tolist()
        true += batch.labels.tolist()
    for value, score in some(zip(said, true, strict=True)):
        nearest = min(cosines, key=lambda c: abs(c - value))
        assert (abs(nearest - value) < 1e-5, cosines[nearest]) == (True, score)
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        unpruned, again, pruned = evaluator.unpruned(), evaluator.evaluate(Schedule()), evaluator.evaluate(HALF)
    assert unpruned.quality == pytest.approx(spearmanr(said, true).statistic, abs=1e-6)
    assert again.loss == pytest.approx(0, abs=1e-6)
    assert pruned.loss > 1e-3
    assert task.timing_inputs(3)["input_ids"].shape == (3, task.tokens)


def test_retrieval_ranks_as_single_texts_do(encoder: str, tmp_path: Path):
    rows = queries()
    task = load_task(encoder, write(tmp_path / "a.jsonl", rows))
    assert (task.name, task.metric) == ("text-retrieval", "ndcg10")
    model, tokenizer = BertModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    want = {}
    for r in rows:
        query = vector(model, tokenizer, r["query"])
        scores = [float(torch.cosine_similarity(query, vector(model, tokenizer, d), dim=0)) for d in r["documents"]]
        want[tuple(r["relevance"])] = ndcg_score([r["relevance"]], [scores], k=10)
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        unpruned, pruned = evaluator.unpruned(), evaluator.evaluate(HALF)
    gains = [tuple(g) for batch in evaluator.batches() for g in batch.labels]
    assert unpruned.statistics.flatten().tolist() == pytest.approx([want[g] for g in gains], abs=1e-4)
    assert pruned.loss > 1e-3
    whole = task.calibration.take(3)
    assert sorted(len(g) for b in whole.batches for g in b.labels) == sorted(
        len(g) for b in task.calibration.batches for g, i in zip(b.labels, b.index.tolist(), strict=True) if i < 3
    )


def test_pooling_is_what_the_checkpoint_says(encoder: str, tmp_path: Path):
    folder = make_bert(tmp_path / "m", BertModel)
    assert load_task(folder, write(tmp_path / "a.jsonl", pairs())).pooling == ("mean",)
    settings = Path(folder) / "1_Pooling"
    settings.mkdir()
    (settings / "config.json").write_text(
        json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    )
    task = load_task(folder, write(tmp_path / "a.jsonl", pairs()))
    batch = task.holdout.batches[0]
    flat = {name: value.flatten(0, 1) for name, value in batch.inputs.items()}
    with torch.no_grad():
        hidden = task.model(**flat).last_hidden_state
        assert torch.equal(task.outputs(task.model, batch)["state"].flatten(0, 1), hidden[:, 0])


def test_what_does_not_fit_is_one_line(encoder: str, tmp_path: Path):
    odd = write(tmp_path / "o.jsonl", [{**r, "relevance": [1]} for r in queries(9)])
    with pytest.raises(PruneSearchError, match="one gain a document"):
        load_task(encoder, odd)
    words = write(tmp_path / "w.jsonl", [{**r, "score": "much"} for r in pairs(9)])
    with pytest.raises(PruneSearchError, match="column 'score' must hold numbers"):
        load_task(encoder, words)
    with pytest.raises(PruneSearchError, match="needs the columns sentence1, sentence2, score"):
        load_task(encoder, odd, task="sentence-similarity")
