"""`profile` on a tiny real model, whose measurement is the known machine's where only the keeping counts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from prunesearch.commands.profile import ProfileConfig, describe, grid, open_profile, profile
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.amount import kept_count
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import parse_method
from prunesearch.core.tables.registry import EFFORTS
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.devices.device import describe_device, kind_called
from prunesearch.cost.tables.device_profile import Profile, find_profile
from prunesearch.pruning.apply import runnable
from prunesearch.search.space.space import SpaceFile
from tests.support.known_device import SHAPE, known_energy, one_line, true_total
from tests.support.some import some


def config(folder: Path, root: Path, **changes) -> ProfileConfig:
    given = {"models": [str(folder / "model")], "batch_sizes": [1, 4], "root": root, "name": "box", "patience_s": 0.0}
    return ProfileConfig(**{**given, **changes})


def test_every_combination_is_measured_and_kept(folder, tmp_path, measured):
    found = profile(config(folder, tmp_path, dtypes=["float32", "bfloat16"]))
    assert [(c["rows"]) for c in measured.calls] == [1, 4, 1, 4]
    keys = {(t.conditions["batch_size"], t.conditions["dtype"]) for t in found.tables}
    assert keys == {(1, "float32"), (4, "float32"), (1, "bfloat16"), (4, "bfloat16")}
    loaded = Profile.load(tmp_path / "box")
    assert loaded == found
    assert {t.model for t in loaded.tables} == {"model"}
    assert {t.source for t in loaded.tables} == {"profile 'box'"}
    assert all(isinstance(pd.read_json(tmp_path / "box" / t.file), pd.DataFrame) for t in some(loaded.tables))


def test_the_second_call_measures_nothing_and_redo_measures_all(folder, tmp_path, measured):
    first = profile(config(folder, tmp_path))
    assert profile(config(folder, tmp_path)).tables == first.tables  # what the device is at may differ: its load
    assert len(measured.calls) == 2
    profile(config(folder, tmp_path, batch_sizes=[1, 4, 2]))
    assert [c["rows"] for c in measured.calls] == [1, 4, 2]
    again = profile(config(folder, tmp_path, redo=True))
    assert [c["rows"] for c in measured.calls] == [1, 4, 2, 1, 4]
    assert len(again.tables) == 3


def test_other_threads_are_other_conditions(folder, tmp_path, measured):
    profile(config(folder, tmp_path, batch_sizes=[1]))
    torch.set_num_threads(2)
    try:
        found = profile(config(folder, tmp_path, batch_sizes=[1]))
    finally:
        torch.set_num_threads(1)
    assert [t.conditions["threads"] for t in found.tables] == [1, 2]


def test_among_other_requests_is_another_condition(folder, tmp_path, measured):
    profile(config(folder, tmp_path, batch_sizes=[1]))
    found = profile(config(folder, tmp_path, batch_sizes=[1], concurrency=4))
    assert [c["concurrency"] for c in measured.calls] == [1, 4]
    assert sorted(t.conditions["concurrency"] for t in some(found.tables)) == [1, 4]
    assert len({t.file for t in found.tables}) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), ValueError("a bug")])
def test_cut_off_in_between_the_finished_tables_are_kept(folder, tmp_path, measured, error):
    measured.fails_at = {2: error}
    with pytest.raises(type(error)):
        profile(config(folder, tmp_path))
    assert [t.conditions["batch_size"] for t in Profile.load(tmp_path / "box").tables] == [1]
    found = profile(config(folder, tmp_path))
    assert [c["rows"] for c in measured.calls] == [1, 4, 4]
    assert len(found.tables) == 2


MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."),
]


@pytest.mark.parametrize("error", MEMORY, ids=["cuda", "python", "cpu", "cpu-windows"])
def test_out_of_memory_is_recorded_the_rest_goes_on_and_a_lookup_tells(folder, tmp_path, measured, error):
    measured.fails_at = {1: error}
    found = profile(config(folder, tmp_path, batch_sizes=[64, 1]))
    assert [t.conditions["batch_size"] for t in found.tables] == [1]
    (record,) = Profile.load(tmp_path / "box").out_of_memory
    assert (record.model, record.conditions["batch_size"]) == ("model", 64)
    asked = {"batch_size": 64, "dtype": "float32", "attention": "sdpa", "mode": "eager", "device": "cpu"}
    with pytest.raises(PruneSearchError) as refused:
        found.find(record.shape, asked, "m")
    one_line(refused.value, "ran out of memory at batch 64")
    profile(config(folder, tmp_path, batch_sizes=[64]))
    assert len(measured.calls) == 2  # it is not tried again
    redone = profile(config(folder, tmp_path, batch_sizes=[64], redo=True))
    assert redone.out_of_memory == []
    assert redone.find(record.shape, asked, "m") is not None


def test_other_runtime_errors_are_no_lack_of_memory(folder, tmp_path, measured):
    measured.fails_at = {1: RuntimeError("shapes do not match")}
    with pytest.raises(RuntimeError, match="shapes do not match"):
        profile(config(folder, tmp_path))


def test_paths_and_names_of_this_machine_stay_out_of_the_files(folder, tmp_path, measured):
    import getpass
    import socket

    profile(config(folder, tmp_path))
    for path in some((tmp_path / "box").rglob("*.json")):
        text = path.read_text()
        for private in (
            str(folder),
            str(tmp_path),
            str(Path.home()) + "/",
            socket.gethostname(),
            f'"{getpass.getuser()}"',
        ):
            assert private not in text, private


def test_two_folders_of_one_name_keep_a_table_each(folder, tmp_path, measured):
    both = config(folder, tmp_path, models=[str(folder / "model"), str(folder / "wide" / "model")], batch_sizes=[1])
    profile(both)
    found = profile(both)
    assert len(measured.calls) == 2
    assert [t.shape.width for t in found.tables] == [16, 32]


def test_a_real_measurement_is_right_about_itself(folder, tmp_path):
    """The one test that measures: all pieces are there, and the error inside is that of 30 unseen schedules."""
    with EFFORTS.registered("short", 1.0, "for a test", counts=3, rounds=1, windows=2):
        found = profile(config(folder, tmp_path, batch_sizes=[1], effort="short"))
    (entry,) = found.tables
    assert entry.validation.unseen == 30
    assert len(entry.validation.schedules) == 31
    assert entry.shape == SHAPE
    for name in ("torch", "transformers", "python", "date", "threads", "affinity", "name", "os"):
        assert entry.device[name] is not None
    table = found.read(entry)
    assert {c.n for c in table.cells.mlp} >= set(grid(SHAPE, 3))
    asked = set(SpaceFile.load(None).methods())
    scorers, merges = {c.scorer for c in table.cells.reduce}, {c.merge for c in table.cells.reduce}
    for method in some(asked):
        scorer, merge = parse_method(method)
        assert merge in merges
        assert scorer in scorers or not MERGES.entry(merge).uses_scores
    assert describe(table).startswith(f"{table.predict(Schedule()):.4g} ms unpruned, mean error")


def test_flash_attention_gets_only_what_it_can_run():
    """No attention weights and no `+ log(size)`: what makes sizes is left out."""
    everything = SpaceFile.load(None).methods()
    methods = runnable(everything, "flash_attention_2")
    assert methods
    assert set(methods) < set(everything)
    assert not any(MERGES.entry(parse_method(m)[1]).makes_sizes for m in methods)


def test_the_grid_has_what_the_default_space_asks_for_and_a_margin_below():
    for shape in (SHAPE, SHAPE.model_copy(update={"tokens": 197}), SHAPE.model_copy(update={"tokens": 9})):
        reducible = shape.tokens - shape.protected
        for counts in (9, 14, 64):
            found = grid(shape, counts)
            assert found == sorted(set(found))
            assert shape.protected < found[0]
            assert found[-1] < shape.tokens
            asked = {shape.protected + kept_count(k, reducible) for k in SpaceFile.load(None).keep}
            assert {n for n in asked if n < shape.tokens} <= set(found)
            assert found[0] <= min(asked)
    assert len(grid(SHAPE.model_copy(update={"tokens": 197}), 64)) > 60


# -- energy ------------------------------------------------------------------------------------------------


class Meter:
    """What `profile` looks at of a meter."""

    class counter:  # noqa: N801
        name, covers = "simulated", "everything"


class Fits(list):
    """Stands in for `fit_table_energy`; its calls are noted."""

    def __call__(self, *args, **options):
        self.append(options)
        return known_energy()


@pytest.fixture
def fits() -> Fits:
    return Fits()


def test_energy_goes_into_the_table_and_its_source_into_the_profile(folder, tmp_path, measured, fits):
    found = profile(config(folder, tmp_path, energy=True, effort="full"), Meter(), fits)
    assert all(t.energy == known_energy() for t in some(Profile.load(tmp_path / "box").tables))
    assert (found.energy.status, found.energy.source) == ("measured", "simulated (everything)")
    assert fits[0]["repeats"] == EFFORTS.entry("full").windows == 5


def test_tables_without_energy_are_measured_again_when_it_is_asked_for(folder, tmp_path, measured, fits):
    """Else the way out that `run --objective energy` names would do nothing."""
    profile(config(folder, tmp_path))
    found = profile(config(folder, tmp_path, energy=True), Meter(), fits)
    assert len(fits) == 2
    assert all(t.energy is not None for t in some(found.tables))
    profile(config(folder, tmp_path, energy=True), Meter(), fits)
    profile(config(folder, tmp_path))
    assert (len(fits), len(measured.calls)) == (2, 4)


def test_where_there_is_no_counter_the_profile_says_why_and_latency_is_measured(folder, tmp_path, measured, heard):
    found = profile(config(folder, tmp_path, energy=True), Unavailable("no counter: a virtual machine"))
    assert "energy is unavailable: no counter: a virtual machine" in str(heard)
    assert len(found.tables) == 2
    energy = Profile.load(tmp_path / "box").energy
    assert (energy.status, energy.reason) == ("unavailable", "no counter: a virtual machine")


def test_the_reason_is_kept_even_if_every_table_was_there(folder, tmp_path, measured):
    profile(config(folder, tmp_path))
    assert "not asked for" in Profile.load(tmp_path / "box").energy.reason
    profile(config(folder, tmp_path, energy=True), Unavailable("no counter"))
    assert Profile.load(tmp_path / "box").energy.reason == "no counter"


# -- bad input ---------------------------------------------------------------------------------------------


BAD = [
    ({"models": ["deit-tyni"]}, ["deit-tyni", "did you mean 'deit-tiny'"]),
    ({"models": ["deit-tiny", "nowhere/at/all"]}, ["nowhere/at/all"]),
    ({"device": "tpu9"}, ["tpu9"]),
    ({"dtypes": ["float8"]}, ["float8", "float16"]),
    ({"attention": "sdpaa"}, ["sdpaa", "did you mean 'sdpa'"]),
    ({"mode": "graph"}, ["graph", "cuda-graph"]),
    ({"mode": "cuda-graph"}, ["runs on cuda", "eager"]),
    ({"batch_sizes": [8, 0]}, ["batch size >= 1", "0"]),
    ({"name": "My Box"}, ["My Box", "--name my-box"]),
    ({"name": "cuda"}, ["torch device"]),
    ({"concurrency": 0}, ["concurrency >= 1", "0"]),
    ({"effort": "fast"}, ["fast", "quick"]),
]


@pytest.mark.parametrize(("changes", "words"), BAD, ids=[words[0] for _, words in BAD])
def test_bad_input_is_one_line_before_anything_is_measured(folder, tmp_path, measured, changes, words):
    with pytest.raises(PruneSearchError) as error:
        profile(config(folder, tmp_path, **changes))
    one_line(error.value, *words)
    assert measured.calls == []
    assert list(tmp_path.iterdir()) == []


def test_a_profile_of_another_device_is_not_mixed_into(folder, tmp_path, measured):
    found = profile(config(folder, tmp_path))
    found.device["name"] = "Another CPU"
    found.save()
    with pytest.raises(PruneSearchError) as error:
        profile(config(folder, tmp_path))
    one_line(error.value, "'box' is of Another CPU", "choose another --name")


def test_the_default_name_is_made_from_the_device(tmp_path):
    opened = open_profile(ProfileConfig(root=tmp_path))
    assert opened.folder.parent == tmp_path
    assert opened.name == opened.folder.name == kind_called("cpu").profile_name(describe_device("cpu"))
    assert not opened.folder.exists()


def test_known_costs_survive_the_way_through_a_profile(folder, tmp_path, measured):
    found = profile(config(folder, tmp_path, batch_sizes=[1]))
    asked = {"batch_size": 1, "dtype": "float32", "attention": "sdpa", "mode": "eager", "device": "cpu"}
    table = found.find(SHAPE, asked, "m")
    assert table.predict(Schedule()) == pytest.approx(true_total(Schedule()), rel=1e-4)


def test_a_gpu_that_has_a_datasheet_keeps_it_in_its_profile(tmp_path):
    """Models that nobody measured there can still be estimated; the shipped profile's folder becomes a measured one."""
    facts = {**describe_device("cpu"), "kind": "cuda", "name": "NVIDIA H200", "sm_count": 132}
    found = open_profile(ProfileConfig(device="cuda", name="h200", root=tmp_path), facts)
    assert found.spec == find_profile("h200").spec
    find_profile("h200").model_copy(update={"folder": tmp_path / "h200"}).save()
    again = open_profile(ProfileConfig(device="cuda", name="h200", root=tmp_path), facts)
    assert (again.spec, again.device["sm_count"]) == (found.spec, 132)
    with pytest.raises(PruneSearchError, match="choose another --name"):
        open_profile(
            ProfileConfig(device="cuda", name="h200", root=tmp_path), {**facts, "name": "Tesla T4", "sm_count": 40}
        )
