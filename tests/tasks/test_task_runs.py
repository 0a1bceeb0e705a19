"""Whole runs of kinds of tasks whose answers are no classes: the front is valid, and says what they have to say."""

import json
from pathlib import Path

import pytest
from test_seq2seq import LAYERS, SIZES, save_tokenizer
from test_seq2seq import write as write_pairs
from test_tags import LABELS, write_conll
from tiny import make_bert
from transformers import BertForTokenClassification, MarianConfig, MarianMTModel

from prunesearch.results.front import Front
from prunesearch.search.config import RunConfig
from prunesearch.search.run import run

SMALL = {
    "trials": 4,
    "seeds": 2,
    "batch_size": 4,
    "eval_batch_size": 16,
    "search_samples": 16,
    "sensitivity_samples": 8,
    "sensitivity_units": 1.0,
    "table_seconds": 1.0,
    "front_points": 2,
    "patience_s": 0.0,
    "length": 32,
}


def tagger(root: Path) -> tuple[str, Path]:
    shape = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_labels": 5}
    model = make_bert(root / "model", BertForTokenClassification, initializer_range=0.3, **shape, **LABELS)
    return model, write_conll(root / "data.conll", 60)


def translator(root: Path) -> tuple[str, Path]:
    folder = root / "model"
    layers = {**LAYERS, "d_model": 64, "encoder_layers": 4, "encoder_ffn_dim": 256}
    MarianMTModel(MarianConfig(**SIZES, **layers, decoder_start_token_id=0, forced_eos_token_id=None)).save_pretrained(
        folder
    )
    save_tokenizer(folder)
    return str(folder), write_pairs(root / "data.jsonl", n=40)


@pytest.mark.parametrize(("make", "metric"), [(tagger, "seqeval_f1"), (translator, "bleu")])
def test_a_run(make, metric: str, tmp_path: Path):
    model, data = make(tmp_path)
    config = RunConfig.build(model=model, data=str(data), **SMALL)
    front = run(config, "s", root=tmp_path / "studies", quiet=True)
    assert front == Front.load(tmp_path / "studies" / "s" / "front.json")
    assert front.task.metric == metric
    assert any(note.startswith(f"task: {front.task.name} (from") for note in front.task.notes)
    for item in (front.unpruned, *front.points):
        assert item.quality.low <= item.quality.value <= item.quality.high
    assert any("encoding and writing" in note for note in front.notes) == (make is translator)
    samples = tmp_path / "studies" / "s" / "samples.json"
    if front.points:
        found = json.loads(samples.read_text())
        assert {trace["point"] for trace in found["traces"]} == {point.id for point in front.points}
        assert all(len(row["words"]) > 1 for row in found["rows"])
