from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.tables.device_profile import (
    OutOfMemory,
    Profile,
    aliases_of,
    check_profile_name,
    find_profile,
    profile_folders,
    table_id,
    user_root,
)
from tests.support.known_device import (
    CONDITIONS,
    SHAPE,
    known_energy,
    known_table,
    one_line,
    true_total,
    write_profile,
)


def edit(profile: Profile, change: Any) -> Path:
    """Change `profile.json` on disk; returns the profile's folder."""
    path = profile.folder / "profile.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return profile.folder


# -- files -------------------------------------------------------------------------------------------------


def test_a_table_comes_back_as_it_was_and_predicts_the_same(profile):
    loaded = Profile.load(profile.folder)
    assert loaded == profile
    found = loaded.find(SHAPE, CONDITIONS, "model")
    assert found.conditions == known_table().conditions
    for schedule in (
        Schedule(),
        Schedule([Stage(1, 0.5)]),
        Schedule([Stage(0, 0.75), Stage(3, 0.2, merge="bipartite")]),
    ):
        assert found.predict(schedule) == pytest.approx(true_total(schedule), rel=1e-4)
        assert found.predict(schedule) == pytest.approx(known_table().predict(schedule), rel=1e-4)


def test_tables_are_read_by_pandas(profile):
    entry = profile.tables[0]
    frame = pd.read_json(profile.folder / entry.file)
    cells = known_table().cells
    assert len(frame) == len(cells)
    by_piece = frame.groupby("piece").size().to_dict()
    assert by_piece == {p: 1 if p == "stem" else len(getattr(cells, p)) for p in type(cells).model_fields}
    mlp = frame[(frame.piece == "mlp") & (frame.n == 65)]
    assert mlp.ms.item() == pytest.approx(0.1 + 0.04 * 65, rel=1e-4)
    assert "samples_us" not in frame.columns


def test_single_timings_of_the_validation_stay_out(root):
    checked = known_table().validation.model_copy(update={"samples_us": [[1.0, 2.0]] * 3})
    found = write_profile(root, "box", known_table(validation=checked))
    assert found.tables[0].validation.samples_us == []
    assert found.tables[0].validation.mape == 0.012


def test_a_table_that_does_not_know_its_error_is_refused(root):
    with pytest.raises(PruneSearchError) as error:
        write_profile(root, "box", known_table(validation=None))
    one_line(error.value, "error on unseen schedules", "measure_table")


def test_a_table_takes_the_place_of_one_of_the_same_key_alone(profile):
    profile.put(known_table(seconds=99.0))
    assert len(profile.tables) == 3
    profile.put(known_table(threads=1))
    assert len(profile.tables) == 4
    assert [t.seconds for t in profile.tables if t.conditions["batch_size"] == 8] == [1.0, 99.0]
    assert len({t.file for t in profile.tables}) == 4


def test_two_folders_of_one_name_do_not_overwrite_each_other(root):
    """`checkpoint-500` of one training and of another."""
    deeper = SHAPE.model_copy(update={"depth": 9})
    found = write_profile(root, "box", known_table(), known_table(shape=deeper))
    assert [t.shape.depth for t in found.tables] == [6, 9]
    assert len({(found.folder / t.file).read_text() != "" and t.file for t in found.tables}) == 2
    found.put(known_table(shape=deeper, seconds=7.0))
    assert [(t.shape.depth, t.seconds) for t in found.tables] == [(6, 1.0), (9, 7.0)]


def test_a_measured_table_makes_a_profile_measured(root):
    spec = find_profile("a100").spec
    found = write_profile(root, "a100-40gb", status="estimated", spec=spec)
    assert found.status == "estimated"
    found.put(known_table())
    assert Profile.load(found.folder).status == "measured"
    assert Profile.load(found.folder).spec == spec


def test_the_name_of_a_table_says_its_conditions():
    assert table_id(known_table(model="google/ViT base!")) == "google-vit-base-n65-b8-float32-sdpa-eager-t2"
    on_gpu = known_table(threads=None, device="cuda", mode="cuda-graph")
    assert table_id(on_gpu) == "known-n65-b8-float32-sdpa-cuda-graph"


