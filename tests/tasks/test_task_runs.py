"""Whole runs of kinds of tasks whose answers are no classes: the front is valid, and says what they have to say."""

import json
from pathlib import Path

import pytest
from transformers import BertForSequenceClassification, BertForTokenClassification, MarianConfig, MarianMTModel

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front
from tests.support.tiny import make_bert, make_vit, write_images, write_texts
from tests.tasks.kinds.test_seq2seq import LAYERS, SIZES, save_tokenizer
from tests.tasks.kinds.test_seq2seq import write as write_pairs
from tests.tasks.kinds.test_tags import LABELS, write_conll

SMALL = {
    "trials": 4,
    "seeds": 2,
    "batch_size": 4,
    "eval_batch_size": 16,
    "search_samples": 16,
    "sensitivity_samples": 8,
    "sensitivity_units": 1.0,
    "table_seconds": 0.3,
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


# multiply-adds where they have a closed form: what saves them is on the front, however fast this machine is
RUNS = [(tagger, "seqeval_f1", "macs"), (translator, "bleu", "latency")]


@pytest.mark.parametrize(("make", "metric", "objective"), RUNS)
def test_a_run(make, metric: str, objective: str, tmp_path: Path):
    model, data = make(tmp_path)
    config = RunConfig(model=model, data=str(data), **SMALL, objectives=[objective])
    front = run(config, "s", root=tmp_path / "studies")
    assert front == Front.load(tmp_path / "studies" / "s" / "front.json")
    assert front.task.metric == metric
    assert any(note.startswith(f"task: {front.task.name} (from") for note in front.task.notes)
    for item in (front.unpruned, *front.points):
        assert item.quality.low <= item.quality.value <= item.quality.high
    assert any("encoding and writing" in note for note in front.notes) == (make is translator)
    samples = tmp_path / "studies" / "s" / "samples.json"
    if objective == "macs":
        assert front.points
    found = json.loads(samples.read_text()) if samples.exists() else {"traces": [], "rows": []}
    assert {trace["point"] for trace in found["traces"]} == {point.id for point in front.points}
    assert all(len(row["words"]) > 1 for row in found["rows"])


@pytest.mark.slow
def test_a_run_at_the_lengths_of_the_data(tmp_path: Path):
    shape = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4}
    model = make_bert(tmp_path / "model", BertForSequenceClassification, initializer_range=0.3, **shape)
    settings = {**SMALL, "length": None, "length_buckets": True, "model": model}
    config = RunConfig(**settings, data=str(write_texts(tmp_path / "texts.jsonl", 80)))
    front = run(config, "s", root=tmp_path / "studies")
    loads = [(load.tokens, load.weight) for load in front.loads]
    assert len(loads) > 1
    assert loads == sorted(loads, reverse=True)
    assert sum(weight for _, weight in loads) == 1
    assert front.model.tokens == loads[0][0]
    assert any("by quarters: " + str(loads[0][0]) in note for note in front.task.notes)
    # every length has a table of its own, of forwards at which nothing is padded
    tables = [CostTable.load(path) for path in (tmp_path / "studies" / "s").glob("cost_table*.json")]
    assert sorted((table.shape.tokens for table in tables), reverse=True) == [tokens for tokens, _ in loads]
    assert len(front.unpruned.loads) == len(loads)
    assert run(config, "s", root=tmp_path / "studies") == front
    more = RunConfig(**{**settings, "trials": 5}, data=str(tmp_path / "texts.jsonl"))
    assert run(more, "s", root=tmp_path / "studies").search.trials == 5


def test_a_model_of_one_length_has_no_buckets(tmp_path: Path):
    model = make_vit(tmp_path / "vit")
    images = write_images(tmp_path / "i.parquet", range(40))
    config = RunConfig(**{**SMALL, "length": None, "length_buckets": True}, model=model, data=str(images))
    with pytest.raises(PruneSearchError, match="reads 17 tokens whatever the row, but got --length buckets"):
        run(config, "s", root=tmp_path / "studies")
