"""GPUs where there are none: the kind `cuda` with another driver behind it, and torch's own functions, replaced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prunesearch.core.tables.names import Row
from prunesearch.core.tables.registry import DEVICE_KINDS
from prunesearch.cost.devices.cuda import Cuda
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


def fake_cuda(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    """Let `torch.cuda.NAME` be what is given, until the test ends: of what NVML is asked by what torch calls a GPU."""
    for name, function in functions.items():
        monkeypatch.setattr(torch.cuda, name, function)