BROKEN = [
    (lambda d: d.update(version=2), ["version 2", "newer than 1", "upgrade prunesearch"]),
    (lambda d: d.update(version="1"), ["`version`"]),
    (lambda d: d.update(format="nn-meter"), ['"format": "prunesearch.profile"']),
    (lambda d: d.update(units={"time": "us", "energy": "mJ"}), ["`units.time`", "'ms'"]),
    (lambda d: d.update(units={"time": "ms", "energy": "J"}), ["`units.energy`", "'mJ'"]),
    (lambda d: d.update(colour="red"), ["`colour`"]),
    (lambda d: d["tables"][1].update(latencies=[1]), ["`tables.1.latencies`"]),
    (lambda d: d.update(status="guessed"), ["`status`", "'measured' or 'estimated'"]),
    (lambda d: d["tables"][0].update(seconds=-1.0), ["`tables.0.seconds`", "greater than or equal to 0"]),
    (lambda d: d["tables"][0].update(validation=None), ["`tables.0.validation`"]),
    (lambda d: d["tables"][0]["conditions"].pop("mode"), ["`tables.0`", "`conditions` must hold mode"]),
    (lambda d: d["tables"][0]["shape"].update(depth=0), ["`tables.0.shape.depth`"]),
    (lambda d: d.pop("energy"), ["`energy`"]),
    (lambda d: d.update(tables="none"), ["`tables`"]),
]


@pytest.mark.parametrize(("change", "words"), BROKEN, ids=[words[0] for _, words in BROKEN])
def test_a_broken_profile_is_one_line_with_file_field_and_way_out(profile, change, words):
    folder = edit(profile, change)
    with pytest.raises(CorruptFileError) as error:
        Profile.load(folder)
    text = one_line(error.value, str(folder / "profile.json"), *words)
    assert "prunesearch profile" in text or "upgrade prunesearch" in text


@pytest.mark.parametrize("text", ["{", "", "[1, 2]", '"profile"', "null", "\x00\x01"])
def test_what_is_no_json_object_is_one_line(profile, text):
    (profile.folder / "profile.json").write_text(text)
    with pytest.raises(CorruptFileError) as error:
        Profile.load(profile.folder)
    one_line(error.value, "profile.json", "measure again (prunesearch profile)")


