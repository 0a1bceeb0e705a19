"""Every engine finds the same, records what fails, and goes on after whatever dies; Ray with real workers."""

from __future__ import annotations

import functools
import io
import math
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from optuna.trial import TrialState
from PIL import Image

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.registry import ENGINES
from prunesearch.search.engines.engine import Engine, EngineContext, Evaluate
from prunesearch.search.steps import load_evaluate
from prunesearch.search.trials.ask_tell import Search
from prunesearch.search.trials.evaluate import Evaluation, Rival
from prunesearch.study.config import RunConfig
from prunesearch.study.trials import front_records, open_study
from tests.support.fakes import fake_evaluation, make_space
from tests.support.paths import DEV, ROOT
from tests.support.searches import make_search, start

SEEDS = [Schedule([Stage(layer, keep, "value_norm")]) for layer in (0, 2) for keep in (0.75, 0.5, 0.25)]


@pytest.fixture(autouse=True)
def _workers_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's processes inherit the environment, not `sys.path`."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def make_engine(name: str, load: functools.partial[Evaluate], limit_s: float | None = None) -> Engine:
    if name == "ray":
        pytest.importorskip("ray", reason=DEV)
    workers = 2 if name == "ray" else None
    engine: Engine = ENGINES.load(name)(EngineContext(load(), load, workers, limit_s=limit_s))
    return engine


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The settings of a run on a tiny ViT with pictures."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    root = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    shape = {"image_size": 16, "patch_size": 4, "hidden_size": 32, "intermediate_size": 64}
    heads = {"num_hidden_layers": 4, "num_attention_heads": 2, "num_labels": 3, "initializer_range": 0.3}
    ViTForImageClassification(ViTConfig(**shape, **heads)).save_pretrained(root / "model")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(root / "model")
    rng, rows = np.random.default_rng(0), []
    for i in range(60):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(buffer, format="PNG")
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": i % 3})
    pd.DataFrame(rows).to_parquet(root / "data.parquet")
    # a metric that is no mean of rows, so that workers send its statistics
    config = RunConfig(model=str(root / "model"), data=str(root / "data.parquet"), search_samples=24, metric="mcc")
    return config.model_dump(mode="json")


def found_by(name: str, files: dict[str, object], path: Path) -> Search:
    search = make_search(path, race=False)
    search.enqueue(SEEDS)
    records = list(make_engine(name, functools.partial(load_evaluate, files, 24)).run(search, len(SEEDS)))
    assert len(records) == len(SEEDS)
    assert search.stopped == "trials"
    return search


def test_all_engines_find_the_same_front_on_a_real_model(files: dict[str, object], tmp_path: Path) -> None:
    local = found_by("local", files, tmp_path / "local.journal").known
    assert set(local) == set(SEEDS)
    assert len({record.loss for record in local.values()}) > 3
    for name in set(ENGINES) - {"local"}:
        other = found_by(name, files, tmp_path / f"{name}.journal").known
        assert set(other) == set(local)
        for schedule, record in local.items():
            assert other[schedule].loss == pytest.approx(record.loss, rel=1e-4)
            assert other[schedule].quality == record.quality
        front, expected = ([r.schedule for r in front_records(list(k.values()))] for k in (other, local))
        assert front == expected


def troubled(folder: str, pid: int) -> Evaluate:
    """Evaluates, but for five seeds: no memory, too little, no number, no end, and one that kills its worker, once.

    The last does so if the worker is Ray's, and not this process.
    """

    def evaluate(schedule: Schedule, rival: Rival | None) -> Evaluation:
        found, marker = fake_evaluation(schedule), Path(folder) / "killed"
        if schedule == SEEDS[0]:
            raise MemoryError
        if schedule == SEEDS[1]:
            raise torch.OutOfMemoryError("too much")
        if schedule == SEEDS[2]:
            return replace(found, kl=torch.full_like(found.kl, math.nan))
        if schedule == SEEDS[3]:
            threading.Event().wait()  # for what never comes
        if schedule == SEEDS[4] and os.getpid() != pid and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return evaluate


@pytest.mark.parametrize("name", ENGINES)
def test_failures_are_recorded_with_their_reason_and_the_search_goes_on(name: str, tmp_path: Path) -> None:
    search = make_search(tmp_path / "s.journal", race=False)
    search.enqueue(SEEDS)
    load = functools.partial(troubled, str(tmp_path), os.getpid())
    list(make_engine(name, load, limit_s=3.0).run(search, 10))
    trials = search.study.trials
    reasons = {t.number: t.user_attrs["error"] for t in trials if t.state == TrialState.FAIL}
    expected = {0: "MemoryError", 1: "too much", 2: "outputs are not finite", 3: "no result within 3 s"}
    if name == "ray":
        assert reasons.pop(4).startswith("its worker was lost: ")
    assert reasons == expected
    assert not {SEEDS[number] for number in expected} & set(search.known)
    assert SEEDS[4] in search.known  # proposed once more
    assert sum(t.state == TrialState.COMPLETE for t in trials) >= 10


