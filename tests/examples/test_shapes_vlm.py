"""Pictures whose questions need them, and the training of what answers: tried at a size that takes a second."""

from __future__ import annotations

import importlib
import itertools
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import prunesearch as ps
from prunesearch.core.plans.schedule_text import parse_schedule
from tests.support.paths import EXAMPLES


@pytest.fixture(scope="module")
def made() -> Any:
    sys.path.insert(0, str(EXAMPLES))
    try:
        yield importlib.import_module("shapes_and_words"), importlib.import_module("train_shapes_vlm")
    finally:
        sys.path.remove(str(EXAMPLES))


def test_questions_have_one_answer_that_is_in_the_picture(made: Any) -> None:
    shapes, _ = made
    for sample in itertools.islice(shapes.samples(3, 9), 60):
        things, cells = sample.things, {(t.row, t.column): t for t in sample.things}
        assert shapes.FEWEST <= len(things) == len(cells) == len(sample.boxes) <= shapes.MOST
        words = [t.name for t in things if not t.colour]
        assert len(words) == len(set(words)) > 0
        assert sample.questions
        for question in shapes.all_questions(things):
            if question.kind == "count":
                what = question.form.removeprefix("count ")
                count = len(words) if what == "word" else sum(what in (t.name, t.colour) for t in things)
                assert question.answer == str(count)
                continue
            if question.kind == "looks":
                asked, given = question.form.split()
                (thing,) = [t for t in things if t.colour and given in (t.name, t.colour)]
                assert question.answer == (thing.colour if asked == "colour" else thing.name)
                assert f" {given} ?" in question.text
                continue
            side = next(s for s in shapes.SIDES if f" {s} " in question.text)
            down, right = shapes.SIDES[side]
            anchor = question.text.partition(f"{side} the ")[2].removesuffix(" ?").removeprefix("word ")
            (start,) = [t for t in things if f"{t.colour} {t.name}".strip() == anchor]
            row, column = start.row + down, start.column + right
            while (row, column) not in cells:
                row, column = row + down, column + right
                assert 0 <= row < shapes.CELLS
                assert 0 <= column < shapes.CELLS
            near = cells[row, column]
            assert question.answer in (near.colour, near.name)
            assert (question.kind == "reading") == (not near.colour)


def test_pictures_repeat_and_show_what_they_say(made: Any) -> None:
    shapes, training = made
    first, again = (next(shapes.samples(3, 4, first=5)) for _ in range(2))
    assert np.array_equal(np.asarray(first.picture), np.asarray(again.picture))
    assert first.questions == again.questions
    for thing, (left, top, right, bottom) in zip(first.things, first.boxes, strict=True):
        inside = np.asarray(first.picture)[int(top) + 1 : int(bottom), int(left) + 1 : int(right)].reshape(-1, 3)
        ink = shapes.COLOURS.get(thing.colour, (30, 30, 30))
        assert (np.abs(inside.astype(int) - ink).sum(1) < 60).mean() > 0.1, thing
    names, colours = training.patches_of(first)
    assert {int(n) for n in names} - {0} == {1 + training.NAMES.index(t.name) for t in first.things}
    assert len(set(colours.tolist())) > 1


def test_text_alone_gets_less_than_half_right(made: Any) -> None:
    shapes, _ = made
    shares = shapes.text_alone(2000, 500)
    assert 0.1 < shares["all"] <= 0.5
    assert max(shares.values()) <= 0.55


def test_it_trains_in_pieces_is_judged_and_can_be_pruned(made: Any, tmp_path: Path) -> None:
    shapes, training = made
    torch.manual_seed(0)
    trainee = training.Trainee(tmp_path, "tiny")
    trainee.piece(1e-9, 1.0)  # one step each
    assert trainee.pictures == training.BATCH
    again = training.Trainee(tmp_path, "tiny")
    assert (again.pictures, again.minutes) == (trainee.pictures, trainee.minutes)
    for name, weight in trainee.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
    again.minutes = 0.5
    again.piece(1e-9, 1.0)  # learns to answer
    assert again.pictures == 2 * training.BATCH
    found = training.gate(again, 6)
    assert found["passed"] is False
    assert all(0 <= found[shown]["all"] <= 1 for shown in ("pictures", "text alone", "shrunk"))
    sample = next(shapes.samples(training.JUDGE))
    ids = training.rows_of(again.tokenizer, [[]], 196)[0]
    question = torch.tensor([again.tokenizer(sample.questions[0].text)["input_ids"]])
    prompt = {"input_ids": torch.cat([ids, question], 1), "pixel_values": training.pixels_of([sample.picture])}
    prompt["attention_mask"] = torch.ones_like(prompt["input_ids"])
    with ps.apply_(again.model, parse_schedule("input/0:0.5 position_stride+drop > decoder/0:0.2 text_attention+drop")):
        said = again.model.generate(**prompt, max_new_tokens=3, do_sample=False)
        assert said.shape[1] > prompt["input_ids"].shape[1]


def test_a_piece_that_is_asked_to_stop_hears_it(made: Any) -> None:
    _, training = made
    before = signal.getsignal(signal.SIGTERM)
    with training.Stopped() as stopped:
        assert not stopped
        hears = signal.getsignal(signal.SIGTERM)
        assert callable(hears)
        hears(signal.SIGTERM, None)  # a real one ends a worker that other tests share
        assert stopped
    assert signal.getsignal(signal.SIGTERM) is before


def test_words_are_spelled(made: Any) -> None:
    shapes, training = made
    tokenizer = training.make_tokenizer()
    for question in shapes.all_questions(next(shapes.samples(3)).things):
        ids = tokenizer(f"{question.text} {question.answer}", add_special_tokens=False)["input_ids"]
        assert tokenizer.pad_token_id not in ids, question
    assert tokenizer.tokenize("the word KIT ?") == ["the", "word", "K", "I", "T", "?"]
