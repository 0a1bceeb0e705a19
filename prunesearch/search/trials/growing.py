"""The front as it grows: what is on screen while a search runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from prunesearch.core.constraint import relative_bound
from prunesearch.core.events import FrontGrew, Moving, SoFar, say, tell
from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.plan import Plan
from prunesearch.study.trials import TrialRecord

_WITHIN = 0.99  # of the unpruned quality: what the best so far must have
_FIRST = 5  # plans that tell a front's course


class GrowingFront:
    """Takes in finished trials, and tells of the front whenever one of them is on it.

    Everything in it is by the cost table and the calibration rows: a first look, and no promise.

    Args:
        unpruned_ms: of the unpruned model, by the table.
        quality: its quality on the same rows.
        metric: what quality is called.
        progress: is told the best so far beside it.
        began: when the model was loaded, in `clock`'s seconds.
        clock: seconds.
    """

    def __init__(
        self,
        unpruned_ms: float,
        quality: float,
        metric: str,
        progress: Moving,
        began: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unpruned_ms, self._quality, self._metric = unpruned_ms, quality, metric
        self._progress, self._began, self._clock = progress, began, clock
        self._front: list[TrialRecord] = []
        self._first = True

    def see(self, record: TrialRecord) -> None:
        """Take a finished trial in; values of one that lost its race are estimates, and stay out."""
        if record.rows is not None or record.plan == Plan() or record.predicted_ms >= self._unpruned_ms:
            return
        rivals = [*self._front, record]
        keep = non_dominated([(r.predicted_ms, r.loss) for r in rivals])
        self._front = sorted((r for r, stays in zip(rivals, keep, strict=True) if stays), key=lambda r: -r.predicted_ms)
        if record not in self._front:
            return
        self._progress.best(self._best())
        tell(FrontGrew(tuple(map(self._shown, self._front)), self._metric, self._quality))
        if self._first and len(self._front) >= _FIRST:
            self._first = False
            spent = self._clock() - self._began
            said = self._best()
            say(f"first front {spent:.0f} s after loading: {len(self._front)} plans, {said or 'none within 1 % yet'}")

    def _best(self) -> str:
        least = relative_bound(_WITHIN, self._quality)
        found = [self._unpruned_ms / r.predicted_ms for r in self._front if r.quality >= least]
        return f"best within 1 %: {max(found):.2f}x" if found else ""

    def _shown(self, record: TrialRecord) -> SoFar:
        return SoFar(str(record.plan), self._unpruned_ms / record.predicted_ms, record.quality, record.loss)
