from __future__ import annotations

import signal
import time
from pathlib import Path

import optuna
import pytest
import torch

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.study.trials import failed_trials, finished_trials, front_records, open_study
from tests.support.fakes import LinearCosts, fake_evaluation
from tests.support.searches import make_search, run_local, start
from tests.support.some import some


def test_every_trial_is_inside_the_budget_and_none_twice(tmp_path: Path, costs: LinearCosts) -> None:
    limit = 0.6 * costs.predict(Schedule())
    search = make_search(tmp_path / "s.journal", limit=limit)
    records = list(run_local(search, 25))
    assert len(records) == 25 == len({r.schedule for r in records})
    for record in records:
        assert record.predicted_ms == pytest.approx(costs.predict(record.schedule))
        assert record.predicted_ms <= limit
        assert record.loss == pytest.approx(fake_evaluation(record.schedule).loss)
    assert [r.schedule for r in finished_trials(search.study)] == [r.schedule for r in records]


def test_resume_goes_on_and_repeats_nothing(tmp_path: Path, costs: LinearCosts) -> None:
    path = tmp_path / "s.journal"
    first = list(run_local(make_search(path), 8))
    again = make_search(path)
    again.enqueue([first[0].schedule])
    second = list(run_local(again, 14))
    assert len(second) == 6
    assert not {r.schedule for r in first} & {r.schedule for r in second}
    assert len(finished_trials(again.study)) == 14
    assert list(run_local(make_search(path), 14)) == []


def test_kill_9_loses_no_finished_trial(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    script = """
        for record in run_local(make_search(Path(sys.argv[1])), 100, then_for_ever(5)):
            print(record.schedule.to_json(None), flush=True)
    """
    process = start(script, path)
    assert process.stdout is not None
    seen = [Schedule.from_json(process.stdout.readline()) for _ in range(5)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    study = open_study(path)
    assert [r.schedule for r in finished_trials(study)] == seen
    assert optuna.trial.TrialState.RUNNING not in {t.state for t in study.trials}


def test_failures_are_recorded_and_never_stop_a_run(tmp_path: Path, costs: LinearCosts) -> None:
    calls = 0

    def flaky(schedule: Schedule) -> Evaluation:
        nonlocal calls
        calls += 1
        if calls % 5 == 1:
            raise RuntimeError("out of memory")
        if calls % 5 == 2:
            raise MemoryError
        evaluation = fake_evaluation(schedule)
        if calls % 5 == 3:
            evaluation.kl[0] = torch.nan
        if calls % 5 == 4:
            evaluation.statistics[0] = torch.nan
        return evaluation

    search = make_search(tmp_path / "s.journal")
    assert len(list(run_local(search, 5, flaky))) == 5
    failed = failed_trials(search.study)
    assert failed == 20
    errors = [t.user_attrs.get("error") for t in search.study.trials if t.state == optuna.trial.TrialState.FAIL]
    assert "out of memory" in errors
    assert {"outputs are not finite", "quality is not finite", "MemoryError"} <= set(errors)


def test_a_model_that_always_fails_ends_the_search(tmp_path: Path, costs: LinearCosts) -> None:
    def broken(schedule: Schedule) -> Evaluation:
        raise RuntimeError("no kernel")

    assert list(run_local(make_search(tmp_path / "s.journal"), 5, broken)) == []


def test_the_deadline_stops_the_search(tmp_path: Path, costs: LinearCosts) -> None:
    search = make_search(tmp_path / "s.journal")
    assert list(run_local(search, 5, deadline=time.monotonic() - 1)) == []


def test_a_proposal_that_cannot_shrink_falls_back_or_is_refused(tmp_path: Path, costs: LinearCosts) -> None:
    inside = Schedule([Stage(0, 0.25, "value_norm")])
    limit = costs.predict(inside)
    late = Schedule([Stage(3, 0.75, "value_norm")])
    search = make_search(tmp_path / "s.journal", limit=limit, fallback=[inside])
    assert search.project(late) == inside
    search.fallback = ()
    with pytest.raises(PruneSearchError, match="raise the budget"):
        search.project(late)


def test_front_records_hold_both_fronts(tmp_path: Path, costs: LinearCosts) -> None:
    records = list(run_local(make_search(tmp_path / "s.journal"), 20))
    front = front_records(records)
    assert front
    for record in some(records):
        others = [o for o in records if o is not record and o.predicted_ms <= record.predicted_ms]
        if all(o.loss > record.loss for o in others) or all(o.quality < record.quality for o in others):
            assert record in front
        if any(o.loss < record.loss and o.quality > record.quality for o in others):
            assert record not in front
    assert [r.predicted_ms for r in front] == sorted((r.predicted_ms for r in front), reverse=True)
    assert front_records([]) == []


def test_a_corrupt_database_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(CorruptFileError) as error:
        open_study(path)
    assert "study.journal" in str(error.value)
    assert "\n" not in str(error.value)
