"""Ranking by a cross-encoder: pairs are read together, and scores are those of one pair alone."""

import json
from pathlib import Path

import pytest
import torch
from sklearn.metrics import ndcg_score
from transformers import AutoTokenizer, BertForSequenceClassification

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from tests.support.tiny import make_bert, sentence


def test_documents_are_ranked_by_the_scores_of_pairs(tmp_path: Path):
    model = make_bert(tmp_path / "m", BertForSequenceClassification, num_labels=1, initializer_range=0.4)
    rows = []
    for i in range(24):
        count = 3 + i % 3
        gains = [int(j == i % count) for j in range(count)]
        documents = [sentence(100 * i + j) for j in range(count)]
        rows.append({"query": f"{sentence(i)} w{i}", "documents": documents, "relevance": gains})
    data = tmp_path / "d.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    task = load_task(model, data, calibration=8, holdout=16)
    assert (task.name, task.metric) == ("text-ranking", "ndcg10")

    tokenizer, plain = AutoTokenizer.from_pretrained(model), BertForSequenceClassification.from_pretrained(model).eval()
    by_documents = {len(row["documents"]): [] for row in rows}
    for row in rows:
        with torch.inference_mode():
            found = [plain(**tokenizer(row["query"], d, return_tensors="pt", truncation=True)).logits.item()
                     for d in row["documents"]]  # fmt: skip
        by_documents[len(found)].append((found, ndcg_score([row["relevance"]], [found], k=10)))
    scores = []
    with apply_(task.model, Schedule()) as handle:
        for split in (task.calibration, task.holdout):
            for batch in split.batches:
                with torch.inference_mode():
                    said = task.outputs(task.model, batch)["logits"]
                for row in said:
                    near = [
                        n for known, n in by_documents[len(row)] if torch.allclose(row, torch.tensor(known), atol=1e-5)
                    ]
                    assert len(near) == 1
                    scores += near
        evaluator = Evaluator(task, handle, task.holdout)
        quality = [evaluator.unpruned().quality, Evaluator(task, handle, task.calibration).unpruned().quality]
        assert quality[0] * 16 + quality[1] * 8 == pytest.approx(sum(scores), rel=1e-5)
        cut = evaluator.evaluate(Schedule([Stage(0, 0.3, "value_norm", "drop")]))
    assert cut.loss > 1e-4
    assert cut.agreement < 1
