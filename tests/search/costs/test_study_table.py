"""Where a study's costs come from: a profile's table or an estimate, with what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import step
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.devices.device import describe_device
from prunesearch.cost.shape import conditions_of
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.device_profile import find_profile
from prunesearch.pruning.apply import apply_
from prunesearch.search.costs.study_table import cost_table, profile_table, say_table
from prunesearch.search.space.space import Space, SpaceFile
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.setup import make_setting
from prunesearch.study.target import Target
from tests.support.known_device import (
    CONDITIONS,
    SHAPE,
    known_table,
    one_line,
    settings,
    slower,
    true_total,
    write_model,
    write_profile,
)
from tests.support.some import some

ASKED = {**CONDITIONS, "tokens": 65}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Setting, handle and space of the known machine's model."""
    root = tmp_path_factory.mktemp("measure")
    write_model(root)
    config = RunConfig(**settings(root))
    setting = make_setting(config)
    with apply_(setting.task.model, Schedule()) as handle:
        space = Space(SpaceFile.load(config.space_path), 6, setting.task.tokens, 1)
        yield setting, handle, space


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(tmp_path / "profiles"))
    return tmp_path / "profiles"


def ask(profile, parts, **asked):
    setting, handle, space = parts
    return profile_table(profile, setting.task, handle, space, {**ASKED, **asked}, "my/model")


def test_a_measured_table_is_taken_with_its_error_and_its_source(root, parts):
    found = ask(write_profile(root, "box", known_table()), parts)
    assert (found.status, found.source, found.validation.mape) == ("measured", "from profile 'box'", 0.012)
    assert found.predict(Schedule([Stage(1, 0.5)])) == pytest.approx(true_total(Schedule([Stage(1, 0.5)])), rel=1e-4)


def test_a_table_that_breaks_its_promise_is_refused_with_what_would_mend_it(root, parts):
    broken = known_table(validation=known_table().validation.model_copy(update={"mape": 0.268}))
    with pytest.raises(PruneSearchError) as error:
        ask(write_profile(root, "box", broken), parts)
    one_line(error.value, "26.8% where 5% is promised", "prunesearch profile --model my/model", "--redo")


def test_counts_between_measured_ones_are_said(root, parts):
    """The space asks for 17, 33 and 49 tokens; the machine was measured at 8, 20, 33 and 50."""
    found = ask(write_profile(root, "box", known_table()), parts)
    assert "2 of 3 token counts lie between measured ones" in found.notes


def test_another_depth_is_said_in_the_notes(root, parts):
    deeper = known_table(shape=SHAPE.model_copy(update={"depth": 12}))
    found = ask(write_profile(root, "box", deeper), parts)
    assert found.notes[0] == "table of 12 blocks, added up for 6"


@pytest.mark.parametrize(
    ("asked", "option"),
    [
        ({"batch_size": 32}, "--batch-size 32"),
        ({"dtype": "bfloat16"}, "--dtype bfloat16"),
        ({"attention": "eager"}, "--attn eager"),
        ({"mode": "compile"}, "--mode compile"),
    ],
)
def test_other_conditions_are_refused_even_where_they_could_be_estimated(root, parts, asked, option):
    profile = write_profile(root, "box", known_table(), spec=find_profile("a100").spec)
    with pytest.raises(PruneSearchError) as error:
        ask(profile, parts, **asked)
    one_line(error.value, "'box'", option, "prunesearch profile --model my/model --device cpu --name box")


def test_a_model_that_nobody_measured_is_refused_with_what_there_is(root, parts):
    other = known_table(shape=SHAPE.model_copy(update={"width": 768}), model="vit-base")
    with pytest.raises(PruneSearchError) as error:
        ask(write_profile(root, "box", other), parts)
    one_line(error.value, "no table of this model's blocks (vit, width 16, 2 heads, MLP 64, gelu)", "it has vit-base")
    one_line(error.value, "prunesearch profile --model my/model --device cpu --name box --batch-size 8")
    with pytest.raises(PruneSearchError) as error:
        ask(write_profile(root, "empty"), parts)
    one_line(error.value, "it has no table at all")


