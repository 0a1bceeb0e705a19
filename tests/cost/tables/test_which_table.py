"""Which of a profile's tables serves a run, and what is said where none does."""

from __future__ import annotations

import shlex

import pytest
from typer.main import get_command

from prunesearch.cli.app import app
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from tests.support.known_device import (
    CONDITIONS,
    SHAPE,
    known_table,
    one_line,
    true_total,
    write_profile,
)


def test_blocks_that_were_never_measured_have_no_table(profile):
    assert profile.find(SHAPE.model_copy(update={"width": 32}), CONDITIONS, "m") is None


MISMATCHES = [
    ({"batch_size": 32}, "batch_size=1, 8, but batch_size=32", "--batch-size 32"),
    ({"dtype": "float16"}, "dtype=float32, but dtype=float16", "--dtype float16"),
    ({"attention": "eager"}, "attention=sdpa, but attention=eager", "--attn eager"),
    ({"attention": "flash_attention_2"}, "attention=flash_attention_2", "--attn flash "),
    ({"mode": "compile"}, "mode=eager, but mode=compile", "--mode compile"),
]


@pytest.mark.parametrize(("asked", "said", "option"), MISMATCHES)
def test_a_mismatch_is_refused_with_the_line_that_mends_it_and_that_line_parses(profile, asked, said, option):
    with pytest.raises(PruneSearchError) as error:
        profile.find(SHAPE, {**CONDITIONS, **asked}, "my models/vit")
    text = one_line(error.value, "profile 'box'", said)
    line = text[text.index("prunesearch profile") :]
    assert option in line + " "
    name, *args = shlex.split(line)[1:]
    given = get_command(app).commands[name].make_context(name, args).params
    assert (given["model"], given["device"], given["name"]) == (["my models/vit"], "cpu", "box")
    wanted = {**CONDITIONS, **asked}
    assert given["batch_size"] == [wanted["batch_size"]]
    assert given["dtype"] == [wanted["dtype"]]
    assert (given["mode"] or "eager") == wanted["mode"]
    assert wanted["attention"].startswith(given["attention"])


def test_a_table_measured_among_other_requests_serves_nobody_who_is_alone(root):
    profile = write_profile(root, "box", known_table(concurrency=4))
    assert profile.tables[0].id.endswith("-eager-c4-t2")
    with pytest.raises(PruneSearchError) as error:
        profile.find(SHAPE, {**CONDITIONS, "concurrency": 1}, "m")
    one_line(error.value, "concurrency=4, but concurrency=1")
    assert profile.find(SHAPE, {**CONDITIONS, "concurrency": 4}, "m") is not None
    assert profile.command("m", {**CONDITIONS, "concurrency": 4}).endswith("--concurrency 4")


def test_a_table_that_says_nothing_of_others_was_measured_alone(root):
    facts = {k: v for k, v in known_table().conditions.items() if k != "concurrency"}
    profile = write_profile(root, "box", known_table().model_copy(update={"conditions": facts}))
    assert profile.find(SHAPE, {**CONDITIONS, "concurrency": 1}, "m") is not None
    with pytest.raises(PruneSearchError, match="concurrency=1, but concurrency=2"):
        profile.find(SHAPE, {**CONDITIONS, "concurrency": 2}, "m")


def test_the_refusal_never_says_that_what_is_asked_for_is_there(root):
    """bfloat16 was measured, but at batch 1 only; float32 at 8."""
    profile = write_profile(root, "box", known_table(), known_table(batch_size=1, dtype="bfloat16"))
    with pytest.raises(PruneSearchError) as error:
        profile.find(SHAPE, {**CONDITIONS, "dtype": "bfloat16"}, "m")
    text = str(error.value)
    assert sum(words in text for words in ("batch_size=1, but batch_size=8", "dtype=float32, but dtype=bfloat16")) == 1


def test_the_way_out_for_a_gpu_names_it(root):
    profile = write_profile(root, "card", device={"name": "Card", "kind": "cuda"})
    line = profile.command("vit", {**CONDITIONS, "device": "cuda", "mode": "cuda-graph"})
    assert line == (
        "prunesearch profile --model vit --device cuda:0 --name card --batch-size 8 --dtype float32 --attn sdpa "
        "--mode cuda-graph"
    )


def test_another_depth_is_added_up_and_said(profile):
    deeper = SHAPE.model_copy(update={"depth": 12})
    found = profile.find(deeper, CONDITIONS, "m")
    block = 0.2 + 0.02 * 65 + 0.1 + 0.04 * 65
    assert found.predict(Schedule()) == pytest.approx(true_total(Schedule()) + 6 * block, rel=1e-4)
    assert "table of 6 blocks, added up for 12" in found.notes
    assert profile.tables[0].notes == []


def test_fewer_tokens_are_interpolated_and_said_and_more_are_refused(profile):
    shorter = SHAPE.model_copy(update={"tokens": 50})
    found = profile.find(shorter, CONDITIONS, "m")
    assert any("interpolated for 50" in note for note in found.notes)
    assert found.mlp(50, 0) == pytest.approx(0.1 + 0.04 * 50, rel=1e-4)
    longer = SHAPE.model_copy(update={"tokens": 66})
    with pytest.raises(PruneSearchError) as error:
        profile.find(longer, {**CONDITIONS, "length": 66}, "m")
    one_line(error.value, "up to 65 tokens, but 66", "prunesearch profile --model m", "--length 66")


def test_the_shortest_table_that_is_long_enough_serves(root):
    long = known_table(shape=SHAPE.model_copy(update={"tokens": 65}), tokens=65)
    cut = known_table().for_shape(SHAPE.model_copy(update={"tokens": 50}))
    profile = write_profile(root, "box", long, cut)
    found = profile.find(SHAPE.model_copy(update={"tokens": 40}), CONDITIONS, "m")
    assert any(note.startswith("table of 50 tokens") for note in found.notes)


def test_a_vit_table_serves_a_deit_of_the_same_blocks(profile):
    deit = SHAPE.model_copy(update={"family": "deit"})
    found = profile.find(deit, CONDITIONS, "m")
    assert found.shape == deit
    assert found.predict(Schedule()) == pytest.approx(true_total(Schedule()), rel=1e-4)
    assert "embeddings and head are those of vit, not of deit" in found.notes


def test_a_table_of_the_same_family_is_preferred(root):
    deit = known_table(shape=SHAPE.model_copy(update={"family": "deit"}), model="a-deit")
    profile = write_profile(root, "box", deit, known_table(model="b-vit"))
    assert profile.find(SHAPE, CONDITIONS, "m").model == "b-vit"
    assert profile.find(deit.shape, CONDITIONS, "m").model == "a-deit"
