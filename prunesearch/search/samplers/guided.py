"""The project's own sampler: proposes where the front is expected to grow most for the evaluation spent.

Candidates come from the solver, run on the corrected one-stage losses and on their optimistic side, and from local
moves around the front. `LossModel` predicts their losses, the cost table their costs; the one with the largest expected
hypervolume improvement for its cost is asked next. Where nobody else is at work, what is proposed hangs on the study's
results alone: a search that was interrupted proposes what it would have proposed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.spatial import KDTree

from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.stage import BEFORE
from prunesearch.search.samplers.context import SamplerContext
from prunesearch.search.samplers.improvement import LOST, Staircase
from prunesearch.search.samplers.surrogate import LossModel
from prunesearch.search.solve.gaussian import Array
from prunesearch.search.solve.loss_surface import FLOOR
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.seed import Solves
from prunesearch.search.solve.solver import solver_for
from prunesearch.search.space.moves import neighbours

Verified = tuple[Plan, float]  # with its loss in nats

_TRAIN = 256  # verified schedules that the model is fitted to, nearest to the front first
_SOLVED, _AROUND = 150, 24  # candidates taken from each front of the solver; points whose neighbours are tried
_SWAPS = 4  # methods that a stage may change to, the best at most blocks and levels
_OPTIMISM = 1.0
_MOST_CANDIDATES = 1500
_REMEMBERED = 50_000
# Proposals made at a time, and verified schedules for each of them: early, a fit is worth more than it costs.
_LEAST_BATCH, _MOST_BATCH, _PER_BATCH = 3, 100, 10
_NEIGHBOURS, _LEAST_CHANCE = 5, 0.002
_BATCH = "prunesearch:batch"  # attribute of a trial: how many results there were when its batch was proposed


class GuidedSampler(BaseSampler):
    """Expected hypervolume improvement over solved and neighbouring schedules.

    Args:
        context: with sensitivities; without them (a study of somebody else's making) it cannot propose.
    """

    def __init__(self, context: SamplerContext) -> None:
        self.space, self.study_seed = context.space, context.study_seed
        # where quality alone is the aim, what bounds it is what there is to gain
        self.objectives = [o for o in context.objectives if o.minimised] or list(context.objectives)
        self.bounds = [o.bound for o in self.objectives]
        self.bounding = list(context.objectives)
        sensitivities = context.sensitivities
        if sensitivities is None:
            raise optuna.exceptions.OptunaError("the guided sampler needs sensitivities")
        self.model = LossModel(self.space, sensitivities)
        self._random = random.Random(context.seed)
        self._solvers: list[Solves] = []
        self._queue: list[Plan] = []
        self._begun, self._resumed = 0, False
        self._seen: dict[Plan, float] = {}
        self._front: list[Plan] = []
        self._broken: set[Plan] = set()  # of them, those that break a constraint
        self._read: set[int] = set()
        self._shares: dict[Plan, Array] = {}
        self._weights = np.ones(len(self.objectives))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters of the space, proposed together."""
        return self.space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose the parameters of one schedule."""
        if not self._queue:
            self._queue = self._left(study) or self._propose(study)
        params = self.space.encode(self._queue.pop(0)) if self._queue else None
        if params:
            study._storage.set_trial_system_attr(trial._trial_id, _BATCH, self._begun)
        return params or {}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, distribution: Any) -> Any:
        """A uniform draw: only where nothing could be proposed."""
        return optuna.samplers.RandomSampler(seed=self._random.randrange(2**31)).sample_independent(
            study, trial, param_name, distribution
        )

    def reseed_rng(self) -> None:
        """Draw differently in another process."""
        self._random = random.Random()

    # -- proposing ------------------------------------------------------------------------------------

    def _left(self, study: Study) -> list[Plan]:
        """What is left of the batch that an interrupted session was in: made again from the results that it had."""
        if self._resumed:
            return []
        self._resumed = True
        asked = [trial for trial in study.get_trials(deepcopy=False) if _BATCH in trial.system_attrs]
        *before, last = [None, *sorted({trial.system_attrs[_BATCH] for trial in asked})]
        for results in before[1:]:
            self._learn(study, results)
        if last is None:
            return []
        done = {self.space.decode(t.params) for t in asked if t.state.is_finished() and "lost" not in t.user_attrs}
        return [plan for plan in self._propose(study, last) if plan not in done]

    def _learn(self, study: Study, results: int | None = None) -> list[Verified]:
        """Fit the model to what is known, and begin a batch; returns what keeps the constraints.

        Args:
            study: with the trials.
            results: how many of its results are to be known; None: all.
        """
        self._read_trials(study, results)
        self._begun = len(self._read)
        if results is not None or not study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._random.seed(f"{self.study_seed}/{self._begun}")
        weights = np.array([self._random.random() + 0.1 for _ in self.objectives])
        self._weights = weights / weights.max()
        kept = [(s, loss) for s, loss in self._seen.items() if s not in self._broken]
        self._front = self._fit(list(self._seen.items()), kept)
        return kept

    def _propose(self, study: Study, results: int | None = None) -> list[Plan]:
        """The next few schedules, best first; each is chosen as if those before it had come out as predicted."""
        kept = self._learn(study, results)
        candidates = self._candidates(self._front)
        if not candidates:
            return []
        cost, spending = self._costs(candidates)
        mean, sd = self.model.predict(candidates)
        worth = self._likely_kept(candidates) / spending
        points = self._points(kept)
        chosen: list[Plan] = []
        left = np.ones(len(candidates), dtype=bool)
        batch = min(max(_LEAST_BATCH, len(self._seen) // _PER_BATCH), _MOST_BATCH, len(candidates))
        for _ in range(batch):
            gain = Staircase(points, (1.0, LOST)).expected_gain(cost, mean, sd) * worth
            best = int(np.where(left, gain, -1.0).argmax())
            left[best] = False
            chosen.append(candidates[best])
            points = np.vstack([points, [[cost[best], np.exp(mean[best])]]])
        return chosen

    def _read_trials(self, study: Study, results: int | None) -> None:
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))[:results]:
            if trial.number not in self._read:
                self._read.add(trial.number)
                schedule = self.space.decode(trial.params)
                self._seen.setdefault(schedule, trial.values[0])
                if any(excess > 0 for excess in trial.constraints.values()):
                    self._broken.add(schedule)

    def _fit(self, verified: Sequence[Verified], kept: Sequence[Verified]) -> list[Plan]:
        """Fit the model to the schedules nearest to the front; returns those on it that keep the constraints."""
        if not verified:
            return []
        points = self._points(verified)[1:]
        above = np.log(points[:, 1] + FLOOR) - np.log(_best_so_far(points) + FLOOR)
        nearest = np.argsort(above, kind="stable")[:_TRAIN]
        self.model.fit([verified[i][0] for i in nearest], points[nearest, 1])
        points = self._points(kept)[1:]
        on_front = points[:, 1] <= _best_so_far(points)
        return [schedule for (schedule, _), keep in zip(kept, on_front, strict=True) if keep]

    def _likely_kept(self, schedules: Sequence[Plan]) -> Array:
        """Share of the verified schedules nearest in tokens, block by block, that keep the constraints; `[n]`."""
        if not self._broken:
            return np.ones(len(schedules))
        verified = list(self._seen)
        near = min(_NEIGHBOURS, len(verified))
        known, asked = (np.array([self._profile(s) for s in part]) for part in (verified, schedules))
        keeps = np.array([s not in self._broken for s in verified], dtype=float)
        tree = KDTree(known)  # type: ignore[no-untyped-call]
        _, nearest = tree.query(asked, k=near, p=1)  # type: ignore[no-untyped-call]
        # never nought: what looks forbidden may only have been looked at in the wrong place
        share: Array = keeps[nearest.reshape(len(schedules), near)].mean(1).clip(_LEAST_CHANCE)
        return share

    def _profile(self, schedule: Plan) -> list[float]:
        keeps = {stage.place.site: stage.keep for stage in schedule}
        current, profile = 1.0, list[float]()
        stages = self.space.schedules
        for layer in (*(site for site in stages.layers if site < BEFORE), *range(BEFORE, stages.depth)):
            current = keeps.get(layer, current)
            profile.append(current)
        return profile

    def _candidates(self, front: list[Plan]) -> list[Plan]:
        if not self._solvers:
            self._solvers = [solver_for(self.space, o.costs, o.limit) for o in self.objectives]
        found: dict[Plan, None] = {}
        hopeful = self.model.corrected(_OPTIMISM)
        best = self.model.corrected()
        for solver in self._solvers:
            for sensitivities in (best, hopeful):
                found |= dict.fromkeys(s.plan for s in solver.solve(sensitivities, _SOLVED))
        solved = list(found)
        swaps = self._swaps(best)
        centres = front + solved[: max(0, _AROUND - len(front))]
        self._random.shuffle(centres)
        for schedule in centres[: 2 * _AROUND]:
            found |= dict.fromkeys(neighbours(self.space, schedule, swaps))
            if len(found) > _MOST_CANDIDATES:
                break
        return [s for s in found if s not in self._seen and all(o.fits(s) for o in self.bounding)]

    def _swaps(self, sensitivities: Sensitivities) -> list[int]:
        """The methods that lose least at the most cells, and one at random."""
        wins = np.bincount(sensitivities.loss[:, 1:].argmin(2).ravel(), minlength=len(self.space.schedules.methods))
        best = list(np.argsort(-wins, kind="stable")[:_SWAPS])
        return [*map(int, best), self._random.randrange(len(self.space.schedules.methods))]

    def _costs(self, schedules: Sequence[Plan]) -> tuple[Array, Array]:
        """Cost as a share of its bound, and what an evaluation spends; `[n]` each.

        Of several objectives the worst share counts, under weights that are drawn anew for every batch (ParEGO, Knowles
        2006).
        """
        shares = np.array([self._share(s) for s in schedules]).reshape(len(schedules), len(self.objectives))
        return (shares * self._weights).max(1), shares[:, 0]

    def _share(self, schedule: Plan) -> Array:
        """Each objective's cost over its bound; remembered, since a candidate comes up again and again."""
        found = self._shares.get(schedule)
        if found is None:
            if len(self._shares) >= _REMEMBERED:
                self._shares.clear()
            costs = [o.costs.predict(schedule) / bound for o, bound in zip(self.objectives, self.bounds, strict=True)]
            found = self._shares[schedule] = np.array(costs)
        return found

    def _points(self, verified: Sequence[Verified]) -> Array:
        """Cost and loss of the unpruned model and of what was verified, `[1 + n, 2]`."""
        schedules = [Plan(), *(s for s, _ in verified)]
        cost, _ = self._costs(schedules)
        return np.stack([cost, np.array([0.0, *(loss for _, loss in verified)])], axis=1)


def _best_so_far(points: Array) -> Array:
    """For each of the points `[n, 2]` (cost, loss), the least loss at its cost or less; `[n]`."""
    cheapest_first = np.lexsort((points[:, 1], points[:, 0]))
    best = np.empty(len(points))
    best[cheapest_first] = np.minimum.accumulate(points[cheapest_first, 1])
    return best
