"""Captions of pictures: prompts, references, BLEU and ROUGE by their own libraries, of what a model writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks import load_task
from prunesearch.tasks.kinds.visual_qa import VisualAnswers
from tests.support.tiny_vlm import write_questions, write_vlm
from tests.tasks.kinds.test_visual_qa import by_hand

PRUNED = Plan.parse("0:0.5 text_attention+drop > 2:0.2 key_norm+drop")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_vlm(tmp_path_factory.mktemp("vlm"))


def write_captions(path: Path, captions: Any, *, asks: bool) -> Path:
    """Pictures with what `captions(colour)` says of each, and a question of each where it is asked."""
    table = pq.read_table(write_questions(path, 40, answers=str))
    told = [captions(answer) for answer in table["answer"].to_pylist()]
    columns = {"image": table["image"], "caption": pa.array(told)}
    pq.write_table(pa.table(columns | ({"question": table["question"]} if asks else {})), path)
    return path


def load(folder: str, data: Path, **more: Any) -> VisualAnswers:
    task = load_task(folder, data, calibration=12, holdout=12, batch_size=5, **more)
    assert isinstance(task, VisualAnswers)
    return task


def written_by(task: VisualAnswers, plan: Plan) -> tuple[list[str], list[list[str]]]:
    """What the model writes for every row of the holdout split, and the references."""
    texts, references = [], []
    with ps.apply_(task.model, plan) as handle:
        for batch in task.holdout.batches:
            texts += task.answers(task.outputs(task.model, batch), batch)
            references += batch.labels
        handle.remove()
    return texts, references


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("plan", [Plan(), PRUNED], ids=["unpruned", "pruned"])
def test_captions_are_those_of_each_picture_alone(folder: str, tmp_path: Path, asks: bool, plan: Plan) -> None:
    task = load(folder, write_captions(tmp_path / "rows.parquet", lambda c: f"it is {c}", asks=asks))
    assert (task.name, task.metric) == ("image-captioning", "rouge_l")
    said = "\n".join(task.notes)
    assert "captions=caption" in said
    assert ("every prompt asks 'Describe this picture" in said) != asks
    asked: Any = task.holdout.batches
    asker = next(c.cell_contents for c in asked.inputs.__closure__ if hasattr(c.cell_contents, "questions"))
    numbers = [n for batch in task.holdout.batches for n in batch.index.tolist()]
    for text, number in zip(written_by(task, plan)[0], numbers, strict=True):
        wanted = by_hand(folder, asker.decode(asker.cells[number]), asker.questions[number], plan)
        assert text == task.tokenizer.decode(wanted)


@pytest.mark.parametrize("metric", ["rouge_l", "bleu"])
@pytest.mark.parametrize("several", [True, False])
def test_quality_is_what_the_libraries_say_of_what_is_written(
    folder: str, tmp_path: Path, metric: str, several: bool
) -> None:
    def captions(colour: str) -> Any:
        return [f"which colour is {colour}", "there is red ?", f"{colour} grey grey"] if several else f"{colour} red is"

    task = load(folder, write_captions(tmp_path / "rows.parquet", captions, asks=True), metric=metric)
    for plan in (Plan(), PRUNED):
        texts, references = written_by(task, plan)
        if metric == "bleu":
            others = [[row[i] for row in references] for i in range(len(references[0]))]
            wanted = BLEU().corpus_score(texts, others).score / 100
        else:
            scorer: Any = RougeScorer
            scorer = scorer(["rougeL"], use_stemmer=True)
            pairs = zip(texts, references, strict=True)
            best = [max(scorer.score(r, text)["rougeL"].fmeasure for r in row) for text, row in pairs]
            wanted = sum(best) / len(best)
        with ps.apply_(task.model, Plan()) as handle:
            found = Evaluator(task, handle, task.holdout).evaluate(plan).quality
            handle.remove()
        assert found == pytest.approx(wanted, abs=1e-6)


def test_pictures_without_captions_are_refused(folder: str, tmp_path: Path) -> None:
    data = write_captions(tmp_path / "rows.parquet", lambda c: [1, 2], asks=True)
    with pytest.raises(PruneSearchError, match="column 'caption' must hold an answer, or a list of answers"):
        load(folder, data)
