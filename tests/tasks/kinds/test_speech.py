"""Speech recognition by Whisper: the encoder is reduced, generation goes on."""

from pathlib import Path
from types import SimpleNamespace

import jiwer
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers as hf
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from prunesearch.tasks.kinds.speech import spoken
from prunesearch.tasks.metrics.word_errors import WordAccuracy, are_digits, by_digit, normaliser, plain
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
    english = EnglishTextNormalizer({})
    assert unpruned.quality == pytest.approx(1 - jiwer.wer([english(t) for t in true], [english(s) for s in said]))
    assert pruned.agreement < 1
    assert "p1" in remarks[0]
    heard = extractor([sound(i) for i in range(18)], sampling_rate=RATE, return_tensors="pt")["input_features"]
    tokenizer = hf.AutoTokenizer.from_pretrained(model)
    mine = original.generate(heard, max_new_tokens=32, num_beams=1, do_sample=False)
    texts = {text.strip() for text in tokenizer.batch_decode(mine, skip_special_tokens=True)}
    assert set(said) <= texts


@pytest.mark.parametrize(("settings", "limit"), [({"max_length": 30}, 30), ({"max_new_tokens": 20}, 22), ({}, 34)])
def test_what_may_be_written_is_the_models_own_and_not_the_references_length(
    settings: dict[str, int], limit: int, tmp_path: Path
):
    folder = make_whisper(tmp_path / "w", "WhisperForConditionalGeneration", eos_token_id=14)
    own = hf.GenerationConfig.from_pretrained(folder)
    own.update(**settings, suppress_tokens=[14], eos_token_id=14)  # it never ends by itself
    own.save_pretrained(folder)
    task = load_task(folder, write_sounds(tmp_path / "s.parquet", 6, sentence=["a b"] * 6))
    batch = task.holdout.batches[0]
    served = hf.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    free = {} if settings else {"max_new_tokens": 32}
    wanted = served.generate(batch.inputs["input_features"], num_beams=1, do_sample=False, **free)
    assert wanted.shape[1] in (limit, limit - 1, limit - 2)  # what the prompt takes is not written
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    assert task.answers({}, batch) == [t.strip() for t in tokenizer.batch_decode(wanted, skip_special_tokens=True)]


def test_numbers_and_contractions_count_as_the_field_counts_them():
    said, true = ["It's 36 apples.", "It isn't Dr. Who"], ["it is thirty six apples", "it is not doctor who"]
    metric = WordAccuracy(normaliser("en", object()))
    english = EnglishTextNormalizer({})
    rate = jiwer.wer([english(t) for t in true], [english(s) for s in said])
    assert metric.value(metric.statistics(said, true)) == pytest.approx(1 - rate)
    assert rate == 0 < jiwer.wer(true, [plain(s) for s in said])


def test_strings_of_digits_are_compared_digit_by_digit():
    """The field's rule makes one number of digits in words, and many of digits in figures: both say the same."""
    english = normaliser("en", object())
    said, true = ["1, 5, 9, 6.", "Three, 6-6", "four two"], ["one five nine six", "three six six", "four zero"]
    assert jiwer.wer([english(t) for t in true], [english(s) for s in said]) > 2
    assert are_digits(true, english)
    metric = WordAccuracy(by_digit(english))
    assert metric.value(metric.statistics(said, true)) == pytest.approx(1 - 1 / 9)
    for others in (["one five", "call me at six"], ["seven", "eight"], ["in nineteen eighty four"], ["fourteen days"]):
        assert not are_digits(others, english)


def test_a_set_of_digit_strings_says_so(model: str, tmp_path: Path):
    digits = load_task(model, write_sounds(tmp_path / "d.parquet", 6, sentence=["one two", "three", "four oh"] * 2))
    assert any("digits alone, each of which is a word" in note for note in digits.notes)
    words = load_task(model, write_sounds(tmp_path / "w.parquet", 6, sentence=["a b", "one two"] * 3))
    assert not any("digits alone" in note for note in words.notes)


def test_british_spelling_is_the_tokenizers_and_other_languages_have_the_basic_rule():
    tokenizer = SimpleNamespace(english_spelling_normalizer={"colour": "color"})
    assert normaliser("en", tokenizer)("The Colour") == "the color"
    assert normaliser("de", tokenizer)("Das Haus, «colour»!") == BasicTextNormalizer()("Das Haus, «colour»!")
    assert normaliser("ja", tokenizer)("日本").split() == ["日", "本"]


def test_the_language_is_the_settings_or_what_the_model_hears(model: str, data: Path):
    task = load_task(model, data)
    whisper, tokenizer = task.model, task.tokenizer
    assert spoken(whisper, tokenizer, task.calibration) == "en"
    said = whisper.generation_config
    said.is_multilingual, said.lang_to_id = True, {"<|en|>": 2, "<|transcribe|>": 3}
    heard = whisper.detect_language(input_features=task.calibration.batches[0].inputs["input_features"]).tolist()
    names = {2: "en", 3: "transcribe"}
    most = {names[i] for i in heard if heard.count(i) >= len(heard) / 2}
    assert spoken(whisper, tokenizer, task.calibration) in most
    said.language = "german"
    assert spoken(whisper, tokenizer, task.calibration) == "de"
    said.language, said.lang_to_id = None, None
    assert spoken(whisper, tokenizer, task.calibration) == ""


def test_what_is_cut_is_told(model: str, tmp_path: Path):
    cells = [{"bytes": encoded(tone(300 + i, 1.5 if i == 0 else 0.1)), "path": None} for i in range(2)]
    pq.write_table(pa.table({"audio": cells, "text": ["a", "b"]}), tmp_path / "s.parquet")
    task = load_task(model, tmp_path / "s.parquet")
    assert "1 sounds are longer than the 1 s of the model: cut" in task.notes


def test_latency_is_that_of_the_encoder_and_the_first_token(model: str, data: Path):
    inputs = load_task(model, data).timing_inputs(3)
    assert inputs["input_features"].shape == (3, 8, 100)
    assert inputs["decoder_input_ids"].tolist() == [[1]] * 3
