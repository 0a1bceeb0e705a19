"""The front on screen: what is on it, when it is told of, and when the first is there."""

from __future__ import annotations

from prunesearch.core.events import Event, FrontGrew, Note, listening, moving
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.search.trials.growing import GrowingFront
from prunesearch.study.trials import TrialRecord


def record(number: int, ms: float, loss: float, quality: float, rows: int | None = None) -> TrialRecord:
    plan = Plan(Schedule([Stage(number % 4, 1 / (2 + number))]))
    return TrialRecord(number, plan, quality, loss, ms, None, (ms,), "sampler", 1.0, rows, None)


def heard(records: list[TrialRecord]) -> list[Event]:
    events: list[Event] = []
    with listening(events.append), moving("trials", None) as progress:
        front = GrowingFront(10.0, 0.8, "accuracy", progress, 2.0, clock=lambda: 43.4)
        for one in records:
            front.see(one)
    return events


def test_the_front_is_told_of_when_it_grows_without_what_is_dominated_or_estimated():
    told = heard([record(0, 5, 0.2, 0.7), record(1, 6, 0.3, 0.7), record(2, 8, 0.1, 0.795), record(3, 7, 0.0, 0.8, 64)])
    fronts = [event for event in told if isinstance(event, FrontGrew)]
    assert [[(p.speedup, p.loss) for p in front.points] for front in fronts] == [
        [(2.0, 0.2)],
        [(1.25, 0.1), (2.0, 0.2)],
    ]
    assert (fronts[0].metric, fronts[0].unpruned) == ("accuracy", 0.8)


def test_the_first_front_is_said_once_with_its_time_and_the_best_within_one_per_cent():
    records = [record(k, 9 - k, 0.1 * k, 0.8 - 0.005 * k) for k in range(7)]
    notes = [event.text for event in heard(records) if isinstance(event, Note)]
    assert notes == ["first front 41 s after loading: 5 plans, best within 1 %: 1.25x"]
