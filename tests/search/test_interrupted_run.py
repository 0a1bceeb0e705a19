"""A run that is interrupted again and again, or killed, ends with what it would have ended with."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from prunesearch.core.events import Event, Progress, StepBegun, listening
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front
from prunesearch.study.trials import read_trials
from tests.support.known_device import known_table, settings, write_model, write_profile
from tests.support.searches import start

TRIALS = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("interrupted")
    write_model(root)
    write_profile(root / "profiles", "box", known_table())
    return root


@pytest.fixture(autouse=True)
def _profiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(folder / "profiles"))


def config(folder: Path) -> RunConfig:
    return RunConfig(**settings(folder, device="box", trials=TRIALS, seeds=4, precision=["float32"]))


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Front:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESEARCH_PROFILES", str(folder / "profiles"))
        return run(config(folder), "undisturbed", root=folder / "studies")


def told(front: Front) -> dict[str, Any]:
    """What came of a run, but for names, dates and seconds."""
    said = front.to_dict()
    for point in said["points"]:
        point.pop("trial")  # one that was under way has used up a number
    return {name: said[name] for name in ("unpruned", "points", "verdict", "hypervolume", "dropped", "selection")}


class Interrupting:
    """Ends a run at every third thing that it tells for the first time, in whatever sitting."""

    def __init__(self) -> None:
        self.heard: set[tuple[str, float]] = set()

    def __call__(self, event: Event) -> None:
        new = None
        if isinstance(event, StepBegun):
            new = (event.text.partition(":")[0], 0.0)
        elif isinstance(event, Progress) and not event.over:
            new = (event.label, event.done)
        if new is not None and new not in self.heard:
            self.heard.add(new)
            if len(self.heard) % 3 == 0:
                raise KeyboardInterrupt


def test_a_run_that_is_interrupted_again_and_again_ends_with_the_same_front(folder: Path, undisturbed: Front) -> None:
    interrupting, sittings, front = Interrupting(), 0, None
    with listening(interrupting):
        while front is None:
            try:
                front = run(config(folder), "interrupted", root=folder / "studies")
            except KeyboardInterrupt:
                sittings += 1
                assert sittings < 60
    assert sittings > 5
    assert {"sensitivities", "trials", "holdout"} <= {what for what, _ in interrupting.heard}
    assert told(front) == told(undisturbed)
    journal = folder / "studies" / "interrupted" / "study.journal"
    assert len({record.plan for record in read_trials(journal)}) == len(read_trials(journal)) == TRIALS
    left = {path.name for path in (folder / "studies" / "interrupted").rglob("*.part")}
    assert left == set()


KILLED = """
    import os, signal
    from prunesearch.core.events import Progress, listening
    from tests.search.test_interrupted_run import config, run

    def listen(event):
        if isinstance(event, Progress) and event.label == "trials" and event.done >= 7:
            os.kill(os.getpid(), signal.SIGKILL)

    with listening(listen):
        run(config(Path(sys.argv[1])), "killed", root=Path(sys.argv[1]) / "studies")
"""


def test_a_run_that_was_killed_ends_with_the_same_front(folder: Path, undisturbed: Front) -> None:
    assert start(KILLED, folder).wait() == -signal.SIGKILL
    journal = folder / "studies" / "killed" / "study.journal"
    before = read_trials(journal)
    assert 7 <= len(before) < TRIALS
    assert told(run(config(folder), "killed", root=folder / "studies")) == told(undisturbed)
    assert read_trials(journal)[: len(before)] == before