def test_a_method_that_was_not_measured_is_refused(root, parts):
    table = known_table()
    cells = table.cells.model_copy(update={"reduce": [c for c in table.cells.reduce if c.merge != "fuse"]})
    profile = write_profile(root, "box", known_table(cells=cells))
    with pytest.raises(PruneSearchError) as error:
        ask(profile, parts)
    one_line(error.value, "has not measured method 'cls_attention+fuse'", "leave it out of the space", "--redo")


def test_where_there_is_a_spec_alone_costs_are_estimated_and_say_so(root, parts, heard):
    found = ask(find_profile("a100"), parts, device="cuda", dtype="float16")
    assert (found.status, found.source) == ("estimated", "estimated for 'a100-40gb'")
    assert found.validation.mape > 0.01
    assert "public measurements" in found.validation.against
    assert found.conditions["dtype"] == "float16"
    assert (found.conditions["threads"], found.conditions["device"]) == (None, "cuda")
    assert all(row["samples"] == 0 for row in some(found.cells.rows()))
    say_table(found)
    said = str(heard)
    assert f"estimated: mean {found.validation.mape:.1%}" in said
    assert "unseen schedules" not in said
    assert "measured in" not in said


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"attention": "flash_attention_2"}, ["sdpa and eager", "flash_attention_2"]),
        ({"dtype": "bfloat16"}, ["bfloat16"]),
    ],
)
def test_what_an_estimate_cannot_know_is_one_line(root, parts, asked, words):
    profile = find_profile("v100")  # no bfloat16 units
    with pytest.raises(PruneSearchError) as error:
        ask(profile, parts, **{"device": "cuda", "dtype": "float16", **asked})
    one_line(error.value, *words)


def test_the_studys_own_table_is_kept_and_its_conditions_are_checked(root, parts, tmp_path, heard):
    setting, handle, space = parts
    folder = StudyFolder.create("s", tmp_path)
    target = Target("cpu", write_profile(root, "box", known_table()), False)

    def get(**changes):
        config = setting.config.model_copy(update=changes)
        changed = replace(setting, config=config, target=target)
        return cost_table(folder.cost_table, changed, handle, space, step)

    first = get()
    assert CostTable.load(folder.cost_table) == first
    assert "cost table: measured, from profile 'box'" in heard.take()
    write_profile(root, "box", slower(known_table(), attention=2.0))
    assert get() == first
    assert "kept from before" in heard.take()
    with pytest.raises(PruneSearchError) as error:
        get(batch_size=4)
    one_line(error.value, "batch_size=8, but batch_size=4")
    folder.cost_table.write_text("{")
    with pytest.raises(PruneSearchError) as error:
        get()
    one_line(error.value, "is not JSON", "delete it to measure again")


def test_a_study_does_not_go_on_with_the_table_of_another_machine(parts, tmp_path):
    """One that machines share does: each evaluates, and costs are those of the table."""
    setting, handle, space = parts
    setting = replace(setting, target=Target("cpu", None, True))
    config, task = setting.config, setting.task
    asked = conditions_of(handle, task.timing_inputs(config.batch_size), task.tokens, config.mode, config.concurrency)
    table = known_table(**asked)
    path = StudyFolder.create("s", tmp_path).cost_table
    CostTable(**{**dict(table), "device": {**table.device, "name": "another machine"}}).save(path)
    with pytest.raises(PruneSearchError) as error:
        cost_table(path, setting, handle, space, step)
    name = describe_device("cpu")["name"]
    one_line(error.value, f"measured on another machine, but this is {name}", "begin another --study")
    shared = replace(setting, config=config.model_copy(update={"storage": "sqlite:///shared.db"}))
    found = cost_table(path, shared, handle, space, step)
    assert found.notes == [f"the cost table was measured on another machine, but this is {name}"]
    CostTable(**{**dict(table), "device": {**table.device, "name": name}}).save(path)
    assert cost_table(path, setting, handle, space, step).notes == []


def test_a_noisy_table_says_so(heard):
    table = known_table()
    table.noise.noisy, table.noise.why = True, "others used 40 % of the cores"
    say_table(table)
    said = str(heard)
    assert "error on 30 unseen schedules: mean 1.2%, worst 3.4%, rank correlation 0.997" in said
    assert "others used 40 % of the cores" in said