def slow_to_start(folder: str) -> Evaluate:
    """Evaluates at once; a worker but the first is there only after 20 trials that others did meanwhile.

    Files in `folder` say which workers began, and one byte each what they did. After 20 trials the first waits until
    another one has begun: however long a process takes to start here, the trials last.
    """
    workers, done = Path(folder), Path(folder) / "done"
    try:
        done.touch(exist_ok=False)
        first = True
    except FileExistsError:
        first = False
    (workers / f"began-{os.getpid()}").touch()

    def trials() -> int:
        return done.stat().st_size

    before = trials()
    while not first and trials() < before + 20:
        time.sleep(0.01)

    def evaluate(schedule: Schedule, rival: Rival | None) -> Evaluation:
        while first and trials() >= 20 and len(list(workers.glob("began-*"))) < 2:
            time.sleep(0.01)
        with done.open("ab") as file:
            file.write(b"1")
        (workers / f"worked-{os.getpid()}").touch()
        return fake_evaluation(schedule)

    return evaluate


@pytest.mark.slow
def test_a_second_worker_comes_though_trials_are_shorter_than_its_start(tmp_path: Path) -> None:
    """Tune's own choice gives up the worker that is being started whenever the first one becomes free."""
    pytest.importorskip("ray", reason=DEV)
    from prunesearch.search.engines.ray import RayEngine

    search = make_search(tmp_path / "s.journal", space=make_space(keep=[n / 20 for n in range(1, 20)]), limit=math.inf)
    workers = tmp_path / "workers"
    workers.mkdir()

    def both(search: Search) -> bool:
        return len(list(workers.glob("worked-*"))) == 2

    list(RayEngine(functools.partial(slow_to_start, str(workers)), 2).run(search, 400, stop=both))
    assert both(search)
    assert search.stopped == "converged"


def broken() -> Evaluate:
    raise PruneSearchError("no model folder 'nowhere'")


@pytest.mark.slow
def test_a_worker_that_cannot_load_the_model_ends_the_run_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason=DEV)
    from prunesearch.search.engines.ray import RayEngine

    search = make_search(tmp_path / "s.journal")
    with pytest.raises(PruneSearchError, match="cannot evaluate: no model folder 'nowhere'"):
        list(RayEngine(broken, 1).run(search, 5))
    assert search.running == 0


DRIVER = """
    from prunesearch.core.tables.registry import ENGINES
    from prunesearch.search.engines.engine import EngineContext
    def load():
        def slow(schedule, rival):
            time.sleep(0.2)
            return fake_evaluation(schedule)
        return slow
    search = make_search(Path(sys.argv[1]))
    for record in ENGINES.load("ray")(EngineContext(load(), load, workers=2)).run(search, int(sys.argv[2])):
        print(record.number, record.schedule.to_json(None), flush=True)
"""


def lines_of(stream: Iterator[str] | None, n: int) -> list[str]:
    assert stream is not None
    return [next(stream) for _ in range(n)]


@pytest.mark.slow
def test_a_run_whose_driver_was_killed_goes_on_with_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason=DEV)
    # what a killed driver leaves; the path of a socket must be short
    with tempfile.TemporaryDirectory(prefix="ps-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("TMPDIR", folder)
        kill_and_go_on(tmp_path)


def kill_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    first = start(DRIVER, path, 1000)
    seen = [Schedule.from_json(line.split(" ", 1)[1]) for line in lines_of(first.stdout, 3)]
    first.kill()
    first.wait()
    before = open_study(path)
    done = sum(trial.state == TrialState.COMPLETE for trial in before.trials)
    assert done >= 3
    second = start(DRIVER, path, done + 3)
    output = second.communicate(timeout=240)[0]
    assert second.returncode == 0
    assert output.count("\n") == 3
    trials = open_study(path).trials
    complete = [Schedule.from_dict(t.user_attrs["schedule"]) for t in trials if t.state == TrialState.COMPLETE]
    assert len(set(complete)) == len(complete) == done + 3
    assert set(seen) <= set(complete)
    states = Counter(trial.state for trial in trials)
    assert states[TrialState.RUNNING] == 0
    assert states[TrialState.FAIL] <= 2  # what was under way
