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
                assert question.answer == str(count) == str(len(question.about))
                assert all(what in (things[i].name, things[i].colour, "word") for i in question.about)
                continue
            (about,) = (things[i] for i in question.about)
            if question.kind == "looks":
                asked, given = question.form.split()
                (thing,) = [t for t in things if t.colour and given in (t.name, t.colour)]
                assert about == thing
                assert question.answer == (thing.colour if asked == "colour" else thing.name)
                assert f" {given} ?" in question.text
                continue
            side = next(s for s in shapes.SIDES if f" {s} " in question.text)
            down, right = shapes.SIDES[side]
            anchor = question.text.partition(f"{side} the ")[2].removesuffix(" ?").removeprefix("word ")
            (start,) = [t for t in things if f"{t.colour} {t.name}".strip() == anchor]
            assert about == start
            row, column = start.row + down, start.column + right
            while (row, column) not in cells:
                row, column = row + down, column + right
                assert 0 <= row < shapes.CELLS
                assert 0 <= column < shapes.CELLS
            near = cells[row, column]
            assert question.answer in (near.colour, near.name)
            assert (question.kind == "reading") == (not near.colour)


def test_pictures_repeat_and_show_what_they_say(made: Any) -> None:
    shapes, _ = made
    first, again = (next(shapes.samples(3, 4, first=5)) for _ in range(2))
    assert np.array_equal(np.asarray(first.picture), np.asarray(again.picture))
    assert first.questions == again.questions
    for thing, (left, top, right, bottom) in zip(first.things, first.boxes, strict=True):
        inside = np.asarray(first.picture)[int(top) + 1 : int(bottom), int(left) + 1 : int(right)].reshape(-1, 3)
        ink = shapes.COLOURS.get(thing.colour, (30, 30, 30))
        assert (np.abs(inside.astype(int) - ink).sum(1) < 60).mean() > 0.1, thing


def test_patches_are_taught_what_questions_ask_of_what_lies_on_them(made: Any) -> None:
    shapes, training = made
    looking = importlib.import_module("look_at_patches")
    sides = {word: i for i, word in enumerate((*shapes.SHAPES, *shapes.WORDS), 1)}
    shades = {word: i for i, word in enumerate(shapes.COLOURS, 1)}
    for sample in itertools.islice(shapes.samples(5, 40), 12):
        wanted = {name: target[0] for name, target in looking.targets_of([sample], training.PATCH).items()}
        for question in sample.questions:
            side = next((s for s in shapes.SIDES if f" {s} " in question.text), None)
            if question.kind == "count":
                what = question.form.removeprefix("count ")
                on = {"word": wanted["name"] > len(shapes.SHAPES)}.get(what, wanted["name"] == sides.get(what))
                kind = "of its colour" if what in shades else "of its name"
                on = wanted["colour"] == shades[what] if what in shades else on
                assert set(wanted[kind][on].tolist()) == ({int(question.answer)} if bool(on.any()) else set())
            elif side is not None:
                colour, name = _asked_of(question.text, side)
                on = (wanted["name"] == sides[name]) & (wanted["colour"] == shades.get(colour, 0))
                answer = question.answer
                kind, value = ("colour", shades[answer]) if answer in shades else ("name", sides[answer])
                assert set(wanted[f"{kind} {side}"][on].tolist()) == {value}, question


def _asked_of(text: str, side: str) -> tuple[str, str]:
    """Colour and name of what a question of place speaks of; a word has no colour."""
    colour, name = text.partition(f"{side} the ")[2].removesuffix(" ?").split()
    return ("", name) if colour == "word" else (colour, name)


