"""Trials as they are written, against Optuna's own reading and writing of the same database."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.study.config import RunConfig
from prunesearch.study.storage.storage import storage_of
from prunesearch.study.storage.worker import is_gone, this_worker
from prunesearch.study.trials import check_same_costs, open_study, read_trials, study_exists, study_place
from tests.support.fakes import fake_evaluation, make_space
from tests.support.searches import make_search, run_local
from tests.support.studies import optuna_storage


@pytest.fixture(params=["journal", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a study is kept: a file, or a database."""
    return tmp_path / "s.journal" if request.param == "journal" else f"sqlite:///{tmp_path / 's.db'}"


def optunas(place: Path | str) -> optuna.Study:
    """The study by Optuna alone."""
    storage = optuna_storage(place) if isinstance(place, Path) else place
    return optuna.load_study(study_name="prunesearch", storage=storage)


def by_optuna(place: Path | str) -> list[FrozenTrial]:
    return optunas(place).get_trials()


def test_optuna_reads_what_was_written_and_the_other_way_round(place: Path | str) -> None:
    search = make_search(place, constraints=lambda schedule, evaluation: {"quality": 0.5 - evaluation.quality})
    list(run_local(search, 6))
    proposal = search.ask()
    assert proposal is not None
    search.fail(proposal, "out of\nmemory")
    search.ask()
    theirs = by_optuna(place)
    mine = search.study.get_trials()
    assert [t.state for t in theirs] == [TrialState.COMPLETE] * 6 + [TrialState.FAIL, TrialState.RUNNING]
    for trial, other in zip(theirs, mine, strict=True):
        for name in ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs"):
            assert getattr(trial, name) == getattr(other, name), name
        assert trial.datetime_start == other.datetime_start
        assert trial.datetime_complete == other.datetime_complete
        assert trial.constraints == other.constraints
        assert make_space().decode(trial.params) == Schedule.from_dict(trial.user_attrs["schedule"])
    assert theirs[0].constraints == {"quality": 0.5 - theirs[0].user_attrs["quality"]}
    assert theirs[6].user_attrs["error"] == "out of memory"


def test_trials_that_optuna_adds_and_queues_are_taken(place: Path | str) -> None:
    search, space = make_search(place), make_space()
    ours = list(run_local(search, 2))
    outside = optunas(place)
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
    assert by_optuna(place)[2].values == [queued.loss, *queued.values]


def test_a_queued_trial_of_a_known_schedule_fails(place: Path | str) -> None:
    search = make_search(place)
    (first,) = run_local(search, 1)
    params = search.space.encode(first.schedule)
    assert params is not None
    optunas(place).enqueue_trial(params)
    assert next(run_local(search, 2)).schedule != first.schedule
    assert by_optuna(place)[1].user_attrs["error"] == "the schedule was tried before"


def test_a_draft_leaves_no_trace(place: Path | str) -> None:
    study = open_study(place)
    trial = study.ask(make_space().distributions())
    assert study.get_trials() == []
    assert storage_of(study).discard(trial.number)
    assert not storage_of(study).discard(trial.number)
    assert by_optuna(place) == []


def test_optuna_still_keeps_a_study_s_storage_where_it_is_looked_for(tmp_path: Path) -> None:
    """The one thing of Optuna's that is used and is not public."""
    assert storage_of(open_study(tmp_path / "s.journal")).get_all_studies()[0].study_name == "prunesearch"
    with pytest.raises(TypeError, match="InMemoryStorage"):
        storage_of(optuna.create_study())


def test_what_cannot_be_opened_is_one_line_without_the_password(tmp_path: Path) -> None:
    for url in ("postgresql+psycopg://me:hunter2@127.0.0.1:1/none", "nonsense", "mysql+nodriver://me:hunter2@x/y"):
        with pytest.raises(PruneSearchError) as error:
            study_exists(url, name="x")
        assert "\n" not in str(error.value)
        assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("url", ["sqlite://e:x/a.db", "postgresql+psycopg://me:secret@host:port/name", "a:b@c", "://"])
def test_a_url_that_is_none_is_one_line_without_the_password(url: str) -> None:
    assert "secret" not in RunConfig(storage=url).to_dict()["storage"]
    for read in (open_study, study_exists, read_trials):
        with pytest.raises(PruneSearchError, match="is no storage that can be opened") as error:
            read(url)
        assert "secret" not in str(error.value)
        assert "\n" not in str(error.value)


def test_the_password_is_not_written_down() -> None:
    config = RunConfig(storage="postgresql+psycopg://me:hunter2@host/db")
    assert config.storage == "postgresql+psycopg://me:hunter2@host/db"
    assert config.model_dump(mode="json")["storage"] == "postgresql+psycopg://me:***@host/db"


def test_a_study_minimises_what_it_was_begun_with(tmp_path: Path) -> None:
    open_study(tmp_path / "s.journal", ["latency"])
    with pytest.raises(PruneSearchError, match="2 values, but got 3"):
        open_study(tmp_path / "s.journal", ["latency", "energy"])


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


def test_evaluations_are_told_once(place: Path | str) -> None:
    search = make_search(place)
    proposal = search.ask()
    assert proposal is not None
    # another process took this one for dead
    optunas(place).tell(proposal.number, state=TrialState.FAIL)
    assert search.tell(proposal, fake_evaluation(proposal.schedule), 0.0) is None
    assert by_optuna(place)[0].state == TrialState.FAIL
    assert proposal.schedule not in search.known
    assert len(list(run_local(search, 2))) == 2
