"""What the live display prints."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from prunesearch.cli.live import Live, far_of
from prunesearch.core.events import Event, FrontGrew, Note, Planned, Progress, SoFar, StepBegun


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(events: list[tuple[float, Event]], *, terminal: bool = True) -> str:
    """What is printed when each event comes so many seconds after the one before it."""
    out, clock = io.StringIO(), Clock()
    live = Live(Console(file=out, force_terminal=terminal, width=100, color_system=None), clock=clock)
    for seconds, event in events:
        clock.now += seconds
        live(event)
    return out.getvalue()


def test_steps_are_numbered_and_what_is_said_in_them_is_indented():
    text = shown(
        [(0, Note("first")), (0, Planned(2)), (0, StepBegun("load")), (0, Note("[x] kept")), (0, StepBegun("end"))]
    )
    assert text == "first\n[1/2] load\n      [x] kept\n[2/2] end\n"


def test_a_warning_outside_of_a_step_says_whose_it_is():
    assert shown([(0, Note("changed", warning=True))]) == "prunesearch: changed\n"
    assert shown([(0, StepBegun("load")), (0, Note("noisy", warning=True))]) == "load\n      noisy\n"


def test_a_second_job_counts_anew():
    assert shown([(0, Planned(1)), (0, StepBegun("a")), (0, Planned(3)), (0, StepBegun("b"))]).endswith("[1/3] b\n")


@pytest.mark.parametrize(("terminal", "seconds", "seen"), [(True, 3.0, True), (True, 1.0, False), (False, 3.0, False)])
def test_a_bar_appears_on_a_terminal_after_two_seconds(terminal, seconds, seen):
    moves = [(0.0, Progress("rows", 0, 10)), (seconds, Progress("rows", 4, 10, best="best 2x"))]
    text = shown([*moves, (0.0, Progress("rows", 4, 10, over=True))], terminal=terminal)
    assert ("rows" in text) == seen
    assert ("40%, 0:04 left best 2x" in text) == seen
    assert bool(text) == seen


def test_a_bar_is_taken_away_when_it_is_over_and_what_follows_starts_anew():
    events = [(0.0, Progress("rows", 0, 10)), (3.0, Progress("rows", 4, 10)), (0.0, Progress("rows", 4, 10, over=True))]
    text = shown([*events, (0.0, Progress("rows", 0, 10)), (1.0, Progress("rows", 9, 10)), (0.0, Note("end"))])
    assert "90%" not in text
    assert text.endswith("end\n")


def test_it_is_redrawn_at_most_twice_a_second():
    moves = [(0.0, Progress("rows", 0, 1000)), (3.0, Progress("rows", 1, 1000))]
    moves += [(0.01, Progress("rows", 2 + i, 1000)) for i in range(100)]
    assert shown(moves).count("rows") <= 2 * 4  # rich draws a frame twice when it starts and ends


@pytest.mark.parametrize(
    ("event", "spent", "words"),
    [
        (Progress("x", 12.4, 50, timed=True), 12.4, "12 of 50 s"),
        (Progress("x", 7, None), 9, "7"),
        (Progress("x", 0, 10), 3, "0%"),
        (Progress("x", 5, 10), 4000, "50%, 1:06:40 left"),
        (Progress("x", 10, 10), 5, "100%"),
        (Progress("x", 12, 10), 5, "100%"),
        (Progress("x", 0, 0), 5, "100%"),
    ],
)
def test_how_far_in_words(event, spent, words):
    assert far_of(event, spent) == words


def test_the_front_grows_above_the_bar_and_goes_with_it():
    points = tuple(SoFar(f"1:0.{k}", 1 + k / 10, 0.9 - k / 100, k / 10) for k in range(1, 30))
    moves = [
        (0.0, Progress("trials", 0, 10)),
        (3.0, FrontGrew(points, "accuracy", 0.9)),
        (0.0, Progress("trials", 4, 10)),
    ]
    text = shown([*moves, (0.0, Progress("trials", 4, 10, over=True)), (0, Note("end"))])
    assert "accuracy, %" in text
    assert "1.10x" in text
    assert "3.90x" in text  # the ends of it
    assert "-29.0" in text
    assert text.count("1.10x") <= 2  # rich draws a frame twice when it ends
    assert len([line for line in text.splitlines() if "x " in line and "." in line]) <= 2 * 12
    assert text.endswith("end\n")
    assert not shown(moves, terminal=False)
