"""Training in several processes, one a device, as `torchrun` or `accelerate launch` begin them.

All of them load the model and the rows, and train: each on its share of a step's rows, with gradients averaged over all
(PyTorch's DistributedDataParallel, Li et al. 2020, which transformers' Trainer begins). The first alone measures,
judges, writes and tells; the others wait until it is done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import listening, silent

if TYPE_CHECKING:
    from prunesearch.study.config import RunConfig
    from prunesearch.study.folder import StudyFolder
    from prunesearch.study.target import Target

ACCELERATE = "training needs accelerate, which is not installed: pip install 'prunesearch[train]'"
TRAINS = ("tune", "learn-scorers")  # commands that may be begun so


def processes() -> int:
    """How many train together; 1 where none were begun so."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_place() -> int:
    """This process's number on its machine, which is that of its device."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_first() -> bool:
    """Whether this process writes and tells."""
    return int(os.environ.get("RANK", "0")) == 0


def begin(args: list[str]) -> None:
    """To be called before torch is imported: refuses commands that would do all once in each of several processes.

    Args:
        args: of the command line.

    Raises:
        PruneSearchError: naming the way out.
    """
    if processes() == 1:
        return
    os.environ.setdefault(
        "TORCH_CPP_LOG_LEVEL", "ERROR"
    )  # it warns of parameters that are all used: the next plan's may not
    if not set(args[:1]) & set(TRAINS):
        raise PruneSearchError(
            f"several processes train together (tune, learn-scorers), but {processes()} were begun for "
            f"'{' '.join(args[:1])}': begin one; run has --engine ray --workers N"
        )


def share_of(batch_size: int) -> int:
    """The rows of a step that each process takes.

    Raises:
        PruneSearchError: if the rows cannot be shared evenly.
    """
    if batch_size % processes():
        raise PruneSearchError(
            f"`--batch-size` must be a multiple of the {processes()} processes that train, but is {batch_size}"
        )
    return batch_size // processes()


def target_of(config: RunConfig) -> Target:
    """What `config.device` came to; in several processes the device of this one, which is of the same kind."""
    from prunesearch.cost.devices.device import kind_of
    from prunesearch.study.target import resolve_target

    target = resolve_target(config.device)
    kind = target.device.partition(":")[0]
    mine = processes() > 1 and kind_of(target.device).accelerator
    return replace(target, device=f"{kind}:{local_place()}") if mine else target


def together(device: str | None = None) -> None:
    """Wait until every process is here.

    Args:
        device: this process's, which must be named at their first meeting.
    """
    if processes() == 1:
        return
    import torch

    from prunesearch.cost.devices.device import kind_of
    from prunesearch.tasks.libraries import package

    if device is not None:
        package("accelerate", ACCELERATE).PartialState(cpu=not kind_of(device).accelerator)
    torch.distributed.barrier()


@contextmanager
def alone_together(folder: StudyFolder, device: str) -> Iterator[bool]:
    """Within the block, the first process has a study folder to itself, and the others say nothing.

    Args:
        folder: that the first has.
        device: this process's.

    Yields:
        whether this is the first. The others wait at the end of the block until it has left its own.
    """
    from prunesearch.study.storage.alone import Alone

    if is_first():
        with Alone(folder):
            together(device)
            yield True
        return
    with listening(silent):
        together(device)
        yield False
        with Alone(folder):
            pass
