"""The steps of a run are a list: each takes what the one before it returned, and another fits in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import Planned, StepBegun
from prunesearch.search.handed_on import Priced, Probed, Run, Searched
from prunesearch.search.run import run
from prunesearch.search.steps import STEPS, conclude, price, probe, search
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front
from tests.support.heard import Heard
from tests.support.known_device import known_table, settings, write_model, write_profile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("steps")
    write_model(root)
    write_profile(root / "profiles", "box", known_table())
    return root


@pytest.fixture(autouse=True)
def _profiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(folder / "profiles"))


def config(folder: Path, **changes: object) -> RunConfig:
    return RunConfig(**settings(folder, **{"device": "box", "trials": 4, **changes}))


def test_each_step_takes_what_the_one_before_returned(folder: Path) -> None:
    seen = []

    def watched(step):  # type: ignore[no-untyped-def]
        def go(before):  # type: ignore[no-untyped-def]
            after = step(before)
            seen.append((type(before), type(after)))
            return after

        return go

    run(config(folder), "seen", root=folder / "studies", steps=[watched(one) for one in STEPS])
    assert seen == [(Run, Priced), (Priced, Probed), (Probed, Searched), (Searched, Front)]


def test_a_step_fits_in_before_the_end(folder: Path) -> None:
    """As one that recovers what pruning lost would: it sees the finished trials, and hands them on."""
    trials = []

    def recover(searched: Searched) -> Searched:
        run_ = searched.probed.priced.run
        assert run_.handle.schedule.stages == ()
        trials.append(len(searched.study.get_trials(deepcopy=False)))
        return searched

    steps = [price, probe, search, recover, conclude]
    found = run(config(folder), "recovered", root=folder / "studies", steps=steps)
    assert trials == [4]
    assert found.search.trials == 4


def test_what_the_first_steps_found_is_kept_when_a_later_one_fails(folder: Path, heard: Heard) -> None:
    def fail(probed: Probed) -> Searched:
        raise PruneSearchError("no")

    with pytest.raises(PruneSearchError, match="no"):
        run(config(folder), "failed", root=folder / "studies", steps=[price, probe, fail])
    names = {path.name for path in (folder / "studies" / "failed").iterdir()}
    assert {"config.yaml", "cost_table.json", "sensitivities.json"} <= names
    assert "front.json" not in names
    heard.take()
    run(config(folder), "failed", root=folder / "studies")
    said = str(heard)
    assert "cost table: kept from before" in said
    assert "sensitivities: kept from before" in said


def test_a_run_tells_its_steps_and_how_far_it_is(folder: Path, heard: Heard) -> None:
    run(config(folder), "told", root=folder / "studies")
    assert heard.events[0] == Planned(7)
    assert [type(event) for event in heard.events].count(StepBegun) == 7
    trials = heard.progress("trials")
    assert next(p.done for p in trials if not p.best) == 0
    assert (trials[-1].done, trials[-1].total, trials[-1].over) == (4, 4, True)
    assert heard.progress("holdout")[-1].over


def test_a_run_of_a_resumed_study_begins_where_it_was(folder: Path, heard: Heard) -> None:
    run(config(folder, trials=2), "on", root=folder / "studies")
    heard.take()
    run(config(folder, trials=4), "on", root=folder / "studies")
    assert heard.progress("trials")[1].done == 2


def test_nothing_is_printed_where_nobody_listens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(config(folder, trials=2), "silent", root=folder / "studies")
    assert capsys.readouterr() == ("", "")
