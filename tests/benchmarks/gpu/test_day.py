"""The mechanism of the day, on made-up steps and a clock that only they move."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gpu.day import DIED, Records, Step, work

SESSION = {"commit": "abc", "device": {"name": "made up"}}


class Machine:
    """Steps that take a known time, and a note of those that ran."""

    def __init__(self) -> None:
        self.now, self.ran = 0.0, []

    def step(self, name: str, worth: float, seconds: float, takes: float | None = None, part: str = "one") -> Step:
        def run() -> dict[str, str]:
            self.ran.append(name)
            self.now += seconds if takes is None else takes
            return {"name": name}

        return Step(part, name, worth, seconds, run)

    def failing(self, name: str, worth: float, error: BaseException) -> Step:
        def run() -> None:
            self.ran.append(name)
            raise error

        return Step("one", name, worth, 1.0, run)

    def work(self, steps: list[Step], folder: Path, ends_at: float = 1000.0, **more: Any) -> Any:
        return work(steps, folder, SESSION, ends_at=ends_at, clock=lambda: self.now, say=lambda text: None, **more)


def read(folder: Path, part: str = "one") -> dict[str, Any]:
    return json.loads((folder / f"{part}.json").read_text())


def test_the_worthiest_come_first_whatever_their_part_and_order(tmp_path: Path) -> None:
    machine = Machine()
    steps = [machine.step("c", 1, 1), machine.step("a", 3, 1, part="two"), machine.step("b", 2, 1)]
    told = machine.work(steps, tmp_path)
    assert machine.ran == ["a", "b", "c"]
    assert told.done == ["two: a", "one: b", "one: c"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "two.json"]
    assert read(tmp_path)["steps"]["b"]["result"] == {"name": "b"}


def test_what_would_not_end_in_time_is_left_and_a_shorter_one_is_not(tmp_path: Path) -> None:
    machine = Machine()
    told = machine.work(
        [machine.step("a", 3, 6), machine.step("long", 2, 5), machine.step("short", 1, 3)], tmp_path, 10
    )
    assert machine.ran == ["a", "short"]
    assert told.left == ["one: long"]
    assert machine.now <= 10


def test_a_part_that_takes_longer_than_estimated_is_expected_to(tmp_path: Path) -> None:
    machine = Machine()
    steps = [machine.step("a", 3, 2, takes=8), machine.step("b", 2, 2), machine.step("other", 1, 2, part="two")]
    told = machine.work(steps, tmp_path, 14)
    assert machine.ran == ["a", "other"]
    assert told.left == ["one: b"]


def test_what_is_there_is_not_run_again(tmp_path: Path) -> None:
    machine = Machine()
    steps = [machine.step("a", 2, 5), machine.step("b", 1, 5)]
    machine.work(steps, tmp_path, 7)
    told = machine.work(steps, tmp_path)
    assert machine.ran == ["a", "b"]
    assert told.done == ["one: a", "one: b"]


def test_a_failure_is_recorded_and_does_not_stop_the_rest(tmp_path: Path) -> None:
    machine = Machine()
    steps = [machine.failing("bad", 2, ValueError("no such kernel")), machine.step("good", 1, 1)]
    told = machine.work(steps, tmp_path)
    assert (told.done, told.failed, told.lost) == (["one: good"], ["one: bad"], False)
    record = read(tmp_path)["steps"]["bad"]
    assert "Traceback" in record["error"]
    assert "no such kernel" in record["error"]
    machine.work(steps, tmp_path)
    assert machine.ran == ["bad", "good"]
    machine.work(steps, tmp_path, retry=True)
    assert machine.ran == ["bad", "good", "bad"]


def test_a_result_that_says_wrong_counts_as_failed_and_is_kept(tmp_path: Path) -> None:
    step = Step("one", "a", 1, 1, lambda: {"wrong": ["row 2"], "rows": 5})
    assert Machine().work([step], tmp_path).failed == ["one: a"]
    assert read(tmp_path)["steps"]["a"]["result"]["rows"] == 5


def test_a_device_that_answers_no_more_ends_the_process_and_another_goes_on(tmp_path: Path) -> None:
    machine = Machine()
    steps = [machine.failing("bad", 2, RuntimeError("illegal memory access")), machine.step("good", 1, 1)]
    assert machine.work(steps, tmp_path, alive=lambda: False).lost
    assert machine.ran == ["bad"]
    told = machine.work(steps, tmp_path)
    assert (machine.ran, told.failed, told.lost) == (["bad", "good"], ["one: bad"], False)


def test_a_step_that_took_its_process_along_is_not_begun_again(tmp_path: Path) -> None:
    machine = Machine()
    steps = [machine.failing("bad", 2, SystemExit("as a crash would")), machine.step("good", 1, 1)]
    with pytest.raises(SystemExit):
        machine.work(steps, tmp_path)
    told = machine.work(steps, tmp_path)
    assert (machine.ran, told.failed) == (["bad", "good"], ["one: bad"])
    assert read(tmp_path)["steps"]["bad"]["error"] == DIED


def test_each_step_knows_the_session_that_it_ran_in(tmp_path: Path) -> None:
    machine = Machine()
    quiet: dict[str, Any] = {"ends_at": 9.0, "say": lambda text: None, "clock": lambda: machine.now}
    work([machine.step("a", 1, 1)], tmp_path, {"commit": "x"}, now=lambda: {"clock": 5}, **quiet)
    work([machine.step("a", 1, 1), machine.step("b", 1, 1)], tmp_path, {"commit": "y"}, **quiet)
    found = read(tmp_path)
    assert {name: found["sessions"][step["session"]]["commit"] for name, step in found["steps"].items()} == {
        "a": "x",
        "b": "y",
    }
    assert found["steps"]["a"]["machine"] == {"before": {"clock": 5}, "after": {"clock": 5}}


def test_other_files_of_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    Machine().work([Machine().step("a", 1, 1)], tmp_path)
    assert set(Records.open(tmp_path).parts) == {"one"}
    assert (tmp_path / "notes.json").read_text() == '{"mine": 1}'
