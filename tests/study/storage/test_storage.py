"""Trials as they are written, against Optuna's own reading and writing of the same database."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.schedule import Schedule
from prunesearch.core.stage import Stage
from prunesearch.study.config import RunConfig
from prunesearch.study.storage.storage import StudyStorage, discard, open_storage
from prunesearch.study.storage.worker import is_gone, this_worker
from prunesearch.study.trials import check_same_costs, open_study, study_exists, study_place
from tests.support.fakes import fake_evaluation, make_space
from tests.support.searches import make_search, run_local


def by_optuna(path: Path) -> list[FrozenTrial]:
    return optuna.load_study(study_name="prunesearch", storage=f"sqlite:///{path}").get_trials()


def test_optuna_reads_what_was_written_and_the_other_way_round(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    search = make_search(path, constraints=lambda schedule, evaluation: {"quality": 0.5 - evaluation.quality})
    list(run_local(search, 6))
    proposal = search.ask()
    assert proposal is not None
    search.fail(proposal, "out of\nmemory")
    search.ask()
    theirs = by_optuna(path)
    mine = search.study.get_trials()
    assert [t.state for t in theirs] == [TrialState.COMPLETE] * 6 + [TrialState.FAIL, TrialState.RUNNING]
    anew = open_storage(f"sqlite:///{path}", "prunesearch")[0].get_all_trials(1)
    for trial, other, third in zip(theirs, mine, anew, strict=True):
        assert trial == third
        for name in ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs"):
            assert getattr(trial, name) == getattr(other, name), name
        assert trial.datetime_start is not None
        assert other.datetime_start is not None
        assert abs((trial.datetime_start - other.datetime_start).total_seconds()) < 1
        assert trial.constraints == other.constraints
    assert theirs[0].constraints == {"quality": 0.5 - theirs[0].user_attrs["quality"]}
    assert theirs[6].user_attrs["error"] == "out of memory"


def test_trials_that_optuna_adds_and_queues_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    search, space = make_search(path), make_space()
    ours = list(run_local(search, 2))
    outside = optuna.load_study(study_name="prunesearch", storage=f"sqlite:///{path}")
    schedule = space.decode({**outside.trials[0].params, "layer_0": 3, "level_0": 3, "level_1": 0, "level_2": 0})
    params = space.encode(schedule)
    assert params is not None
    outside.enqueue_trial(params, user_attrs={"source": "by hand"})
    told = optuna.trial.create_trial(
        params=params, distributions=space.distributions(), values=[math.inf, 1.0], state=TrialState.COMPLETE
    )
    outside.add_trial(told)  # without a schedule: it is nobody's here
    (queued,) = run_local(search, 3)
    assert (queued.schedule, queued.source, queued.number) == (schedule, "by hand", 2)
    assert [t.values for t in search.study.trials[2:]] == [[queued.loss, *queued.values], [math.inf, 1.0]]
    assert len(search.known) == len(ours) + 1
    assert by_optuna(path)[2].values == [queued.loss, *queued.values]


def test_a_draft_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    study = open_study(path)
    trial = study.ask(make_space().distributions())
    assert study.get_trials() == []
    discard(study, trial)
    assert by_optuna(path) == []


def test_a_storage_of_another_revision_is_used_through_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunesearch.study.storage.schema.REVISION", "v99")
    search = make_search(tmp_path / "s.db")
    assert not isinstance(search.study._storage, StudyStorage)
    search.enqueue([Schedule([Stage(1, 0.5, "value_norm")])])
    assert len(list(run_local(search, 5))) == 5
    assert len(list(run_local(make_search(tmp_path / "s.db"), 7))) == 2
    assert [t.state for t in by_optuna(tmp_path / "s.db")] == [TrialState.COMPLETE] * 7


def test_what_cannot_be_opened_is_one_line_without_the_password(tmp_path: Path) -> None:
    for url in ("postgresql+psycopg://me:hunter2@127.0.0.1:1/none", "nonsense", "mysql+nodriver://me:hunter2@x/y"):
        with pytest.raises(PruneSearchError) as error:
            study_exists(url, name="x")
        assert "\n" not in str(error.value)
        assert "hunter2" not in str(error.value)


def test_the_password_is_not_written_down() -> None:
    config = RunConfig.build(storage="postgresql+psycopg://me:hunter2@host/db")
    assert config.storage == "postgresql+psycopg://me:hunter2@host/db"
    assert config.model_dump(mode="json")["storage"] == "postgresql+psycopg://me:***@host/db"


def test_a_study_minimises_what_it_was_begun_with(tmp_path: Path) -> None:
    open_study(tmp_path / "s.db", ["latency"])
    with pytest.raises(PruneSearchError, match="2 values, but got 3"):
        open_study(tmp_path / "s.db", ["latency", "energy"])


def test_folders_that_share_a_storage_share_their_cost_table(tmp_path: Path) -> None:
    from prunesearch.study.folder import StudyFolder

    url = f"sqlite:///{tmp_path / 'shared.db'}"
    here, there = (StudyFolder.create("x", tmp_path / place) for place in ("here", "there"))
    here.cost_table.write_text("1 ms")
    there.cost_table.write_text("2 ms")
    assert not study_exists(**study_place(here, url))
    check_same_costs(open_study(**study_place(here, url)), here)
    assert study_exists(**study_place(there, url))
    with pytest.raises(PruneSearchError, match="copy the folder"):
        check_same_costs(open_study(**study_place(there, url)), there)
    there.cost_table.write_text("1 ms")
    check_same_costs(open_study(**study_place(there, url)), there)


def test_a_worker_is_known_by_more_than_its_pid() -> None:
    mine = this_worker()
    assert not is_gone(mine)
    *place, pid, start = mine.split("|")
    assert is_gone("|".join([*place, pid, f"{start}0"]))  # the PID is used again
    assert not is_gone("|".join(["elsewhere", *place[1:], "1999999", start]))  # nothing can be seen from here
    assert not is_gone("")


def test_evaluations_are_told_once(tmp_path: Path) -> None:
    search = make_search(tmp_path / "s.db")
    proposal = search.ask()
    assert proposal is not None
    # another process took this one for dead
    other = optuna.load_study(study_name="prunesearch", storage=f"sqlite:///{tmp_path / 's.db'}")
    other.tell(proposal.number, state=TrialState.FAIL)
    assert search.tell(proposal, fake_evaluation(proposal.schedule), 0.0) is None
    assert by_optuna(tmp_path / "s.db")[0].state == TrialState.FAIL
    assert proposal.schedule not in search.known
