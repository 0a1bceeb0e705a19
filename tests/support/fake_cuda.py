"""GPUs where there are none: the kind `cuda` with another driver behind it, and torch's own functions, replaced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from prunesearch.core.tables.names import Row
from prunesearch.core.tables.registry import DEVICE_KINDS
from prunesearch.cost.devices.cuda import Cuda
from tests.support.fake_nvml import UUID
from tests.support.tables import in_place


@contextmanager
def gpus_called(*names: str) -> Iterator[None]:
    """Within the block torch sees GPUs of these names."""
    cuda = SimpleNamespace(
        is_available=lambda: bool(names),
        device_count=lambda: len(names),
        get_device_name=lambda index: names[index],
        get_device_properties=lambda index: SimpleNamespace(multi_processor_count=108),
    )
    with in_place(DEVICE_KINDS, "cuda", Row(lambda: Cuda(cuda), "for a test")):
        yield


def told_by_torch(monkeypatch: pytest.MonkeyPatch, count: int = 1) -> None:
    """Until the test ends torch sees `count` GPUs, each the one that `FakeNvml` is: NVML is asked by its name there."""
    functions = {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "device_count": lambda: count,
        "get_device_properties": lambda index: SimpleNamespace(uuid=UUID),
    }
    for name, function in functions.items():
        monkeypatch.setattr(torch.cuda, name, function)
