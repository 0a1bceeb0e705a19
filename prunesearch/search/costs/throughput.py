"""Tokens a second of several requests at once: each writes answers without a pause, in a process of its own.

All of them are under the plan that is measured, as where it is deployed. What is minimised is the time of a token of
all of them together, in milliseconds: 1,000 over the tokens a second.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from queue import Empty
from typing import Any

import torch
from torch import Tensor

from prunesearch.core.events import say, track
from prunesearch.core.plans.plan import Plan
from prunesearch.cost.devices.device import kind_of
from prunesearch.cost.shape import device_of
from prunesearch.cost.timing.concurrency import await_all, batch_of, build, check_alive, describe_job
from prunesearch.cost.timing.samples import Samples
from prunesearch.pruning.apply import apply_
from prunesearch.search.costs.answering import Writes, judged, tried, writing
from prunesearch.search.costs.bench import Bench, Pricing, measured_latency
from prunesearch.search.costs.latency import Scaled
from prunesearch.study.front_items import Measured

_ROUNDS = 3
_LEAST_ANSWERS = 4  # of each process in a round
_LEAST_S = 1.0
_JOIN_S = 10


class ThroughputPricing(Pricing):
    """Milliseconds of a token at the run's concurrency, of answers as long as the unpruned model's are on average."""

    def costs(self, bench: Bench) -> Scaled:
        """Fitted now, and judged on schedules that the fit has not seen.

        Raises:
            PruneSearchError: for a model that writes nothing behind what is reduced, a percentile, or several loads.
        """
        writes = writing(bench, "throughput")
        at_once = _at_once(bench, writes)
        each = [samples.median_ms for samples in self._timed(bench, writes, tried(bench))]
        found, how_good = judged(bench, [ms * at_once for ms in each])
        say(
            f"throughput: {1000 / each[0]:.3g} tokens a second unpruned, {bench.config.concurrency} requests of batch "
            f"{bench.config.batch_size} at once; {how_good}"
        )
        return Scaled(found, 1 / at_once)

    def measure(self, bench: Bench, schedules: Sequence[Plan]) -> list[Measured]:
        """With as many processes as requests."""
        return [measured_latency(samples) for samples in self._timed(bench, writing(bench, "throughput"), schedules)]

    def _timed(self, bench: Bench, writes: Writes, plans: Sequence[Plan]) -> list[Samples]:
        config, inputs = bench.config, bench.task.timing_inputs(bench.config.batch_size)
        found = [Samples() for _ in plans]

        def one() -> None:
            writes(**inputs)
            kind_of(device_of(inputs)).synchronize(device_of(inputs))

        with torch.inference_mode(), others(writes, inputs, config.concurrency - 1) as beside:
            one()
            seconds = max(bench.seconds / _ROUNDS / len(plans), _LEAST_S)
            for _ in track(range(_ROUNDS), _ROUNDS, f"{config.concurrency} requests at once"):
                for samples, plan in zip(found, plans, strict=True):
                    with bench.handle.under(plan):
                        answers = beside.together(plan, seconds, one)
                    samples.ms.append(1000 / (answers * config.batch_size * writes.tokens))
        return found


def _at_once(bench: Bench, writes: Writes) -> int:
    """Tokens that all requests write while one of them writes an answer to every prompt of its batch."""
    return bench.config.concurrency * bench.config.batch_size * writes.tokens


class Others:
    """Processes that write answers when they are told to.

    Args:
        processes: of them.
        asked: what each is told through.
        told: what they tell through.
    """

    def __init__(self, processes: Sequence[Any], asked: Sequence[Any], told: Any) -> None:
        self._processes, self._asked, self._told = list(processes), asked, told

    def together(self, plan: Plan, seconds: float, one: Callable[[], None]) -> float:
        """Answers a second of all, this process's own among them, which `one` writes; each goes on for `seconds`."""
        for queue in self._asked:
            queue.put((plan.to_json(), seconds))
        mine = rate(seconds, one)
        return mine + sum(self._heard() for _ in self._asked)

    def _heard(self) -> float:
        while True:
            try:
                return float(self._told.get(timeout=_LEAST_S))
            except Empty:
                check_alive(self._processes)


def rate(seconds: float, one: Callable[[], None]) -> float:
    """How often a second `one` is done: for some time, and a few times in any case."""
    started, done = time.perf_counter(), 0
    while done < _LEAST_ANSWERS or time.perf_counter() - started < seconds:
        one()
        done += 1
    return done / (time.perf_counter() - started)


@contextmanager
def others(writes: Writes, inputs: Mapping[str, Tensor], count: int) -> Iterator[Others]:
    """Within the block, `count` processes with the same model, of random weights, wait to be told to write.

    Raises:
        PruneSearchError: if a process cannot start, or dies.
    """
    context = multiprocessing.get_context("spawn")
    asked, told = [context.Queue() for _ in range(count)], context.Queue()
    ready, job = [context.Event() for _ in range(count)], describe_job(writes, inputs, "eager") if count else {}
    made = [
        context.Process(target=_write, args=(job, writes.tokens, queue, told, event), daemon=True)
        for queue, event in zip(asked, ready, strict=True)
    ]
    try:
        for process in made:
            process.start()
        await_all(list(made), ready)
        yield Others(made, asked, told)
    finally:
        for queue in asked:
            queue.put(None)
        for process in made:
            process.join(timeout=_JOIN_S)
            if process.is_alive():
                process.kill()


def _write(job: dict[str, Any], tokens: int, asked: Any, told: Any, ready: Event) -> None:
    """Another process: answers as they are asked for, until nothing is."""
    torch.set_num_threads(job["threads"])
    model: Any = build(job)
    inputs = {name: value for name, value in batch_of(job).items() if name != "logits_to_keep"}
    model.generation_config.eos_token_id = None

    def one() -> None:
        model.generate(**inputs, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False, num_beams=1)
        kind_of(device_of(inputs)).synchronize(device_of(inputs))

    with torch.inference_mode(), apply_(model, Plan()) as handle:
        one()
        ready.set()
        while (wanted := asked.get()) is not None:
            plan, seconds = wanted
            with handle.under(Plan.from_json(plan)):
                told.put(rate(seconds, one))
