"""Where a run's time goes is read off what it says; how parts grow is measured in processes of their own."""

from __future__ import annotations

import io

import pytest
import scaling
import time_to_front
from rich.console import Console

from prunesearch.core.events import FrontGrew, Note, SoFar, StepBegun

SAID = ["loading demo", "cost table: timing forwards", "sensitivities: one-stage", "search: schedules", "holdout: 12"]


def test_parts_begin_with_what_a_run_says_and_end_with_the_next() -> None:
    watch = time_to_front.Watch()
    times = iter([(1.0, 0.5), (4.0, 2.0), (9.0, 5.0), (10.0, 6.0), (12.0, 7.0), (13.0, 7.5), (20.0, 14.0)])
    watch.now = lambda: next(times)  # type: ignore[method-assign]
    for said in SAID[:4]:
        watch(StepBegun(said))
    points = tuple(SoFar("p", 1.0 + k, 0.9, 0.1) for k in range(5))
    watch(FrontGrew(points[:4], "accuracy", 0.9))
    watch(FrontGrew(points, "accuracy", 0.9))
    watch(StepBegun(SAID[4]))
    assert watch.first == (13.0, 7.5)
    assert watch.parts((30.0, 20.0), 0) == {
        "loading": 3.0,
        "table": 5.0,
        "losses": 1.0,
        "trials": 10.0,
        "holdout": 10.0,
    }
    assert watch.parts((30.0, 20.0), 1) == {"loading": 1.5, "table": 3.0, "losses": 1.0, "trials": 8.0, "holdout": 6.0}


def test_notes_are_kept_and_other_steps_are_no_part() -> None:
    watch = time_to_front.Watch()
    watch(StepBegun("something else"))
    watch(Note("the machine was noisy"))
    assert not watch.began
    assert watch.notes == ["the machine was noisy"]


def test_the_table_has_a_row_a_run() -> None:
    run = {
        "subject": "demo", "seed": 3, "parts": {"table": 9.0, "ladder": 4.0}, "cpu": {"table": 8.0, "ladder": 3.0},
        "first_front_s": 41.0, "first_front_cpu_s": 40.0, "end_s": 118.0, "end_cpu_s": 117.0, "mib": 700, "trials": 35,
        "table_mape": 0.02, "noisy": True, "hypervolume": None, "verdict": 2.26,
    }  # fmt: skip
    out = io.StringIO()
    time_to_front.show([run], Console(file=out, width=200))
    line = out.getvalue().splitlines()[-1]
    for word in ("demo 3", "9 (8)", "41 (40)", "118 (117)", "2.0% noisy", "2.26x"):
        assert word in line


def test_growths_are_named_by_what_they_grow_with() -> None:
    assert {growth.name.partition("by ")[2].split()[0] for growth in scaling.GROWTHS} == {
        "tokens", "depth", "rows", "trials", "points",
    }  # fmt: skip


@pytest.mark.parametrize("points", [2, 20])
def test_a_front_of_many_points_is_shown_and_written(points: int) -> None:
    scaling._points(points)
