from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import optuna
import pytest
import torch
from fakes import LinearCosts, fake_evaluation

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.schedule import Schedule, Stage
from prunesearch.search.evaluate import Evaluation
from prunesearch.search.objectives import Objective
from prunesearch.search.samplers import SAMPLERS
from prunesearch.search.space import Space
from prunesearch.search.study import Search, failed_trials, finished_trials, front_records, open_study


def make_search(path: Path, space: Space, costs: LinearCosts, limit: float | None = None, **changes: object) -> Search:
    bound = costs.predict(Schedule()) if limit is None else limit
    settings: dict[str, object] = {
        "study": open_study(path),
        "sampler": "tpe",
        "space": space,
        "objectives": [Objective("latency", costs, bound)],
        "evaluate": fake_evaluation,
        "fallback": [Schedule([Stage(0, 0.25, "value_norm")])],
    }
    return Search(**{**settings, **changes})  # type: ignore[arg-type]


def test_every_trial_is_inside_the_budget_and_none_twice(tmp_path: Path, space: Space, costs: LinearCosts) -> None:
    limit = 0.6 * costs.predict(Schedule())
    search = make_search(tmp_path / "s.db", space, costs, limit=limit)
    records = list(search.run(25, None))
    assert len(records) == 25 == len({r.schedule for r in records})
    for record in records:
        assert record.predicted_ms == pytest.approx(costs.predict(record.schedule))
        assert record.predicted_ms <= limit
        assert record.loss == pytest.approx(fake_evaluation(record.schedule).loss)
    assert [r.schedule for r in finished_trials(search.study)] == [r.schedule for r in records]


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_contract_of_every_sampler(tmp_path: Path, space: Space, costs: LinearCosts, sampler: str) -> None:
    """Seeds come first and are evaluated as they are; the rest is new; a seed reproduces the run."""
    seeds = [Schedule([Stage(1, 0.5, "value_norm")]), Schedule([Stage(2, 0.25, merge="bipartite")])]
    runs = []
    for name in ("a", "b"):
        search = make_search(tmp_path / f"{name}.db", space, costs, sampler=sampler, seed=5)
        search.enqueue(seeds)
        runs.append(list(search.run(15, None)))
    assert [r.schedule for r in runs[0][:2]] == seeds
    assert [r.source for r in runs[0]] == ["seed"] * 2 + ["sampler"] * 13
    assert [r.schedule for r in runs[0]] == [r.schedule for r in runs[1]]


def test_resume_goes_on_and_repeats_nothing(tmp_path: Path, space: Space, costs: LinearCosts) -> None:
    path = tmp_path / "s.db"
    first = list(make_search(path, space, costs).run(8, None))
    again = make_search(path, space, costs)
    again.enqueue([first[0].schedule])
    second = list(again.run(14, None))
    assert len(second) == 6
    assert not {r.schedule for r in first} & {r.schedule for r in second}
    assert len(finished_trials(again.study)) == 14
    assert list(make_search(path, space, costs).run(14, None)) == []


def test_kill_9_loses_no_finished_trial(tmp_path: Path) -> None:
    path, log = tmp_path / "s.db", tmp_path / "log"
    script = f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from fakes import LinearCosts, fake_evaluation, make_space
        from test_study import make_search
        def slow(schedule):
            time.sleep(0.05)
            return fake_evaluation(schedule)
        search = make_search(Path({str(path)!r}), make_space(), LinearCosts(), evaluate=slow)
        with open({str(log)!r}, "w") as out:
            for record in search.run(100, None):
                print(record.schedule.to_json(None), file=out, flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not log.exists() or log.read_text().count("\n") < 5):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    seen = [Schedule.from_json(line) for line in log.read_text().splitlines()]
    assert len(seen) >= 5
    study = open_study(path)
    kept = [r.schedule for r in finished_trials(study)]
    assert kept[: len(seen)] == seen
    states = {t.state for t in study.trials}
    assert optuna.trial.TrialState.RUNNING not in states


def test_failures_are_recorded_and_never_stop_a_run(tmp_path: Path, space: Space, costs: LinearCosts) -> None:
    calls = 0

    def flaky(schedule: Schedule) -> Evaluation:
        nonlocal calls
        calls += 1
        if calls % 3 == 1:
            raise RuntimeError("out of memory")
        evaluation = fake_evaluation(schedule)
        if calls % 3 == 2:
            evaluation.kl[0] = torch.nan
        return evaluation

    search = make_search(tmp_path / "s.db", space, costs, evaluate=flaky)
    assert len(list(search.run(5, None))) == 5
    failed = failed_trials(search.study)
    assert failed >= 8
    errors = [t.user_attrs.get("error") for t in search.study.trials if t.state == optuna.trial.TrialState.FAIL]
    assert "out of memory" in errors
    assert "outputs are not finite" in errors


def test_a_model_that_always_fails_ends_the_search(tmp_path: Path, space: Space, costs: LinearCosts) -> None:
    def broken(schedule: Schedule) -> Evaluation:
        raise RuntimeError("no kernel")

    assert list(make_search(tmp_path / "s.db", space, costs, evaluate=broken).run(5, None)) == []


def test_the_deadline_stops_the_search(tmp_path: Path, space: Space, costs: LinearCosts) -> None:
    search = make_search(tmp_path / "s.db", space, costs)
    assert list(search.run(5, time.monotonic() - 1)) == []


def test_a_proposal_that_cannot_shrink_falls_back_or_is_refused(
    tmp_path: Path, space: Space, costs: LinearCosts
) -> None:
    inside = Schedule([Stage(0, 0.25, "value_norm")])
    limit = costs.predict(inside)
    late = Schedule([Stage(3, 0.75, "value_norm")])
    search = make_search(tmp_path / "s.db", space, costs, limit=limit, fallback=[inside])
    assert search.project(late) == inside
    search.fallback = ()
    with pytest.raises(PruneSearchError, match="raise the budget"):
        search.project(late)


def test_front_records_hold_both_fronts(tmp_path: Path, space: Space, costs: LinearCosts) -> None:
    records = list(make_search(tmp_path / "s.db", space, costs).run(20, None))
    front = front_records(records)
    assert front
    for record in records:
        others = [o for o in records if o is not record and o.predicted_ms <= record.predicted_ms]
        if all(o.loss > record.loss for o in others) or all(o.quality < record.quality for o in others):
            assert record in front
        if any(o.loss < record.loss and o.quality > record.quality for o in others):
            assert record not in front
    assert [r.predicted_ms for r in front] == sorted((r.predicted_ms for r in front), reverse=True)
    assert front_records([]) == []


def test_a_corrupt_database_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(CorruptFileError) as error:
        open_study(path)
    assert "study.db" in str(error.value)
    assert "\n" not in str(error.value)
