"""Translation and summarisation: sacrebleu and rouge-score judge the metrics, transformers the decoding."""

import json
import random
from pathlib import Path

import pytest
import sacrebleu
import torch
from rouge_score.rouge_scorer import RougeScorer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.pruning.apply import apply_
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from prunesearch.tasks.metrics.metric import find_metric
from tests.support.some import some
from tests.support.tiny import WORDS

VOCABULARY = ["<pad>", "</s>", "<s>", "<unk>", *WORDS, *(f"t{i}" for i in range(80))]
SIZES = {"vocab_size": len(VOCABULARY), "pad_token_id": 0, "eos_token_id": 1, "init_std": 0.5}
LAYERS = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2}
LAYERS |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64}
HALF = Schedule([Stage(0, 0.5, "value_norm", "nearest")])


def save_tokenizer(folder: Path) -> None:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    specials = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"}
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=40, **specials).save_pretrained(folder)


@pytest.fixture(scope="module", params=["marian", "bart", "t5"])
def writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    if request.param == "marian":
        model = MarianMTModel(MarianConfig(**SIZES, **LAYERS, decoder_start_token_id=0, forced_eos_token_id=None))
    elif request.param == "bart":
        model = BartForConditionalGeneration(
            BartConfig(**SIZES, **LAYERS, bos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=None)
        )
    else:
        settings = {"translation_en_to_de": {"prefix": "t0 t1 "}}
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=len(VOCABULARY),
                d_model=16,
                d_kv=8,
                d_ff=32,
                num_layers=2,
                num_heads=2,
                pad_token_id=0,
                eos_token_id=1,
                decoder_start_token_id=0,
                task_specific_params=settings,
                initializer_factor=3.0,
            )
        )
    model.generation_config.max_new_tokens = 24  # with random weights, they would never end
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


def sentences(n: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(VOCABULARY[4:], k=chance.randint(3, 14))) for _ in range(n)]


def write(path: Path, names: tuple[str, str] = ("en", "de"), n: int = 24, nested: bool = False) -> Path:
    pairs = zip(sentences(n, 0), sentences(n, 1), strict=True)
    rows = [dict(zip(names, pair, strict=True)) for pair in pairs]
    path.write_text("\n".join(json.dumps({"translation": row} if nested else row) for row in rows))
    return path


def noisy(texts: list[str], share: float, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(w for w in text.split() if chance.random() > share) for text in texts]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.97])
def test_bleu_and_rouge_are_those_of_the_libraries(share: float):
    true = sentences(60, 3)
    said = noisy(true, share, 4)
    bleu, rouge = find_metric("bleu"), find_metric("rouge_l")
    assert bleu.value(bleu.statistics(said, true)) == pytest.approx(sacrebleu.corpus_bleu(said, [true]).score / 100)
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    want = sum(scorer.score(t, s)["rougeL"].fmeasure for t, s in zip(true, said, strict=True)) / 60
    assert rouge.value(rouge.statistics(said, true)) == pytest.approx(want, abs=1e-6)
    low, high = bleu.interval(bleu.statistics(said, true))[1:]
    assert 0 <= low <= high <= 1 + 1e-9


def test_decoding_is_that_of_transformers_and_pruning_shows(writer: str, tmp_path: Path):
    task = load_task(writer, write(tmp_path / "a.jsonl"))
    assert (task.name, task.metric) == ("translation", "bleu")
    batch = task.holdout.batches[0]
    with torch.no_grad():
        written = task.model.generate(
            input_ids=batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"], num_beams=1,
            do_sample=False,
        )  # fmt: skip
        logits = task.model(**batch.inputs).logits
    texts = [text.strip() for text in task.tokenizer.batch_decode(written, skip_special_tokens=True)]
    score = sacrebleu.corpus_bleu(texts, [batch.labels]).score / 100
    with apply_(task.model, Schedule()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        unpruned, again, pruned = evaluator.unpruned(), evaluator.evaluate(Schedule()), evaluator.evaluate(HALF)
        handle.set(HALF)
        with torch.inference_mode():
            changed = task.outputs(task.model, batch)
            reference = task.condensed({"logits": logits})
            kl = task.divergence(reference, changed, batch)
        handle.set(Schedule())
        (remark,) = task.remarks(handle, {"p1": HALF}, 2)
    assert len(task.holdout.batches) == 1
    assert unpruned.quality == pytest.approx(score)
    assert torch.equal(again.statistics, unpruned.statistics)
    assert again.loss == pytest.approx(0, abs=1e-5)
    assert pruned.loss > 1e-4
    assert 0 <= pruned.agreement <= 1
    # the 64 most probable tokens tell nearly all of the whole divergence, and never more
    before, after = (torch.log_softmax(x.float(), -1) for x in (logits, changed["logits"]))
    there = batch.inputs["decoder_attention_mask"].bool()
    whole = (before.exp() * (before - after)).sum(-1).where(there, 0.0).sum(1) / there.sum(1)
    assert (kl <= whole + 1e-5).all()
    assert (kl >= 0.5 * whole - 1e-5).all()
    assert remark.startswith("encoding and writing")
    assert "p1" in remark


def test_latency_is_of_the_encoder_and_one_token(writer: str, tmp_path: Path):
    task = load_task(writer, write(tmp_path / "a.jsonl"), length=24)
    inputs = task.timing_inputs(3)
    assert inputs["input_ids"].shape == (3, 24)
    assert inputs["decoder_input_ids"].shape == (3, 1)
    assert (inputs["input_ids"][:, -1] == 1).all()  # the end of the text is in its place
    with torch.no_grad():
        assert task.model(**inputs).logits.shape[:2] == (3, 1)
    assert task.at_length(16).timing_inputs(1)["input_ids"].shape == (1, 16)


def test_the_decoder_reads_the_reference_shifted_by_one(writer: str, tmp_path: Path):
    task = load_task(writer, write(tmp_path / "a.jsonl"))
    start = task.model.config.decoder_start_token_id
    for batch in some(task.calibration.batches):
        for row, text in some(enumerate(batch.labels)):
            ids = batch.inputs["decoder_input_ids"][row][batch.inputs["decoder_attention_mask"][row].bool()]
            assert ids.tolist() == [start, *task.tokenizer(text)["input_ids"][:-1]]


def test_kinds_of_data(writer: str, tmp_path: Path):
    nested = load_task(writer, write(tmp_path / "n.jsonl", nested=True))
    assert nested.name == "translation"
    if nested.model.config.model_type == "t5":
        assert any("'t0 t1' is put before every source" in note for note in nested.notes)
        first = nested.calibration.batches[0].inputs["input_ids"][:, :2]
        assert (first == torch.tensor([VOCABULARY.index("t0"), VOCABULARY.index("t1")])).all()
    summary = load_task(writer, write(tmp_path / "s.jsonl", ("document", "summary")))
    assert (summary.name, summary.metric) == ("summarization", "rouge_l")
    odd = write(tmp_path / "o.jsonl", ("a", "b"))
    with pytest.raises(PruneSearchError, match="text=SOURCE,label=REFERENCE"):
        load_task(writer, odd)
    named = load_task(writer, odd, columns={"text": "a", "label": "b"}, metric="rouge_l")
    assert (named.name, named.metric) == ("translation", "rouge_l")
