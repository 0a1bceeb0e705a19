import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification, RobertaConfig, RobertaModel

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks import load_task
from prunesearch.tasks.kinds.text import max_tokens, timing_length
from tests.support.some import some
from tests.support.tiny import make_bert, write_texts


def test_texts_that_are_longer_than_the_model_are_counted(bert: str, tmp_path: Path):
    """The tiny tokenizer takes 40 tokens, two of which are special."""
    rows = [{"text": f"the film w{i} {'good ' * (60 if i % 5 == 0 else 4)}", "label": i % 2} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    notes = load_task(bert, tmp_path / "rows.jsonl").notes
    assert "6 of 30 texts fill the 40 tokens of the model, and may be cut" in notes
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for i, row in enumerate(rows) if i % 5))
    assert not any("may be cut" in note for note in load_task(bert, tmp_path / "rows.jsonl").notes)


def test_end_to_end_with_its_own_head(bert: str, tmp_path: Path):
    task = load_task(bert, write_texts(tmp_path / "a.jsonl", 90), batch_size=8)
    assert task.name == "text-classification"
    assert (task.calibration.n, task.holdout.n) == (30, 60)
    lengths = []
    for batch in some(task.calibration.batches):
        mask = batch.inputs["attention_mask"]
        lengths += mask.sum(1).tolist()
        assert mask.any(0).all()
        assert (batch.inputs["input_ids"][mask == 0] == 0).all()
        with torch.inference_mode():
            assert task.logits(task.model(**batch.inputs)).shape == (len(batch), 2)
    assert lengths == sorted(lengths)
    index = torch.cat([batch.index for batch in task.calibration.batches]).tolist()
    assert sorted(index) == list(range(30))
    assert index != sorted(index)
    assert task.tokens == -(-int(np.percentile(lengths, 90, method="higher")) // 8) * 8
    assert any(f"measured at {task.tokens} tokens" in note for note in task.notes)


def test_rows_keep_their_text_and_label(bert: str, tmp_path: Path):
    task = load_task(bert, write_texts(tmp_path / "a.jsonl", 60), batch_size=8)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    rows = {
        int(i): (ids[mask.bool()].tolist(), int(label))
        for batch in task.calibration.batches
        for i, ids, mask, label in zip(
            batch.index, batch.inputs["input_ids"], batch.inputs["attention_mask"], batch.labels, strict=True
        )
    }
    for sample in some(task.samples):
        number = int(sample.content.rsplit(" w", 1)[1])
        assert rows[sample.index] == (tokenizer(sample.content)["input_ids"], number % 2)
        assert sample.label == number % 2


def test_timing_inputs_are_full_rows_of_real_text(bert: str, tmp_path: Path):
    task = load_task(bert, write_texts(tmp_path / "a.jsonl", 60), length=37)
    inputs = task.timing_inputs(25)
    ids = inputs["input_ids"]
    assert task.tokens == 37
    assert ids.shape == (25, 37)
    assert inputs["attention_mask"].all()
    assert set(inputs) == set(task.calibration.batches[0].inputs)
    specials = torch.isin(ids, torch.tensor([0, 2, 3]))  # [PAD], [CLS], [SEP]
    assert (ids[:, 0] == 2).all()
    assert (ids[:, -1] == 3).all()
    assert not specials[:, 1:-1].any()
    assert len({tuple(row) for row in ids.tolist()}) == 20  # as many as there are texts
    with torch.inference_mode():
        task.model(**inputs)


def test_pairs(bert: str, tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("premise,hypothesis,label\n" + "".join(f"the film {'a ' * i},bad w,{i % 2}\n" for i in range(30)))
    task = load_task(bert, path)
    assert task.notes[0] == "columns: text=premise, text_pair=hypothesis, label=label"
    types = task.calibration.batches[0].inputs["token_type_ids"]
    assert set(types.flatten().tolist()) == {0, 1}
    assert " | bad w" in task.samples[0].content


def test_truncation_at_the_tokenizers_maximum(bert: str, tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"{'the film ' * 40} w{i},{i % 2}\n" for i in range(12)))
    task = load_task(bert, path)
    assert task.tokens == 40
    assert task.holdout.batches[0].inputs["input_ids"].shape[1] == 40


@pytest.mark.parametrize("length", [2, 41])
def test_length_out_of_reach(bert: str, tmp_path: Path, length: int):
    with pytest.raises(PruneSearchError, match=f"3 <= length <= 40.*{length}"):
        load_task(bert, write_texts(tmp_path / "a.jsonl", 30), length=length)


def test_timing_length_rounds_up_and_is_capped(bert: str):
    tokenizer = AutoTokenizer.from_pretrained(bert)
    assert timing_length([9] * 10, None, 40, tokenizer)[0] == 16
    assert timing_length([16] * 10, None, 40, tokenizer)[0] == 16
    assert timing_length([39] * 10, None, 38, tokenizer)[0] == 38
    assert timing_length([5] * 8 + [30] * 2, None, 40, tokenizer)[0] == 32


def test_maximum_of_a_roberta_table_leaves_out_the_padding_offset(bert: str):
    tokenizer = AutoTokenizer.from_pretrained(bert)
    tokenizer.model_max_length = int(1e30)
    config = RobertaConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=34,
        pad_token_id=1,
    )
    model = RobertaModel(config).eval()
    assert max_tokens(tokenizer, model) == 32
    model(torch.full((1, 32), 7))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, 33), 7))


def test_string_labels_of_an_unnamed_head(tmp_path: Path):
    folder = make_bert(tmp_path / "model", BertForSequenceClassification)
    path = tmp_path / "a.tsv"
    path.write_text("".join(f"the film w{i} was fine\t{'good' if i % 3 else 'bad'}\n" for i in range(30)))
    task = load_task(folder, path)
    assert task.label_names == ["bad", "good"]
    assert any("does not name its classes" in note for note in task.notes)
