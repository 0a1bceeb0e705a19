"""Searches that need no model, and processes that run them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.search.costs.objectives import Objective
from prunesearch.search.engines.local import LocalEngine
from prunesearch.search.trials.ask_tell import Search
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.study.trials import TrialRecord, open_study
from tests.support.fakes import LinearCosts, fake_evaluation, make_space
from tests.support.paths import ROOT


def make_search(where: Path | str, name: str = "prunesearch", *, limit: float | None = None, **changes: Any) -> Search:
    """A search in the small space of `fakes`; `limit`: of the milliseconds, None for those of the unpruned model."""
    costs = LinearCosts()
    bound = costs.predict(Schedule()) if limit is None else limit
    settings: dict[str, Any] = {
        "study": changes.get("study") or open_study(where, name=name),
        "sampler": "random",
        "space": make_space(),
        "objectives": [Objective("latency", costs, bound)],
        "fallback": [Schedule([Stage(0, 0.25, "value_norm")])],
    }
    return Search(**{**settings, **changes})


def run_local(
    search: Search, trials: int | None, evaluate: Callable[[Schedule], Evaluation] = fake_evaluation, **limits: Any
) -> Iterator[TrialRecord]:
    """Evaluate here, without races."""
    return LocalEngine(lambda schedule, rival: evaluate(schedule)).run(search, trials, **limits)


def sleep_for_ever() -> None:
    """Until it is killed."""
    threading.Event().wait()


def then_for_ever(trials: int) -> Callable[[Schedule], Evaluation]:
    """Evaluates so many, and never ends with the next: whoever kills the process finds it at work."""
    left = itertools.count(trials, -1)

    def evaluate(schedule: Schedule) -> Evaluation:
        if next(left) <= 0:
            sleep_for_ever()
        return fake_evaluation(schedule)

    return evaluate


def place_of(text: str) -> Path | str:
    """What a test that hands places on as text means: a URL, or the path of a journal."""
    return text if "://" in text else Path(text)


def start(script: str, *args: object) -> subprocess.Popen[str]:
    """Run a script in a process of its own; it can import what tests here import."""
    head = "import sys\nimport time\nfrom tests.support.searches import *\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(script), *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait until a condition holds, or fail when the process ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        assert process.poll() is None or condition(), "the process ended"
        time.sleep(0.02)
