"""Engines by name: what evaluates the schedules that a search asks for, and where."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prunesearch.core.plans.plan import Plan
    from prunesearch.search.trials.ask_tell import Search
    from prunesearch.search.trials.evaluate import Evaluation, Rival
    from prunesearch.study.trials import TrialRecord

_POLL_S = 0.2  # between two looks at what other processes do

Stop = Callable[["Search"], bool]
Evaluate = Callable[["Plan", "Rival | None"], "Evaluation"]
Load = Callable[[], Evaluate]


@dataclass(frozen=True)
class EngineContext:
    """What an engine is made from.

    Attributes:
        evaluate: a schedule's quality on the calibration split, in this process.
        load: makes the same in another process; it must be importable there.
        workers: evaluations at a time; None: as the engine finds fit.
        address: of a cluster; None: this machine.
        on_gpu: whether an evaluation needs a GPU.
        limit_s: seconds that an evaluation may take (`time_limit`); None: any.
    """

    evaluate: Evaluate
    load: Load
    workers: int | None = None
    address: str | None = None
    on_gpu: bool = False
    limit_s: float | None = None


class Engine(Protocol):
    """Evaluates schedules until a limit is reached."""

    def run(
        self, search: Search, trials: int | None = None, deadline: float | None = None, stop: Stop | None = None
    ) -> Iterator[TrialRecord]:
        """Ask, evaluate and tell; yield each schedule that was finished here, and leave the reason in `search.stopped`.

        Args:
            search: what to ask and to tell.
            trials: schedules with a result, those of other processes and earlier runs included; None: no limit.
            deadline: of `time.monotonic`, after which nothing new is begun; None: no limit.
            stop: asked after each result whether the search has converged.
        """
        ...


@dataclass
class Limits:
    """When a search ends; `converged` is to be set when its convergence check says so."""

    trials: int | None = None
    deadline: float | None = None
    stop: Stop | None = None
    converged: bool = field(default=False, init=False)

    def note(self, search: Search) -> None:
        """Check for convergence; to be called after each result."""
        self.converged = self.converged or (self.stop is not None and self.stop(search))

    def reached(self, search: Search) -> str | None:
        """Why nothing new may begin: `trials`, `timeout` or `converged`; None: go on."""
        if self.trials is not None and len(search.known) >= self.trials:
            return "trials"
        if self.converged:
            return "converged"
        if self.deadline is not None and time.monotonic() > self.deadline:
            return "timeout"
        return None

    def full(self, search: Search) -> bool:
        """Whether what is under way, here and elsewhere, may be all that is needed."""
        return self.trials is not None and len(search.known) + search.running >= self.trials

    def wait(self, search: Search) -> str | None:
        """Wait until there is room for a trial: others may fail theirs. Return what `reached` does."""
        search.refresh()
        while (reason := self.reached(search)) is None and self.full(search):
            time.sleep(_POLL_S)
            search.refresh()
        return reason
