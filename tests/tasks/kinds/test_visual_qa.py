"""Questions of pictures: prompts, references, divergences along unpruned answers, and what a pruned model writes."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.pruning.families.find import find_reduced
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.config import RunConfig
from prunesearch.study.setup import make_setting
from prunesearch.tasks import load_task
from prunesearch.tasks.kinds.visual_qa import IGNORED, VisualAnswers, with_answers
from tests.contracts.test_vision_language import said
from tests.support.small_vlms import build_vlm, prompts_for
from tests.support.tiny_vlm import IMAGES, MOST, write_questions, write_vlm

PRUNED = Plan.parse("0:0.5 text_attention+drop > 2:0.2 key_norm+drop")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("data") / "rows.parquet", 40)


def load(folder: str, data: Any, **more: Any) -> VisualAnswers:
    task = load_task(folder, data, calibration=12, holdout=12, batch_size=5, **more)
    assert isinstance(task, VisualAnswers)
    return task


def by_hand(folder: str, picture: Image.Image, question: str, plan: Plan) -> list[int]:
    """What the model writes for one question, as its own processor and `generate` have it."""
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    inputs = processor(text=processor.apply_chat_template(asked), images=picture, return_tensors="pt")
    with ps.apply_(model.eval(), plan):
        written = model.generate(**inputs, do_sample=False)
    return [token for token in written[0, inputs["input_ids"].shape[1] :].tolist() if token > 2]


def test_it_is_inferred_and_says_what_is_measured(folder: str, data: Path) -> None:
    task = load(folder, data)
    assert (task.name, task.metric, task.most) == ("visual-question-answering", "exact_match", MOST)
    said = "\n".join(task.notes)
    assert "image=image, text=question, answers=answer" in said
    assert f"time to the first token of a prompt of {task.tokens} tokens" in said
    timed = task.timing_inputs(3)
    assert timed["input_ids"].shape == (3, task.tokens)
    assert bool(timed["attention_mask"].all())
    with torch.inference_mode():
        assert task.model(**timed).logits.shape[:2] == (3, 1)  # as generate() asks for
    assert find_reduced(task.model).protected_in(timed) == task.tokens - IMAGES


@pytest.mark.parametrize("plan", [Plan(), PRUNED], ids=["unpruned", "pruned"])
def test_answers_are_those_of_each_question_alone(folder: str, data: Path, plan: Plan) -> None:
    task = load(folder, data)
    tokenizer, differ = task.tokenizer, 0
    with ps.apply_(task.model, plan) as handle:
        with handle.under(Plan()):
            before = [task.condensed(task.outputs(task.model, batch)) for batch in task.holdout.batches]
        for batch, reference in zip(task.holdout.batches, before, strict=True):
            outputs = task.outputs(task.model, batch)
            said = task.answers(outputs, batch)
            differ += sum(task.agrees(reference, outputs, batch) < 1)
            asks: Any = task.holdout.batches
            asker = next(c.cell_contents for c in asks.inputs.__closure__ if hasattr(c.cell_contents, "questions"))
            for text, number in zip(said, batch.index.tolist(), strict=True):
                wanted = by_hand(folder, asker.decode(asker.cells[number]), asker.questions[number], plan)
                assert text == tokenizer.decode(wanted)
    assert differ > 0 if len(plan) else differ == 0  # else nothing was tried


def test_divergences_are_of_the_next_token_along_the_unpruned_answer(folder: str, data: Path) -> None:
    task = load(folder, data)
    batch = max(task.calibration.batches, key=len)
    with ps.apply_(task.model, Plan()) as handle, torch.inference_mode():
        whole = task.outputs(task.model, batch)
        assert torch.equal(task.divergence(task.condensed(whole), whole, batch).abs() < 1e-5, torch.ones(5).bool())
        with handle.under(PRUNED):
            pruned = task.outputs(task.model, batch)
    found = task.divergence(task.condensed(whole), pruned, batch)
    for row in range(5):  # each by loops, from full distributions
        labels = batch.inputs["labels"][row]
        places = (labels != IGNORED).nonzero().flatten()
        first = int((batch.inputs["labels"] != IGNORED).any(0).nonzero()[0])
        total = 0.0
        for place in (places - first).tolist():
            p, q = (torch.log_softmax(x["logits"][row, place].double(), -1) for x in (whole, pruned))
            total += float((p.exp() * (p - q)).sum())
        assert float(found[row]) == pytest.approx(total / len(places), rel=1e-3, abs=1e-6)
    assert float(found.min()) > 0


def test_a_row_in_a_padded_batch_diverges_as_it_does_alone(folder: str, data: Path) -> None:
    task = load(folder, data)
    lengths = {int(b.inputs["attention_mask"][i].sum()) for b in task.holdout.batches for i in range(len(b))}
    assert len(lengths) > 1
    with ps.apply_(task.model, Plan()) as handle:
        together = Evaluator(task, handle, task.holdout).evaluate(PRUNED)
        found: dict[int, float] = {}
        for number in range(12):
            (batch,) = task.holdout.batches.pick([number], {})
            with handle.under(Plan()), torch.inference_mode():
                before = task.condensed(task.outputs(task.model, batch))
            with handle.under(PRUNED), torch.inference_mode():
                found[number] = float(task.divergence(before, task.outputs(task.model, batch), batch))
    evaluator_order = torch.randperm(len(task.holdout.batches), generator=torch.Generator().manual_seed(0)).tolist()
    order = [n for place in evaluator_order for n in task.holdout.batches.numbers[place].tolist()]
    assert together.kl.tolist() == pytest.approx([found[n] for n in order], rel=1e-3, abs=1e-5)


def test_without_answers_the_unpruned_model_is_the_reference(folder: str, tmp_path: Path) -> None:
    task = load(folder, write_questions(tmp_path / "rows.parquet", 40, answers=None))
    assert any("the references are the unpruned model's own" in note for note in task.notes)
    with ps.apply_(task.model, Plan()) as handle:
        evaluator = Evaluator(task, handle, task.holdout)
        assert evaluator.unpruned().quality == 1.0
        assert evaluator.evaluate(PRUNED).quality < 1.0


def test_fidelity_reads_no_answers(folder: str, data: Path) -> None:
    task = load(folder, data, task="fidelity")
    with ps.apply_(task.model, Plan()) as handle:
        assert Evaluator(task, handle, task.holdout).unpruned().quality == 1.0


def test_references_are_read_as_data_sets_have_them(folder: str, tmp_path: Path) -> None:
    people = write_questions(tmp_path / "a.parquet", 40, answers=lambda c: [{"answer": c, "answer_id": 1}] * 10)
    task = load(folder, people, metric="vqa_accuracy")
    assert task.holdout.labels[0] == [task.holdout.labels[0][0]] * 10
    numbers = write_questions(tmp_path / "b.parquet", 40, answers=lambda c: 3)
    with pytest.raises(PruneSearchError, match="column 'answer' must hold an answer, or a list of answers, but row"):
        load(folder, numbers)


def test_pictures_and_questions_come_from_a_folder(folder: str, data: Path, tmp_path: Path) -> None:
    rows = Dataset.from_parquet(str(data))
    with (tmp_path / "metadata.jsonl").open("w") as file:
        for i, row in enumerate(rows):
            (tmp_path / f"{i}.png").write_bytes(row["image"]["bytes"])
            said = {"file_name": f"{i}.png", "question": row["question"], "answer": row["answer"]}
            file.write(json.dumps(said) + "\n")
    assert load(folder, tmp_path).tokens == load(folder, data).tokens


def test_a_processor_without_a_chat_template_is_said(data: Path, tmp_path: Path) -> None:
    task = load(write_vlm(tmp_path / "model", template=None), data)
    assert any("no chat template: a prompt is the image, then the text" in note for note in task.notes)


def test_columns_that_are_missing_are_named(folder: str, data: Path) -> None:
    rows = Dataset.from_parquet(str(data)).remove_columns("question")
    with pytest.raises(PruneSearchError, match=r"need a column of questions, but .* has image, answer"):
        load(folder, rows)


def test_the_setting_counts_pictures_as_what_may_leave(folder: str, data: Path) -> None:
    config = RunConfig(model=folder, data=str(data), calibration=12, holdout=12)
    geometry = make_setting(config).geometry
    assert (geometry.part, geometry.reducible) == ("decoder", IMAGES)


def test_what_is_taught_to_paligemma_looks_back_alone() -> None:
    """Along an answer every next token is what generation says, though the prompt attends in both directions."""
    model = build_vlm("paligemma", dtype=torch.float64)
    prompt = prompts_for(model, "paligemma", [(4, 1, 5), (3, 1, 2)], torch.float64)
    written = said(model, prompt, 4)
    taught = with_answers(prompt, written.tolist(), 0)
    with torch.no_grad():
        logits = model(**{name: value for name, value in taught.items() if name != "labels"}).logits
    n = prompt["input_ids"].shape[1]
    assert logits[:, n - 1 : -1, :93].argmax(-1).tolist() == written.tolist()


def test_pictures_are_encoded_once_and_nothing_else_changes(folder: str, data: Path) -> None:
    task = load(folder, data)
    plans = [Plan(), PRUNED, Plan.parse("input/0:0.4 key_norm+drop")]
    batches, seen = list(task.calibration.batches), list[int]()
    hook = task.model.model.vision_tower.register_forward_hook(lambda *_: seen.append(1))
    with ps.apply_(task.model, Plan()) as handle, torch.inference_mode():
        for plan in plans:
            with handle.under(plan):
                for batch in batches:
                    found = task.outputs(task.model, batch)["logits"]
                    alone = task.model(**batch.inputs, use_cache=False).logits  # encodes by itself
                    n = found.shape[1]
                    assert torch.equal(found, alone[:, -n - 1 : -1])
        assert len(seen) == len(batches) * (1 + len(plans))
        asking = Plan.parse("input/0:0.5 tower_cls_attention+drop")
        for other in (asking, Plan(changes=[Change.parse("bfloat16")])):
            before = len(seen)
            with handle.under(other):
                task.outputs(task.model, batches[0])
            assert len(seen) == before + 1
    hook.remove()
    twin = copy.deepcopy(task.model)
    for parameter in twin.parameters():
        parameter.data *= 1.5
    with torch.inference_mode():
        changed = replace(task, model=twin).outputs(twin, batches[0])["logits"]
        n = changed.shape[1]
        assert torch.equal(changed, twin(**batches[0].inputs, use_cache=False).logits[:, -n - 1 : -1])


def test_answers_are_as_long_as_they_are_asked_to_be(folder: str, data: Path) -> None:
    asked = {"model": folder, "data": str(data), "calibration": 12, "holdout": 12}
    for config in (RunConfig(**asked, answer=5), RunConfig(**asked, loads=[{"batch_size": 2, "answer": 5}])):
        setting = make_setting(config)
        assert (config.answer, setting.task.usual) == (5, 5)
        inputs = setting.task.timing_inputs(config.batch_size)
        assert setting.task.exactly(inputs, 5).shape == (config.batch_size, setting.task.tokens + 5)
        with ps.apply_(setting.task.model, Plan()) as handle:
            said = setting.task.remarks(handle, {}, config.batch_size)[0]
        assert f"to the last of 5 tokens, batch {config.batch_size}" in said
        ms, rate = (float(re.findall(pattern, said)[0]) for pattern in (r"unpruned (\d+) ms", r"([\d.e+]+) tokens a s"))
        assert rate == pytest.approx(1000 * config.batch_size * 5 / ms, rel=0.5 / ms + 0.01)


def test_the_first_batches_of_a_split_are_a_fair_sample_of_its_prompts(folder: str, tmp_path: Path) -> None:
    """Over many seeds the rows of the first third are as long, on average, as all are; sorted they would be shorter."""
    rows = write_questions(tmp_path / "rows.parquet", 60)
    first, whole = [], []
    for seed in range(12):
        task = load_task(folder, rows, calibration=24, holdout=24, batch_size=4, seed=seed)
        batches: Any = task.holdout.batches
        lengths = [
            int(n) for b in batches for n in b.inputs["attention_mask"].sum(1) - (b.inputs["labels"] >= 0).sum(1)
        ]
        assert sorted(n for index in batches.numbers for n in index.tolist()) == list(range(24))
        first.append(sum(lengths[:8]) / 8)
        whole.append(sum(lengths) / 24)
    # two lengths, one word apart, a third of the rows having the longer: sorted, the first third has none of it
    assert min(whole) > 20
    gap = sum(first) / 12 - sum(whole) / 12
    assert abs(gap) < 0.2
    assert max(first) > max(whole)
    assert [len(index) for index in task.holdout.take(10).batches.numbers] == [4, 4, 2]
