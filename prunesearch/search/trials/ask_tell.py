"""The core of every search: ask for a schedule, tell what it was found to lose. Engines drive it.

Any number of processes may ask and tell one study at a time. A trial is written with its schedule as it begins, and of
two trials of one schedule the one with the lower number goes on.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import SAMPLERS
from prunesearch.search.costs.objectives import Objective
from prunesearch.search.samplers.context import SamplerContext
from prunesearch.search.samplers.projection import ProjectedSampler
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.space.plan_space import PlanSpace
from prunesearch.search.trials.evaluate import Evaluation, Rival
from prunesearch.search.trials.incumbents import Incumbent, Incumbents, pack_rows, unpack_rows
from prunesearch.study.storage.storage import storage_of
from prunesearch.study.storage.worker import this_worker
from prunesearch.study.trials import TrialRecord, fail_abandoned, is_withdrawn, plan_of, record_of

_STALE_ASKS = 50  # proposals in a row that brought nothing new
_MOVES = 100  # random moves away from a known schedule, and as many draws from anywhere, before giving up
_LOOK_S = 2.0  # between two looks for trials that dead processes left
_STRIDE = 1_000_003  # between the seeds of the sessions of a study
_LOSSES = 2  # workers that a schedule may take down before it counts as failed

Constraints = Callable[[Plan, Evaluation], Mapping[str, float]]


@dataclass(frozen=True)
class Proposal:
    """A plan to evaluate, as trial `number`.

    Attributes:
        source: `seed`, `sampler`, or what the trial was queued with.
        costs: predicted, by the name of the objective.
        rows_to_beat: the rival's rows as `incumbents.pack_rows` writes them, to be sent to a worker; None: no race.
    """

    number: int
    plan: Plan
    source: str
    costs: Mapping[str, float]
    rows_to_beat: str | None = None

    @property
    def schedule(self) -> Schedule:
        """The stages of its plan."""
        return self.plan.schedule

    @property
    def rival(self) -> Rival | None:
        """The schedule to race against: costs no more, and loses least of those."""
        return None if self.rows_to_beat is None else unpack_rows(self.rows_to_beat)


class Search:
    """Asks a sampler for schedules inside the budget, and tells the study what became of them.

    Args:
        study: where trials are kept.
        sampler: a name in `SAMPLERS`.
        space: what may be proposed.
        objectives: what is minimised beside the loss, with the bounds that no trial breaks; latency is among them.
        fallback: schedules inside the budget, for proposals that cannot be brought inside; may be empty.
        sensitivities: for samplers that use them.
        seed: of everything random.
        race: give proposals a rival.
        constraints: by name, what a schedule and its evaluation make of each; at most 0 is feasible.
        worker: who evaluates, as `this_worker` names it; None: this process.

    Attributes:
        known: every schedule with a result, by whatever process.
        fronts: the calibration front after each of these results.
        stopped: why an engine ended the search: trials, timeout, converged or exhausted; None before.
    """

    def __init__(
        self,
        study: optuna.Study,
        sampler: str,
        space: PlanSpace,
        objectives: Sequence[Objective],
        fallback: Sequence[Plan] = (),
        sensitivities: Sensitivities | None = None,
        seed: int = 0,
        *,
        race: bool = True,
        constraints: Constraints | None = None,
        worker: str | None = None,
    ) -> None:
        self.study, self.space, self.objectives, self.fallback = study, space, objectives, fallback
        self.race, self.constraints = race, constraints
        self.known: dict[Plan, TrialRecord] = {}
        self.fronts: list[tuple[Incumbent, ...]] = []
        self.stopped: str | None = None
        self._incumbents = Incumbents()
        self._seen = 0  # trials below this number were read; those of them that had not finished are in _unfinished
        self._unfinished: set[int] = set()
        self._elsewhere: dict[int, Plan] = {}  # running in other processes
        self._storage = storage_of(study)
        self._open: dict[int, optuna.Trial] = {}  # running for this one
        self._running: dict[Plan, int] = {}
        self._failed: set[Plan] = set()
        self._losses: dict[Plan, int] = {}
        self._queue: deque[Plan] = deque()
        self._stale, self._worker = 0, worker or this_worker()
        self._look_again = 0.0
        self.refresh()
        # a resumed run must not draw again what it drew before, nor one process what another does
        session_seed = seed + self._seen + _STRIDE * int(study.user_attrs.get("sessions", 0))
        self._seed, self._random = seed, random.Random(session_seed)
        context = SamplerContext(space, objectives, sensitivities, session_seed, seed)
        study.sampler = ProjectedSampler(SAMPLERS.load(sampler)(context), space, self.repair, self._next_seed)

    def enqueue(self, seeds: Sequence[Plan]) -> None:
        """Queue seeds to be asked first; those that any process has tried by then are passed over."""
        self._queue.extend(s for s in dict.fromkeys(seeds) if self.space.encode(s) is not None)

    def ask(self, trials: int | None = None) -> Proposal | None:
        """The next schedule to evaluate, claimed in the study.

        Schedules that were tried, or are being tried, are not proposed again.

        Args:
            trials: how many schedules with a result the study is to have; None: no limit.

        Returns:
            None if the search is `exhausted`, or if other processes were quicker to begin the last of the `trials`.
        """
        for attempt in itertools.count():
            if self.exhausted:
                break
            self.refresh()
            if attempt == 0 and not self.running:  # alone: the same, whether the run was interrupted or not
                self._random.seed(f"{self._seed}/{len(self.known)}/{len(self._failed)}")
            self._source = "sampler"
            trial = self.study.ask(self.space.distributions())
            schedule = Plan.of(self.space.decode(trial.params))  # a space of schedules alone gives these
            proposal = None
            if self.is_taken(schedule):
                self._discard(trial)
            else:
                proposal = self._claim(trial, schedule)
            if proposal is not None and self._is_surplus(proposal, trials):
                self._withdraw(proposal, "surplus", True)
                if proposal.source == "seed":
                    self._queue.appendleft(schedule)
                return None
            if proposal is not None:
                return proposal
            self._stale += 1
        return None

    def tell(self, proposal: Proposal, evaluation: Evaluation, seconds: float) -> TrialRecord | None:
        """Finish a trial; None if its outputs or its quality are not finite, or another process gave it up for dead.

        One that lost its race gets the values that its rival's rows make probable.
        """
        quality = evaluation.quality if evaluation.finite else math.nan
        if not math.isfinite(quality):
            self.fail(proposal, f"{'quality is' if evaluation.finite else 'outputs are'} not finite")
            return None
        rival = proposal.rival
        loss = evaluation.loss
        trial = self._open[proposal.number]
        raced = rival is not None and evaluation.n < len(rival.kl)
        if rival is not None and raced:
            quality, loss = rival.extend(evaluation)
            trial.set_user_attr("rows", evaluation.n)
            trial.set_user_attr("rows_total", len(rival.kl))
        trial.set_user_attr("quality", quality)
        trial.set_user_attr("seconds", seconds)
        values = tuple(proposal.costs[o.name] for o in self.objectives if o.minimised)
        feasible = self._constrain(trial, proposal.plan, evaluation)
        rows = None
        if feasible and not raced and self._incumbents.is_new(values, loss):
            rows = pack_rows(evaluation)
            if rows is not None:
                trial.set_user_attr("per_row", rows)
        if not self._close(proposal, [loss, *values]):
            return None
        record = TrialRecord(
            number=proposal.number,
            plan=proposal.plan,
            quality=quality,
            loss=loss,
            predicted_ms=proposal.costs["latency"],
            predicted_mj=proposal.costs.get("energy"),
            values=values,
            source=proposal.source,
            seconds=seconds,
            rows=evaluation.n if raced else None,
            rows_total=len(rival.kl) if rival is not None and raced else None,
        )
        self._stale = 0
        self._know(record, rows)
        return record

    def fail(self, proposal: Proposal, reason: str, *, lost: bool = False) -> None:
        """Record a trial that has no result.

        Args:
            proposal: what was asked.
            reason: one line, kept as the attribute `error`.
            lost: the worker is gone, which may not be the schedule's fault: it may be proposed once more.
        """
        schedule = proposal.plan
        trial = self._open[proposal.number]
        trial.set_user_attr("error", " ".join(reason.split())[:500])
        if lost:
            trial.set_user_attr("lost", True)
        self._close(proposal, None)
        self._stale += 1
        self._note_failure(schedule, lost)
        if proposal.source == "seed" and not self.is_taken(schedule):
            self._queue.appendleft(schedule)

    def refresh(self) -> None:
        """Read what other processes began and finished; from time to time, fail what the dead ones left."""
        if self._elsewhere and time.monotonic() > self._look_again:
            self._look_again = time.monotonic() + _LOOK_S
            fail_abandoned(self.study)
        trials = self.study.get_trials(deepcopy=False)
        for number in sorted(self._unfinished - self._open.keys()):
            self._take(trials[number])
        for number in range(self._seen, len(trials)):
            if number not in self._open:
                self._take(trials[number])
        self._seen = len(trials)

    @property
    def exhausted(self) -> bool:
        """Whether many asks in a row brought nothing new, or nothing but failures."""
        return self._stale >= _STALE_ASKS

    @property
    def running(self) -> int:
        """Trials under way, here and elsewhere."""
        return len(self._open) + len(self._elsewhere)

    def is_taken(self, schedule: Plan) -> bool:
        """Whether a schedule has a result, failed, or is being evaluated by any process."""
        return schedule in self.known or schedule in self._running or schedule in self._failed

    def repair(self, schedule: Plan) -> Plan:
        """Bring a proposal inside the budget, and if that schedule is known already, walk on to one that is not.

        Where all around is known, it is one from anywhere in the space.
        """
        found = self.project(schedule)
        for move in range(2 * _MOVES):
            if not self.is_taken(found):
                break
            near = self.space.neighbour(found, self._random) if move < _MOVES else self._anywhere()
            found = self.project(near)
        return found

    def _anywhere(self) -> Plan:
        """A schedule drawn uniformly by its parameters."""
        params: dict[str, Any] = {}
        for name, distribution in self.space.distributions().items():
            if isinstance(distribution, CategoricalDistribution):
                params[name] = self._random.choice(distribution.choices)
            elif isinstance(distribution, IntDistribution):
                params[name] = self._random.randint(distribution.low, distribution.high)
        return self.space.decode(params)

    def project(self, schedule: Plan) -> Plan:
        """Bring a proposal inside the budget: all stages step down together until the cost table says it fits."""
        candidate: Plan | None = schedule
        while candidate is not None:
            if all(objective.fits(candidate) for objective in self.objectives):
                return candidate
            candidate = self.space.shrink(candidate)
        if not self.fallback:
            bounds = ", ".join(f"{o.limit:.3g} {o.unit}" for o in self.objectives if math.isfinite(o.limit))
            raise PruneSearchError(f"no schedule of the space meets {bounds}: raise the budget")
        # the nearest in kind: same number of stages if there is one
        costs = self.objectives[0].costs
        return min(self.fallback, key=lambda s: (abs(len(s) - len(schedule)), -costs.predict(s)))

    def _next_seed(self) -> Plan | None:
        while self._queue:
            schedule = self._queue.popleft()
            if not self.is_taken(schedule):
                self._source = "seed"
                return schedule
        return None

    def _claim(self, trial: optuna.Trial, schedule: Plan) -> Proposal | None:
        """Write the trial with its schedule; None if a trial with a lower number has the same one."""
        source = str(trial.user_attrs.get("source", self._source))
        costs = {objective.name: objective.costs.predict(schedule) for objective in self.objectives}
        attrs = {"schedule": schedule.to_dict(), "source": source, **costs, "worker": self._worker}
        for name, value in attrs.items():
            trial.set_user_attr(name, value)
        number = self._storage.publish(trial.number)
        self._open[number] = trial
        self.refresh()
        rows = None
        if self.race:
            rows = self._incumbents.rival(tuple(costs[o.name] for o in self.objectives if o.minimised))
        proposal = Proposal(number, schedule, source, costs, rows)
        first = self.known[schedule].number if schedule in self.known else self._running.get(schedule, number)
        if first < number:
            self._withdraw(proposal, "duplicate_of", first)
            return None
        self._running[schedule] = number
        return proposal

    def _discard(self, trial: optuna.Trial) -> None:
        """Let go of a trial that was asked for in vain; one that was queued is in the study already, and fails."""
        if not self._storage.discard(trial.number):
            trial.set_user_attr("error", "the schedule was tried before")
            self.study.tell(trial, state=TrialState.FAIL)

    def _is_surplus(self, proposal: Proposal, trials: int | None) -> bool:
        """Whether results and trials begun earlier are all that is needed, if none of them fails."""
        earlier = sum(number < proposal.number for number in (*self._open, *self._elsewhere))
        return trials is not None and len(self.known) + earlier >= trials

    def _withdraw(self, proposal: Proposal, attribute: str, value: Any) -> None:
        """End a trial that was begun in vain; `is_withdrawn` knows it by the attribute."""
        self._open[proposal.number].set_user_attr(attribute, value)
        self._close(proposal, None)

    def _constrain(self, trial: optuna.Trial, schedule: Plan, evaluation: Evaluation) -> bool:
        """Write the trial's constraints; whether all are kept."""
        found = {} if self.constraints is None else self.constraints(schedule, evaluation)
        for name, value in found.items():
            trial.set_constraint(name, value)
        return all(value <= 0 for value in found.values())

    def _close(self, proposal: Proposal, values: Sequence[float] | None) -> bool:
        """Tell the study; False if another process has failed the trial, taking this one for dead."""
        trial = self._open.pop(proposal.number)
        if self._running.get(proposal.plan) == proposal.number:
            del self._running[proposal.plan]
        self._unfinished.discard(proposal.number)
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        try:
            self.study.tell(trial, values, state)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def _take(self, trial: FrozenTrial) -> None:
        """Take note of a trial of another process, or of an earlier run."""
        number, schedule = trial.number, plan_of(trial)
        before = self._elsewhere.pop(number, None)
        if before is not None and self._running.get(before) == number:
            del self._running[before]
        if not trial.state.is_finished():
            self._unfinished.add(number)
            if trial.state == TrialState.RUNNING and schedule is not None:
                self._elsewhere[number] = schedule
                self._running.setdefault(schedule, number)
            return
        self._unfinished.discard(number)
        if schedule is None or is_withdrawn(trial):
            return
        if trial.state == TrialState.COMPLETE:
            self._know(record_of(trial), trial.user_attrs.get("per_row"))
        else:
            self._note_failure(schedule, "lost" in trial.user_attrs)

    def _note_failure(self, schedule: Plan, lost: bool) -> None:
        self._losses[schedule] = self._losses.get(schedule, 0) + 1
        if not lost or self._losses[schedule] >= _LOSSES:
            self._failed.add(schedule)

    def _know(self, record: TrialRecord, rows: str | None) -> None:
        self.known.setdefault(record.plan, record)
        if rows is not None:
            self._incumbents.add(record.values, record.loss, rows)
        self.fronts.append(self._incumbents.front)
