"""The Ray engine: Ray Tune hands schedules to workers, on this machine or a cluster; this process asks and tells.

Ray's own search algorithms cannot carry what a trial here is; so Tune gets a `Searcher` over `Search.ask` and `tell`.
The study is the state: nothing of Tune's is kept, and a run whose driver died goes on with the same command. Workers
load the model once, evaluate quality alone, and never measure latency.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.search.engines.engine import EngineContext, Limits, Load, Stop
from prunesearch.search.engines.time_limit import time_limit
from prunesearch.search.trials.ask_tell import Proposal, Search
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.search.trials.incumbents import unpack_rows
from prunesearch.study.trials import TrialRecord
from prunesearch.tasks.metrics.metric import find_metric

try:
    import ray
    from ray import tune
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import FIFOScheduler
    from ray.tune.search import Searcher
except ImportError:
    raise PruneSearchError("the ray engine needs Ray Tune: pip install 'prunesearch[ray]', or use local") from None

_STORE_BYTES = 200 * 2**20  # of shared memory: a model comes from its files, results are small
_QUIET = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # so that relative paths mean the same in a worker
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own state is of no use here
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints errors at any verbosity
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
_LOST_IN_A_ROW = 5  # and one for each worker
_DONE = object()


def make_ray_engine(context: EngineContext) -> RayEngine:
    """The engine of a run."""
    return RayEngine(context.load, context.workers, context.address, on_gpu=context.on_gpu, limit_s=context.limit_s)


class RayEngine:
    """Evaluates in Ray workers.

    Args:
        load: makes a worker's evaluation function, once a worker; sent there by Ray.
        workers: evaluations at a time; None: one for each core, or for each GPU.
        address: of a running cluster, as `ray.init` takes it; None: workers on this machine, for this run.
        on_gpu: whether a worker needs a GPU; with more workers than GPUs they share.
        threads: of PyTorch in a worker.
        limit_s: seconds that an evaluation may take; None: any.
    """

    def __init__(
        self,
        load: Load,
        workers: int | None = None,
        address: str | None = None,
        *,
        on_gpu: bool = False,
        threads: int = 1,
        limit_s: float | None = None,
    ) -> None:
        self.load, self.workers, self.address = load, workers, address
        self.on_gpu, self.threads, self.limit_s = on_gpu, threads, limit_s

    def run(
        self, search: Search, trials: int | None = None, deadline: float | None = None, stop: Stop | None = None
    ) -> Iterator[TrialRecord]:
        """As `Engine.run`. A worker that dies costs the trial it had, which may be proposed once more.

        Raises:
            PruneSearchError: if there is no cluster at the address, or a worker cannot load the model.
        """
        limits = Limits(trials, deadline, stop)
        limits.note(search)  # an earlier session may have seen it converge
        with _environment(_QUIET), tempfile.TemporaryDirectory(prefix="prunesearch-ray-") as folder:
            workers = self._start(folder)
            asking = _Asking(search, limits, workers)
            thread = threading.Thread(target=self._fit, args=(asking, workers, folder), name="ray-tune", daemon=True)
            try:
                thread.start()
                while (record := asking.results.get()) is not _DONE:
                    yield record
            finally:
                asking.over = True
                ray.shutdown()
                thread.join()
                asking.give_up("interrupted")
        if asking.error is not None:
            raise asking.error
        search.stopped = asking.reason

    def _start(self, folder: str) -> int:
        """Connect to the cluster, or start one here; return the number of workers."""
        own = {"address": "local", "num_cpus": self.workers or _cores(), "object_store_memory": _STORE_BYTES}
        own |= {"include_dashboard": False, "_temp_dir": os.path.join(folder, "ray")}
        try:
            ray.init(
                **(own if self.address is None else {"address": self.address}),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            where = "on this machine" if self.address is None else f"at '{self.address}'"
            raise PruneSearchError(
                f"Ray does not start {where} ({reason}): check --ray-address, or use --engine local"
            ) from None
        kind = "GPU" if self.on_gpu else "CPU"
        there = int(ray.cluster_resources().get(kind, 0))  # type: ignore[no-untyped-call]
        if there < 1:
            ray.shutdown()
            raise PruneSearchError(f"the Ray cluster has no {kind}: give another --ray-address, or use --engine local")
        self._gpu_share = 0.0
        if self.on_gpu:
            self._gpu_share = min(1.0, there / (self.workers or there))
        return self.workers or there

    def _fit(self, asking: _Asking, workers: int, folder: str) -> None:
        """Run Tune to its end, in a thread of its own: its `fit` gives nothing back before."""
        trainable = tune.with_resources(
            tune.with_parameters(_Worker, load=self.load, threads=self.threads, limit_s=self.limit_s),
            {"cpu": 1, "gpu": self._gpu_share},
        )
        try:
            tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=asking,
                    scheduler=_NewestFirst(),  # type: ignore[no-untyped-call]
                    num_samples=-1,
                    # without it Tune lets one trial wait at a time, which the one actor takes again and again
                    max_concurrent_trials=workers,
                    reuse_actors=True,
                    trial_name_creator=lambda trial: trial.trial_id,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    storage_path=folder,
                    name="tune",
                    verbose=0,
                    callbacks=[_Losses(asking)],
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()
        except Exception as error:  # whatever it is, the thread that waits must raise it
            if not asking.over and asking.error is None:
                asking.error = error
        finally:
            asking.results.put(_DONE)


class _Asking(Searcher):
    """What Tune sees of a search. `results` gets each record; Tune's thread alone asks and tells."""

    def __init__(self, search: Search, limits: Limits, workers: int) -> None:
        super().__init__(metric=None, mode=None)
        self.search, self.limits, self.workers = search, limits, workers
        self.results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.reason: str | None = None
        self.error: Exception | None = None
        self.over = False
        self._open: dict[str, Proposal] = {}
        self._lost = 0  # workers since the last result

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next schedule for a worker; None while there is none to give, FINISHED at the end."""
        if self.over or self.error is not None:
            return str(Searcher.FINISHED)
        if len(self._open) >= self.workers:
            return None
        self.search.refresh()
        self.reason = self.limits.reached(self.search)
        if self.reason is None and self.limits.full(self.search):
            time.sleep(0.01)
            return None
        if self.reason is None:
            try:
                proposal = self.search.ask(self.limits.trials)
            except PruneSearchError as error:
                self.error = error
                return str(Searcher.FINISHED)
            if proposal is not None:
                self._open[trial_id] = proposal
                return {"schedule": proposal.plan.to_json(None), "rows_to_beat": proposal.rows_to_beat or ""}
            if not self.search.exhausted:
                return None
            self.reason = "exhausted"
        return str(Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study what a worker found, or that it is gone."""
        proposal = self._open.pop(trial_id, None)
        if proposal is None:
            return
        found: _Found | None = (result or {}).pop("found", None)
        if error or found is None:
            self._open[trial_id] = proposal  # `lose` follows, with the reason
        elif found.broken is not None:
            self.search.fail(proposal, found.broken, lost=True)
            self.error = PruneSearchError(f"a Ray worker cannot evaluate: {found.broken}")
        elif found.error is not None:
            self.search.fail(proposal, found.error)
        else:
            self._lost = 0
            statistics, kl, agrees = map(torch.tensor, found.rows)
            evaluation = Evaluation(statistics, kl, agrees, find_metric(found.metric))
            record = self.search.tell(proposal, evaluation, found.seconds)
            if record is not None:
                self.limits.note(self.search)
                self.results.put(record)

    def lose(self, trial_id: str, reason: str) -> None:
        """Fail a trial whose worker is gone; if no worker lives to the end of a trial, the run ends."""
        proposal = self._open.pop(trial_id, None)
        if proposal is None or self.over:
            return
        self.search.fail(proposal, f"its worker was lost: {reason}", lost=True)
        self._lost += 1
        if self._lost >= _LOST_IN_A_ROW + self.workers:
            self.error = PruneSearchError(f"{self._lost} Ray workers in a row died ({reason}): use --engine local")

    def give_up(self, reason: str) -> None:
        """Fail what is still under way."""
        for proposal in self._open.values():
            self.search.fail(proposal, reason, lost=True)
        self._open.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, for Tune writes its searcher down: the study is the state."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study is the state."""