def test_a_question_is_taught_as_if_it_were_asked_alone(made: Any, tmp_path: Path) -> None:
    shapes, training = made
    trainee, sample = training.Trainee(tmp_path, "tiny"), next(shapes.samples(2, 4))
    pixels, images = training.pixels_of([sample.picture]), 196
    with torch.no_grad():
        model = trainee.model.eval()
        taught = training.taught_rows(trainee.tokenizer, [sample.questions], images)
        together = model(**taught, pixel_values=pixels).logits[0]
        place = 1 + images
        for question in sample.questions:
            ids, mask, labels = training.rows_of(trainee.tokenizer, [[question]], images)
            alone = model(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits[0, 1 + images :]
            assert torch.equal(labels[0, 1 + images :], taught["labels"][0, place : place + len(alone)])
            assert torch.allclose(together[place : place + len(alone)], alone, atol=1e-5), question
            place += len(alone)
        assert place == together.shape[0]


def test_text_alone_gets_less_than_half_right(made: Any) -> None:
    shapes, _ = made
    shares = shapes.text_alone(2000, 500)
    assert 0.1 < shares["all"] <= 0.5
    assert max(shares.values()) <= 0.55
    few = shapes.text_alone(2000, 500, shapes.FEW)
    assert 0.2 < few["all"] <= 0.5
    assert set(few) == {"all", *shapes.FEW.kinds}


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
    assert again.pictures == training.BATCH + training.BATCH // 4
    found = training.gate(again, 6)
    assert found["passed"] is False
    assert all(0 <= found[shown]["all"] <= 1 for shown in ("pictures", "text alone", "most frequent answers", "shrunk"))
    sample = next(shapes.samples(training.JUDGE))
    ids = training.rows_of(again.tokenizer, [[]], 196)[0]
    question = torch.tensor([again.tokenizer(sample.questions[0].text)["input_ids"]])
    prompt = {"input_ids": torch.cat([ids, question], 1), "pixel_values": training.pixels_of([sample.picture])}
    prompt["attention_mask"] = torch.ones_like(prompt["input_ids"])
    with ps.apply_(again.model, parse_schedule("input/0:0.5 position_stride+drop > decoder/0:0.2 text_attention+drop")):
        said = again.model.generate(**prompt, max_new_tokens=3, do_sample=False)
        assert said.shape[1] > prompt["input_ids"].shape[1]


def test_it_begins_with_weights_whose_tower_has_looked(made: Any, tmp_path: Path) -> None:
    _, training = made
    first = training.Trainee(tmp_path / "first", "tiny")
    first.model.save_pretrained(tmp_path / "model")
    again = training.Trainee(tmp_path / "again", "tiny", begin=tmp_path / "model")
    before = {name: weight.clone() for name, weight in again.model.state_dict().items()}
    assert all(torch.equal(weight, before[name]) for name, weight in first.model.state_dict().items())
    again.piece(1e-9, 1.0)
    assert again.pictures == training.BATCH // 4  # it answers at once
    after = again.model.state_dict()
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed
    assert not any("vision_tower" in name for name in changed)
    assert training.Trainee(tmp_path / "again", "tiny").looking_share == 0.0


def test_the_end_of_a_question_is_told_where_to_look(made: Any, tmp_path: Path) -> None:
    shapes, training = made
    torch.manual_seed(0)
    trainee, batch = training.Trainee(tmp_path, "tiny"), list(itertools.islice(shapes.samples(4, 5), 2))
    rows = training.taught_rows(trainee.tokenizer, [s.questions for s in batch], 196)
    pixels = training.pixels_of([s.picture for s in batch])
    with torch.no_grad():
        out = trainee.model.eval()(**rows, pixel_values=pixels, output_hidden_states=True)
        found = trainee._seeking(out.hidden_states[training.SEEKS], rows, batch)
        eager = training.make_model("tiny", trainee.tokenizer).eval()  # the judge: transformers' own weights
        eager.load_state_dict(trainee.model.state_dict())
        eager.set_attn_implementation("eager")
        seen = eager(**rows, pixel_values=pixels, output_attentions=True).attentions[training.SEEKS].mean(1)
    losses = []
    for row, sample in enumerate(batch):
        taught = (rows["labels"][row] != -100).tolist()
        ends = [i - 1 for i in range(1, len(taught)) if taught[i] and not taught[i - 1]]
        for place, question in zip(ends, sample.questions, strict=True):
            patches = seen[row, place, 1:197]
            on = [i for i, shown in enumerate(training.seen_in(sample, question, training.PATCH).tolist()) if shown]
            if on:
                losses.append(-float((patches[on].sum() / patches.sum()).log()))
    assert len(losses) > 5
    # the mean over heads is of shares of the picture, so heads weigh a little otherwise than in the judge
    assert float(found) == pytest.approx(sum(losses) / len(losses), rel=0.02)


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
