"""Questions of videos: frames, prompts, divergences, and what a pruned model writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

import prunesearch as ps
from prunesearch.core.plans.plan import Plan
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.search.run import run
from prunesearch.search.space.space import SpaceFile
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.config import RunConfig
from prunesearch.tasks import load_task
from prunesearch.tasks.data.video_cells import decode_video
from prunesearch.tasks.kinds import visual_qa_data
from prunesearch.tasks.kinds.visual_qa import VisualAnswers
from tests.search.test_run_pictures import SMALL
from tests.support.tiny_clips import FRAMES, TOKENS, ReadsClips, write_clip_vlm, write_clips

PRUNED = Plan.parse("input/0:0.5 random+drop@frame_change > decoder/1:0.2 text_attention+drop")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clip_vlm(tmp_path_factory.mktemp("clip-vlm"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "rows.parquet", 24, frames=11)


@pytest.fixture
def reads(folder: str, monkeypatch: pytest.MonkeyPatch) -> ReadsClips:
    made = ReadsClips(folder)
    monkeypatch.setattr(visual_qa_data, "load", lambda *_, **__: made)
    return made


def load(folder: str, data: Path, **more: Any) -> VisualAnswers:
    task = load_task(folder, data, calibration=8, holdout=8, batch_size=3, **more)
    assert isinstance(task, VisualAnswers)
    return task


def test_it_is_inferred_and_says_what_is_shown(folder: str, data: Path, reads: ReadsClips) -> None:
    task = load(folder, data)
    assert (task.name, task.metric) == ("video-question-answering", "exact_match")
    said = "\n".join(task.notes)
    assert "video=video, text=question, answers=answer" in said
    assert f"of every video, {FRAMES} frames at even distances are taken" in said
    assert task.timing_inputs(2)["pixel_values_videos"].shape[:2] == (2, FRAMES)
    assert task.tokens > TOKENS
    assert "frame_change" in SpaceFile.load(Path(task.space)).selections


@pytest.mark.parametrize("plan", [Plan(), PRUNED], ids=["unpruned", "pruned"])
def test_answers_are_those_of_each_question_alone(folder: str, data: Path, reads: ReadsClips, plan: Plan) -> None:
    task, model = load(folder, data), AutoModelForImageTextToText.from_pretrained(folder).eval()
    asks: Any = task.holdout.batches
    asker = next(c.cell_contents for c in asks.inputs.__closure__ if hasattr(c.cell_contents, "questions"))
    found: dict[int, str] = {}
    with ps.apply_(task.model, plan):
        for batch in task.holdout.batches:
            found |= dict(zip(batch.index.tolist(), task.answers(task.outputs(task.model, batch), batch), strict=True))
    assert len(found) == 8
    for number, text in found.items():
        asked = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": asker.questions[number]}]}]
        frames = decode_video(asker.cells[number], None, FRAMES)
        prompt = reads.apply_chat_template(asked, tokenize=False)
        inputs = reads([prompt], [frames], do_sample_frames=False, return_tensors="pt")
        with ps.apply_(model, plan) as handle:
            written = model.generate(**inputs, do_sample=False)[0, inputs["input_ids"].shape[1] :]
            handle.remove()
        assert text == reads.tokenizer.decode(written, skip_special_tokens=True).strip()


def test_a_search_judges_it_label_free_and_by_what_it_writes(folder: str, data: Path, reads: ReadsClips) -> None:
    task = load(folder, data, task="fidelity")
    assert any("no answers are read" in note for note in task.notes)
    with ps.apply_(task.model, Plan()) as handle, torch.inference_mode():
        evaluator = Evaluator(task, handle, task.holdout)
        assert evaluator.unpruned().quality == 1.0
        pruned = evaluator.evaluate(PRUNED)
        assert float(pruned.kl.min()) > 0


def test_the_models_own_processor_makes_the_same_of_them(folder: str, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="pip install torchvision")
    import transformers as hf

    stand_in = ReadsClips(folder)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    size = {"height": 32, "width": 32}
    pixels = hf.LlavaOnevisionImageProcessor(size=size, **half)
    videos = hf.LlavaOnevisionVideoProcessor(size=size, **half)
    made = hf.LlavaOnevisionProcessor(
        pixels,
        stand_in.tokenizer,
        videos,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=stand_in.chat_template,
    )
    made.save_pretrained(folder)
    task = load(folder, data)
    asks: Any = task.holdout.batches
    asker = next(c.cell_contents for c in asks.inputs.__closure__ if hasattr(c.cell_contents, "questions"))
    batch = asker([0, 1])
    asker.processor = stand_in
    again = asker([0, 1])
    assert torch.equal(batch["input_ids"], again["input_ids"])
    torch.testing.assert_close(batch["pixel_values_videos"], again["pixel_values_videos"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_run_prices_and_tries_what_changes_from_frame_to_frame(
    folder: str, data: Path, reads: ReadsClips, tmp_path: Path
) -> None:
    config = RunConfig(model=folder, data=str(data), **{**SMALL, "calibration": 8, "holdout": 8})
    front = run(config, "clips", root=tmp_path)
    table = CostTable.load(tmp_path / "clips" / "cost_table.json")
    assert table.predict(Plan.parse("input/0:0.5 random+drop@frame_change")) > 0
    assert front.model.tokens - front.model.protected == TOKENS
    assert any("frames at even distances" in note for note in front.task.notes)