def test_bytes_that_are_no_text_are_one_line(profile):
    (profile.folder / "profile.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(CorruptFileError, match="is not JSON"):
        Profile.load(profile.folder)


def test_a_profile_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(PruneSearchError) as error:
        Profile.load(tmp_path / "none")
    one_line(error.value, "cannot be read", "No such file")


def ruin(rows, **changes):
    rows[3].update(changes)
    return rows


BROKEN_TABLES = [
    (lambda rows: ruin(rows, ms=-1.0), ["greater than or equal to 0"]),
    (lambda rows: ruin(rows, median_ms=-0.1), ["median_ms", "greater than or equal to 0"]),
    (lambda rows: ruin(rows, ms="fast"), ["valid number"]),
    (lambda rows: ruin(rows, us=3), ["us"]),
    (lambda rows: ruin(rows, samples=0), ["a measured cell has samples"]),
    (lambda rows: ruin(rows, piece="softmax"), ["softmax"]),
    (lambda rows: rows[1:], ["stem"]),
    (lambda rows: {"cells": rows}, ["no list of cells"]),
    (lambda rows: [[1, 2]], ["no list of cells"]),
    (lambda rows: "rows", ["no list of cells"]),
    (lambda rows: 3, ["no list of cells"]),
]


@pytest.mark.parametrize("change", [c for c, _ in BROKEN_TABLES], ids=[w[0] for _, w in BROKEN_TABLES])
def test_a_broken_table_is_one_line_with_file_and_way_out(profile, change):
    path = profile.folder / profile.tables[0].file
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    words = next(w for c, w in BROKEN_TABLES if c is change)
    with pytest.raises(CorruptFileError) as error:
        profile.read(profile.tables[0])
    one_line(error.value, str(path), "prunesearch profile --redo", *words)


def test_a_torn_or_missing_table_is_one_line_and_the_others_still_serve(profile):
    files = {t.conditions["batch_size"]: profile.folder / t.file for t in profile.tables}
    files[8].write_text('[\n{"piece": "stem", "ms"')
    with pytest.raises(CorruptFileError) as error:
        profile.find(SHAPE, CONDITIONS, "m")
    one_line(error.value, str(files[8]), "--redo")
    files[8].unlink()
    with pytest.raises(CorruptFileError) as error:
        profile.find(SHAPE, CONDITIONS, "m")
    one_line(error.value, str(files[8]), "No such file", "--redo")
    assert profile.find(SHAPE, {**CONDITIONS, "batch_size": 1}, "m") is not None


# -- out of memory -----------------------------------------------------------------------------------------


def test_what_did_not_fit_is_told_until_it_is_measured(profile):
    conditions = {**known_table().conditions, "batch_size": 512}
    record = OutOfMemory(model="known", shape=SHAPE, conditions=conditions)
    profile.put_out_of_memory(record)
    profile.put_out_of_memory(record)
    again = Profile.load(profile.folder)
    assert len(again.out_of_memory) == 1
    assert again.has(SHAPE, conditions)
    with pytest.raises(PruneSearchError) as error:
        again.find(SHAPE, {**CONDITIONS, "batch_size": 512}, "m")
    one_line(error.value, "'box'", "ran out of memory at batch 512", "smaller --batch-size")
    assert again.find(SHAPE, CONDITIONS, "m") is not None
    again.put(known_table(batch_size=512))
    assert Profile.load(profile.folder).find(SHAPE, {**CONDITIONS, "batch_size": 512}, "m") is not None


def test_has_is_exact_and_knows_whether_energy_was_measured(profile):
    conditions = known_table().conditions
    assert profile.has(SHAPE, conditions)
    for change in (
        {"concurrency": 4},
        {"threads": 1},
        {"cores": 1},
        {"tokens": 64},
        {"mode": "compile"},
        {"batch_size": 2},
    ):
        assert not profile.has(SHAPE, {**conditions, **change})
    assert not profile.has(SHAPE.model_copy(update={"depth": 7}), conditions)
    assert not profile.has(SHAPE, conditions, energy=True)
    profile.put(known_table(energy=known_energy()))
    assert profile.has(SHAPE, conditions, energy=True)
    assert Profile.load(profile.folder).tables[-1].energy == known_energy()


# -- names -------------------------------------------------------------------------------------------------


def test_a_users_profile_shadows_a_shipped_one_of_the_same_name(root):
    assert find_profile("a100-40gb").status == "estimated"
    write_profile(root, "a100-40gb", known_table())
    found = find_profile("a100-40gb")
    assert (found.status, found.folder) == ("measured", root / "a100-40gb")
    assert profile_folders()["a100-40gb"] == root / "a100-40gb"
    assert list(profile_folders()) == sorted(profile_folders())


def test_aliases_find_their_profile_and_near_misses_are_named(root):
    assert find_profile("a100").name == "a100-40gb"
    write_profile(root, "box", aliases=["laptop"])
    assert find_profile("laptop").name == "box"
    with pytest.raises(PruneSearchError) as error:
        find_profile("lptop")
    one_line(error.value, "no device or profile 'lptop'", "did you mean 'laptop'?", "h200")
    for name in ("../box", "", "box/profile.json", "a100 "):
        with pytest.raises(PruneSearchError, match="no device or profile"):
            find_profile(name)


def test_a_users_alias_shadows_a_shipped_one(root):
    write_profile(root, "zoo", aliases=["a100"])
    assert find_profile("a100").name == "zoo"
    write_profile(root, "aaa", aliases=["h100-sxm"])
    assert find_profile("h100-sxm").name == "aaa"


def test_a_broken_profile_hides_neither_names_nor_aliases_of_others(root, profile):
    (root / "bad").mkdir()
    (root / "bad" / "profile.json").write_text("{")
    assert find_profile("box").name == "box"
    assert "bad" not in aliases_of(profile_folders()).values()
    assert find_profile("a100").name == "a100-40gb"
    with pytest.raises(CorruptFileError, match="is not JSON"):
        find_profile("bad")


def test_without_a_users_folder_the_shipped_profiles_are_there(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(tmp_path / "none"))
    assert {"a100-40gb", "h100", "h200", "v100", "t4", "l4", "a10", "rtx-3090", "rtx-4090"} <= set(profile_folders())
    monkeypatch.delenv("PRUNESEARCH_PROFILES")
    assert user_root() == Path.home() / ".prunesearch" / "hw_profiles"


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "Box", "my box", "../x", "", ".hidden", "x" * 65, "ä"])
def test_names_that_cannot_be_are_refused(name):
    with pytest.raises(PruneSearchError) as error:
        check_profile_name(name)
    one_line(error.value, "--name my-box")


def test_names_that_can_be():
    assert [check_profile_name(n) for n in ("my-box", "h200", "a.b_c", "0")] == ["my-box", "h200", "a.b_c", "0"]
