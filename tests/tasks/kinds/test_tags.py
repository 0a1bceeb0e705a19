"""Token classification: seqeval judges the metric, the transformers model the answers."""

import random
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from transformers import AutoTokenizer, BertForTokenClassification

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from prunesearch.tasks.metrics.metric import find_metric
from prunesearch.tasks.metrics.tag_spans import entities
from tests.support.tiny import WORDS, make_bert

NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
TWO = Schedule([Stage(0, 0.6, "value_norm", "nearest"), Stage(1, 0.3, "value_norm", "drop")])


def rows(n: int, seed: int = 0) -> list[tuple[list[str], list[str]]]:
    chance = random.Random(seed)
    found = []
    for i in range(n):
        words = [*chance.choices(WORDS, k=chance.randint(1, 12)), f"w{i % 10}"]
        found.append((words, chance.choices(NAMES, k=len(words))))
    return found


def write_conll(path: Path, n: int = 40, prefix: str = "", seed: int = 0) -> Path:
    blocks = ["\n".join(f"{prefix}{w}\t{t}" for w, t in zip(*row, strict=True)) for row in rows(n, seed)]
    path.write_text("\n\n".join(blocks) + "\n")
    return path


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tagger")
    return make_bert(folder, BertForTokenClassification, initializer_range=0.4, num_labels=5, **LABELS)


@pytest.mark.parametrize("prefixes", ["BI", "BIES"])
def test_entities_and_f1_are_those_of_seqeval(prefixes: str):
    chance = random.Random(0)
    tags = ["O", *(f"{p}-{t}" for p in prefixes for t in ("LOC", "PER"))]
    true, said = ([chance.choices(tags, k=chance.randint(1, 15)) for _ in range(300)] for _ in range(2))
    said = [[a if chance.random() < 0.6 else b for a, b in zip(*pair, strict=True)] for pair in _cut(true, said)]
    for row in true:
        assert entities(row) == set(get_entities(row))
    metric = find_metric("seqeval_f1")
    assert metric.value(metric.statistics(said, true)) == pytest.approx(f1_score(true, said))
    assert metric.value(metric.statistics([["O"]], [["O"]])) == 0


def _cut(true, said):
    return [(t, (s * 15)[: len(t)]) for t, s in zip(true, said, strict=True)]


def test_the_pipeline_gives_what_transformers_and_seqeval_give(tagger: str, tmp_path: Path):
    path = write_conll(tmp_path / "a.conll", prefix="en:")
    task = load_task(tagger, path, holdout=15)
    assert (task.name, task.metric) == ("token-classification", "seqeval_f1")
    assert any("'en:' was cut off" in note for note in task.notes)
    model, tokenizer = BertForTokenClassification.from_pretrained(tagger).eval(), AutoTokenizer.from_pretrained(tagger)
    by_words = {tuple(words): tags for words, tags in rows(40)}
    said, true = [], []
    for batch in task.holdout.batches:
        for ids, mask in zip(batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True):
            pieces = tokenizer.convert_ids_to_tokens(ids[: int(mask.sum())].tolist())
            with torch.no_grad():
                tags = model(input_ids=ids[None, : int(mask.sum())]).logits[0].argmax(-1).tolist()
            first = [i for i, piece in enumerate(pieces) if piece[0] not in "[#"]
            words = tokenizer.convert_tokens_to_string(pieces[1:-1]).split()
            true.append(by_words[tuple(words)])
            said.append([NAMES[tags[i]] for i in first])
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        unpruned, pruned = evaluator.unpruned(), evaluator.evaluate(TWO)
    assert unpruned.quality == pytest.approx(f1_score(true, said))
    assert unpruned.statistics.shape == (15, 3)
    assert pruned.loss > 0
    assert 0 < pruned.agreement < 1


def test_columns_of_class_labels_and_unlabelled_words(tagger: str, tmp_path: Path):
    names = [NAMES[i] for i in (0, 3, 4, 1, 2)]  # in another order than the model's
    found = rows(20)
    features = Features({"words": List(Value("string")), "ner_tags": List(ClassLabel(names=names))})
    table = {"words": [w for w, _ in found], "ner_tags": [[names.index(t) for t in tags] for _, tags in found]}
    Dataset.from_dict(table, features=features).save_to_disk(str(tmp_path / "saved"))
    task = load_task(tagger, tmp_path / "saved")
    assert any("matched to the model's classes by name" in note for note in task.notes)
    seen = {tuple(row.tags) for batch in task.calibration.batches for row in batch.labels}
    assert seen <= {tuple(tags) for _, tags in found}


def test_long_sentences_are_cut_and_other_tags_refused(tagger: str, tmp_path: Path):
    long = tmp_path / "long.conll"
    blocks = ["\n".join(f"{w}{i % 7}\tO" for w in (WORDS * 4)[i : i + 48]) for i in range(12)]
    long.write_text("\n\n".join(block.replace("\tO", "\tB-PER", 1) for block in blocks))
    task = load_task(tagger, long)
    assert any("12 sentences are longer than the 40 tokens" in note for note in task.notes)
    odd = tmp_path / "odd.conll"
    odd.write_text("the\tB-DATE\nfilm\tO\n\na\tO\n\nwar\tO\n")
    with pytest.raises(PruneSearchError, match="label 'B-DATE' is not one of the model's 5 classes"):
        load_task(tagger, odd)
    odd.write_text("the\tO\nfilm\n")
    with pytest.raises(PruneSearchError, match="a token and a tag, but line 2"):
        load_task(tagger, odd)
