"""Events reach whoever listens, and nobody else."""

from __future__ import annotations

import io
import sys
import threading
from types import SimpleNamespace

import pytest

from prunesearch.core import events
from prunesearch.core.events import Note, PlainLine, Planned, Progress, StepBegun, listening


def test_a_listener_hears_its_block_in_order():
    heard = []
    events.say("before")
    with listening(heard.append):
        events.plan(2)
        events.step("one")
        events.say("two")
        events.warn("three")
    events.say("after")
    assert heard == [Planned(2), StepBegun("one"), Note("two"), Note("three", warning=True)]


def test_an_inner_listener_stands_in_for_the_outer_one_until_its_block_ends():
    outer, inner = [], []

    def fail():
        with listening(inner.append):
            events.say("in")
            raise KeyError

    with listening(outer.append):
        with pytest.raises(KeyError):
            fail()
        events.say("out")
    assert (inner, outer) == ([Note("in")], [Note("out")])


def test_other_threads_are_silent_and_a_progress_tells_its_own_listener_from_any():
    heard = []

    def work(progress):
        events.say("unheard")
        progress.advance(3)

    with listening(heard.append), events.moving("rows", 4) as progress:
        thread = threading.Thread(target=work, args=(progress,))
        thread.start()
        thread.join()
    assert heard == [Progress("rows", 0, 4), Progress("rows", 3, 4), Progress("rows", 3, 4, over=True)]


def test_tracking_yields_the_items_and_tells_how_many_are_done():
    heard = []
    with listening(heard.append):
        assert list(events.track("abc", 3, "letters")) == ["a", "b", "c"]
    assert [(e.done, e.over) for e in heard] == [(0, False), (1, False), (2, False), (3, False), (3, True)]


def test_a_progress_is_over_when_its_block_fails():
    heard = []
    with listening(heard.append), pytest.raises(KeyError), events.moving("rows", 4):
        raise KeyError
    assert heard[-1].over


def test_the_best_so_far_goes_with_the_progress():
    heard = []
    with listening(heard.append), events.moving("trials", None) as progress:
        progress.best("2x")
        progress.advance()
    assert [e.best for e in heard] == ["", "2x", "2x", "2x"]


def test_time_that_passes_is_told_seldom():
    now = [0.0]
    heard = []
    with listening(heard.append), events.passing("timing", 1.0, clock=lambda: now[0]) as tick:
        for _ in range(16):
            now[0] += 0.125
            tick()
    assert heard == [*(Progress("timing", done, 1.0, timed=True) for done in (0, 0.5, 1.0, 1.0, 1.0)), heard[-1]]
    assert heard[-1].over


def test_nobody_listens_by_default_but_a_notebook(monkeypatch):
    assert not events.heard()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not events.heard()  # IPython is imported, but this is no cell of it
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    assert events.heard()
    with listening(events.silent):
        assert not events.heard()


def test_a_plain_line_shows_notes_and_writes_progress_over():
    out = io.StringIO()
    line = PlainLine(out)
    line(StepBegun("loading"))
    line(Progress("trials", 5, 10, best="best 2x"))
    line(Progress("trials", 10, 10, over=True))
    assert out.getvalue().startswith("loading\n\rtrials: 50 % best 2x")
    assert out.getvalue().endswith("\r")
