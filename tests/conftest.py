"""What all tests share: one thread (two cores run other things too) and no network."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from tests.support.heard import Heard, hearing

pytest_plugins = ["tests.support.synthetic_front", "tests.support.tiny_search"]


@pytest.fixture
def heard() -> Iterator[Heard]:
    """What the test's own calls tell."""
    with hearing() as found:
        yield found


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
