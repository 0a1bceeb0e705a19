"""The local engine: schedules are evaluated in this process, one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prunesearch.search.engines.engine import EngineContext, Evaluate, Limits, Stop
from prunesearch.search.engines.time_limit import time_limit
from prunesearch.search.trials.ask_tell import Proposal, Search
from prunesearch.study.trials import TrialRecord


def make_local_engine(context: EngineContext) -> LocalEngine:
    """The engine of a run."""
    return LocalEngine(context.evaluate, context.limit_s)


class LocalEngine:
    """Evaluates here.

    Args:
        evaluate: a schedule's quality on the calibration split; with a rival, it may stop where the race is lost.
        limit_s: seconds that it may take; None: any.
    """

    def __init__(self, evaluate: Evaluate, limit_s: float | None = None) -> None:
        self.evaluate, self.limit_s = evaluate, limit_s

    def run(
        self, search: Search, trials: int | None = None, deadline: float | None = None, stop: Stop | None = None
    ) -> Iterator[TrialRecord]:
        """As `Engine.run`. A trial that fails is recorded, and the search goes on."""
        limits = Limits(trials, deadline, stop)
        limits.note(search)  # an earlier session may have seen it converge
        while (reason := limits.wait(search)) is None:
            proposal = search.ask(trials)
            if proposal is None and search.exhausted:
                reason = "exhausted"
                break
            if proposal is None:
                continue
            record = self._try(search, proposal)
            if record is not None:
                limits.note(search)
                yield record
        search.stopped = reason

    def _try(self, search: Search, proposal: Proposal) -> TrialRecord | None:
        started = time.monotonic()
        try:
            with time_limit(self.limit_s):
                evaluation = self.evaluate(proposal.plan, proposal.rival)
        except (RuntimeError, MemoryError) as error:  # out of memory or time, or a kernel that refuses a shape
            search.fail(proposal, str(error) or type(error).__name__)
            return None
        except KeyboardInterrupt:
            search.fail(proposal, "interrupted", lost=True)
            raise
        return search.tell(proposal, evaluation, time.monotonic() - started)