class _NewestFirst(FIFOScheduler):
    """Gives a worker that has become free the trial that was asked for last.

    Tune's own choice is the one that has waited longest: a worker is being started for that one, and is given up then.
    If trials are shorter than a start (a process, a model), no second worker would ever come.
    """

    def choose_trial_to_run(self, tune_controller: Any, **_: Any) -> Trial | None:
        """The newest trial that waits."""
        return next((t for t in reversed(tune_controller.get_trials()) if t.status == Trial.PENDING), None)


class _Losses(tune.Callback):
    """Tells a search what Tune knows of a worker that is gone."""

    def __init__(self, asking: _Asking) -> None:
        self._asking = asking

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called after `_Asking.on_trial_complete`, which is not told the reason."""
        file = Path(trial.error_file or "")
        lines = file.read_text().strip().splitlines() if file.is_file() else []
        self._asking.lose(trial.trial_id, lines[-1][:200] if lines else "Tune knows no reason")


@dataclass(frozen=True)
class _Found:
    """What a worker sends back: the tensors of an `Evaluation` as arrays, or why there are none.

    `metric` is a name in `tasks.table.METRICS`; `error` is of the schedule; `broken` of the worker, which can evaluate
    nothing.
    """

    rows: Sequence[Any] = ()
    metric: str = ""
    seconds: float = 0.0
    error: str | None = None
    broken: str | None = None


class _Worker(tune.Trainable):
    """An actor with a model, which Tune uses for one trial after another."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], load: Load, threads: int, limit_s: float | None
    ) -> None:
        """Load the model."""
        self._limit_s = limit_s
        self._broken: str | None = None
        torch.set_num_threads(threads)
        self._take = config
        try:
            self._evaluate = load()
        except (ValueError, RuntimeError, OSError, MemoryError) as error:  # told, in place of a dead actor
            self._broken = " ".join(str(error).split())[:500] or type(error).__name__

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next schedule."""
        self._take = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate."""
        return {"done": True, "found": self._found()}

    def _found(self) -> _Found:
        if self._broken is not None:
            return _Found(broken=self._broken)
        rows, started = self._take["rows_to_beat"], time.monotonic()
        rival = unpack_rows(rows) if rows else None
        try:
            with time_limit(self._limit_s):
                evaluation = self._evaluate(Plan.from_json(self._take["schedule"]), rival)
        except (RuntimeError, MemoryError) as error:  # out of memory or time, or a kernel that refuses a shape
            return _Found(error=str(error) or type(error).__name__)
        tensors = (evaluation.statistics, evaluation.kl, evaluation.agrees)
        rows = [tensor.numpy() for tensor in tensors]
        return _Found(rows, evaluation.metric.name, time.monotonic() - started)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Set variables that are not set already, for a while."""
    added = {name: value for name, value in changes.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
