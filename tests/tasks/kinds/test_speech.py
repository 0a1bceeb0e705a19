"""Speech recognition by Whisper: the encoder is reduced, generation goes on."""

from pathlib import Path

import jiwer
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers as hf

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from prunesearch.tasks.metrics.word_errors import words
from tests.support.some import some
from tests.support.tiny_media import RATE, encoded, make_whisper, sound, tone, write_sounds

TEXTS = ["a b", "cab", "dig a bed", "j", "fab bad cafe", "he had a"]
HALF = Schedule([Stage(0, 0.5, "value_norm", "drop"), Stage(1, 0.3, "value_norm", "bipartite")])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_whisper(tmp_path_factory.mktemp("w"), "WhisperForConditionalGeneration")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sounds(tmp_path_factory.mktemp("s") / "s.parquet", 18, sentence=[TEXTS[i % 6] for i in range(18)])


def test_the_task_is_told_from_a_translation_by_what_the_model_reads(model: str, data: Path):
    task = load_task(model, data)
    assert (task.name, task.metric, task.tokens) == ("speech-recognition", "word_accuracy", 50)
    assert (task.calibration.n, task.holdout.n) == (6, 12)
    assert any("greedy decoding" in note for note in task.notes)


def test_the_decoder_is_given_the_reference_shifted_by_one(model: str, data: Path):
    task = load_task(model, data, batch_size=4)
    tokenizer = hf.AutoTokenizer.from_pretrained(model)
    for batch in some(task.calibration.batches):
        for ids, mask, text in zip(
            batch.inputs["decoder_input_ids"], batch.inputs["decoder_attention_mask"], batch.labels, strict=True
        ):
            want = tokenizer(text)["input_ids"]
            assert ids[: int(mask.sum())].tolist() == want[:-1]
            assert want[0] == 1  # the token decoders start from, once


def test_what_is_minimised_is_the_divergence_along_the_reference(model: str, data: Path):
    task = load_task(model, data, batch_size=4)
    batch = task.calibration.batches[0]
    with torch.no_grad(), apply_(task.model, Schedule()) as handle:
        whole = task.outputs(task.model, batch)
        handle.set(HALF)
        fewer = task.outputs(task.model, batch)
        handle.set(Schedule())
    found = task.divergence(task.condensed(whole), fewer, batch)
    for row in range(len(batch)):
        n = int(batch.inputs["decoder_attention_mask"][row].sum())
        p, q = (x["logits"][row, :n].double().log_softmax(-1) for x in (whole, fewer))
        assert float(found[row]) == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)
    assert (found > 0).all()


def test_generation_is_the_models_own_and_differs_under_a_schedule(model: str, data: Path):
    task = load_task(model, data, batch_size=4)
    original = hf.WhisperForConditionalGeneration.from_pretrained(model).eval()
    extractor = hf.WhisperFeatureExtractor.from_pretrained(model)
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        unpruned, pruned = evaluator.unpruned(), evaluator.evaluate(HALF)
        said = [text for b in task.holdout.batches for text in task.answers({}, b)]
        remarks = task.remarks(handle, {"p1": HALF}, 1)
    true = [text for b in task.holdout.batches for text in b.labels]
    rate = jiwer.wer([" ".join(words(t)) for t in true], [" ".join(words(s)) for s in said])
    assert unpruned.quality == pytest.approx(1 - rate)
    assert not unpruned.statistics.equal(pruned.statistics) or pruned.agreement < 1
    assert "p1" in remarks[0]
    heard = extractor([sound(i) for i in range(18)], sampling_rate=RATE, return_tensors="pt")["input_features"]
    tokenizer = hf.AutoTokenizer.from_pretrained(model)
    mine = original.generate(heard, max_new_tokens=task.most, num_beams=1, do_sample=False)
    texts = {text.strip() for text in tokenizer.batch_decode(mine, skip_special_tokens=True)}
    assert set(said) <= texts


def test_what_is_cut_is_told(model: str, tmp_path: Path):
    cells = [{"bytes": encoded(tone(300 + i, 1.5 if i == 0 else 0.1)), "path": None} for i in range(2)]
    pq.write_table(pa.table({"audio": cells, "text": ["a", "b"]}), tmp_path / "s.parquet")
    task = load_task(model, tmp_path / "s.parquet")
    assert "1 sounds are longer than the 1 s of the model: cut" in task.notes


def test_latency_is_that_of_the_encoder_and_the_first_token(model: str, data: Path):
    inputs = load_task(model, data).timing_inputs(3)
    assert inputs["input_features"].shape == (3, 8, 100)
    assert inputs["decoder_input_ids"].tolist() == [[1]] * 3
