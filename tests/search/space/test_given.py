"""Schedules that a search is given: moved to what its space has, or refused in one line; then tried first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.export import FORMATS, ModelShape, import_schedule
from prunesearch.search.space.given import given_seed
from tests.support.fakes import DEPTH, TOKENS, make_space

SHAPE = (DEPTH, TOKENS, 1)  # levels of the space: 17, 13, 9 and 5 tokens


def write(folder: Path, schedule: Schedule) -> Path:
    path = folder / "seed.json"
    path.write_text(schedule.to_json())
    return path


def test_a_member_of_the_space_is_taken_as_it_is(tmp_path: Path) -> None:
    told = Schedule([Stage(0, 0.75, "value_norm", "drop"), Stage(2, 0.25, merge="bipartite")])
    assert given_seed(write(tmp_path, told), make_space()) == (told, [])


def test_every_stage_goes_to_the_nearest_number_of_tokens(tmp_path: Path) -> None:
    told = Schedule([Stage(1, 0.7, "value_norm", "fuse"), Stage(3, 0.4, "cls_attention", "drop")])
    assert told.counts(*SHAPE) == [17, 13, 13, 8]
    space = make_space()
    found, notes = given_seed(write(tmp_path, told), space)
    assert found.counts(*SHAPE) == [17, 13, 13, 9]
    assert [(s.layer, s.method) for s in found] == [(1, "value_norm+fuse"), (3, "cls_attention+drop")]
    assert [note.partition(": ")[2] for note in notes] == ["block 3 leaves 9 tokens, not 8"]
    assert space.encode(found) is not None


def test_a_step_smaller_than_the_space_has_is_left_out_and_said(tmp_path: Path) -> None:
    told = Schedule([Stage(0, 15 / 16, "value_norm", "drop"), Stage(1, 0.75, "value_norm", "drop")])
    found, notes = given_seed(write(tmp_path, told), make_space())
    assert [(s.layer, s.keep) for s in found] == [(1, 0.75)]
    assert "the stage at block 0 is left out" in notes[0]


def test_an_import_of_another_tool_is_a_seed(tmp_path: Path) -> None:
    told = import_schedule("r = [0, 4, 4, 0]", FORMATS["tome"], ModelShape(*SHAPE)).schedule
    found, notes = given_seed(write(tmp_path, told), make_space())
    assert (found.counts(*SHAPE), notes) == ([17, 13, 9, 9], [])


@pytest.mark.parametrize(
    ("schedule", "changes", "expected"),
    [
        (Schedule([Stage(0, 0.75, "key_redundancy", "drop")]), {}, "uses key_redundancy+drop, which the space has not"),
        (Schedule([Stage(1, 0.75)]), {"layers": [0, 2]}, "a stage at block 1, but the space has [0, 2]"),
        (Schedule([Stage(i, 0.9 - i / 5) for i in range(4)]), {}, "has 4 stages, but the space allows 3: raise"),
    ],
)
def test_what_the_space_has_not_is_one_line(
    tmp_path: Path, schedule: Schedule, changes: dict[str, object], expected: str
) -> None:
    with pytest.raises(PruneSearchError) as error:
        given_seed(write(tmp_path, schedule), make_space(**changes))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_no_schedule(tmp_path: Path) -> None:
    with pytest.raises(PruneSearchError, match="cannot be read"):
        given_seed(tmp_path / "none.json", make_space())
    for text in ("not json", json.dumps({"format": "other"}), "[]"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(CorruptFileError, match="is no schedule") as error:
            given_seed(tmp_path / "bad.json", make_space())
        assert "\n" not in str(error.value)
