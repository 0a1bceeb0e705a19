"""Concurrency: what a forward costs while other processes serve the same model on the same device."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing.synchronize import Event
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.amount import kept_count
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import ENCODER
from prunesearch.cost.devices.device import kind_of
from prunesearch.cost.shape import device_of
from prunesearch.cost.timing.modes import runner_for
from prunesearch.cost.timing.walk import plan_walks
from prunesearch.pruning.apply import apply_
from prunesearch.pruning.families.find import find_reduced
from prunesearch.pruning.interface import base_name

_START_S = 180.0  # for a process to import torch, build the model and run it once
_KEEPS = (0.8, 0.6, 0.4, 0.2)
_METHODS = ("cls_attention+drop",)


@contextmanager
def background_load(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    others: int,
    mode: str = "eager",
    serve: Callable[[dict[str, Any], int, Event, Event], None] | None = None,
) -> Iterator[None]:
    """Within the block, `others` more processes run forwards of the same model on the same device, without a pause.

    They run random schedules, from the unpruned model to a fifth of its tokens: what is measured within the block is a
    forward among requests of all kinds. Weights are random, and each process has as many threads as this one.

    Args:
        model: a supported model, or a module around one.
        inputs: a batch; the others' have its shapes.
        others: 0 starts nothing.
        mode: how the others execute their forwards.
        serve: what each of the others does; None runs forwards.

    Raises:
        PruneSearchError: if a process cannot start, or dies (as when memory runs out).
    """
    if others < 0:
        raise PruneSearchError(f"`concurrency >= 1` must hold, but got {others + 1}")
    if others == 0:
        yield
        return
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    stop = context.Event()
    ready = [context.Event() for _ in range(others)]
    job = describe_job(model, inputs, mode)
    made = partial(context.Process, target=serve or _serve, daemon=True)
    workers = [made(args=(job, seed, event, stop)) for seed, event in enumerate(ready)]
    try:
        for worker in workers:
            worker.start()
        await_all(workers, ready)
        yield
        check_alive(workers)
    finally:
        stop.set()
        for worker in workers:
            worker.join(timeout=10)
            if worker.is_alive():
                worker.kill()


def describe_job(model: nn.Module, inputs: Mapping[str, Tensor], mode: str) -> dict[str, Any]:
    """What a process needs to build the same model and batch, in plain types."""
    found = find_reduced(model)
    # a decoder's head is a part of every request
    base = found.base if found.family.part == ENCODER else _outermost(model)
    return {
        "class": type(base).__name__,
        "config": base.config.to_dict(),
        "dtype": next(base.parameters()).dtype,
        "attention": base_name(str(base.config._attn_implementation)),
        "device": str(device_of(inputs)),
        "inputs": {name: (tuple(value.shape), value.dtype) for name, value in inputs.items()},
        # of a prompt it is said which tokens are of pictures
        "values": {n: v.cpu() for n, v in inputs.items() if found.family.part != ENCODER and not v.is_floating_point()},
        "threads": torch.get_num_threads(),
        "mode": mode,
    }


def _outermost(model: nn.Module) -> PreTrainedModel:
    return next(part for part in model.modules() if isinstance(part, PreTrainedModel))


def await_all(workers: list[Any], ready: list[Event]) -> None:
    """Wait until every process says that it is ready.

    Raises:
        PruneSearchError: if one does not in time, or dies.
    """
    deadline = time.monotonic() + _START_S
    for event in ready:
        while not event.wait(0.2):
            check_alive(workers)
            if time.monotonic() > deadline:
                raise PruneSearchError(f"a process of the background load did not start in {_START_S:.0f} s: use fewer")


def check_alive(workers: list[Any]) -> None:
    """Raise `PruneSearchError` if a process has ended."""
    dead = [worker.exitcode for worker in workers if worker.exitcode is not None]
    if dead:
        raise PruneSearchError(
            f"{len(dead)} of {len(workers)} processes of the background load ended with code {dead[0]}, as when memory "
            "runs out: use a smaller concurrency or batch size"
        )


def _serve(job: dict[str, Any], seed: int, ready: Event, stop: Event) -> None:
    """The other process: build, run once, say so, and go on until told to stop."""
    torch.set_num_threads(job["threads"])
    model = build(job)
    inputs = batch_of(job)
    with torch.inference_mode(), apply_(model, Schedule()) as handle:
        with handle.observing() as hidden:
            model(**inputs)
            tokens = hidden[0].shape[1]
        encoder = handle.encoder
        never = encoder.protected_in(inputs)
        counts = {never + kept_count(k, tokens - never) for k in _KEEPS}
        grid = sorted(n for n in counts if n < tokens)
        device = device_of(inputs)
        kind = kind_of(device)
        runner = runner_for(job["mode"], model, handle, inputs)
        for schedule in plan_walks(encoder.depth, tokens, never, grid, _METHODS, seed):
            runner.prepare(schedule)
            runner.run()
            kind.synchronize(device)
            ready.set()
            if stop.is_set():
                return


def build(job: Mapping[str, Any]) -> nn.Module:
    """The model of a description, with random weights."""
    cls = getattr(transformers, job["class"])
    config = cls.config_class.from_dict(job["config"])
    with torch.device(job["device"]):
        model: nn.Module = cls._from_config(config, attn_implementation=job["attention"], dtype=job["dtype"])
    return model.eval()


def batch_of(job: Mapping[str, Any]) -> dict[str, Tensor]:
    """The batch of a description: random where it may be."""
    made = {}
    for name, (shape, dtype) in job["inputs"].items():
        value = torch.randn(shape) if dtype.is_floating_point else torch.ones(shape)
        made[name] = job["values"].get(name, value).to(job["device"], dtype)
    return made
