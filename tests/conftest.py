"""What all tests share: one thread (two cores run other things too), no network, and a cache of their own."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["HF_DATASETS_CACHE"] = f"{tempfile.gettempdir()}/prunesearch-tests-{os.getpid()}/datasets"
os.environ["HF_MODULES_CACHE"] = f"{tempfile.gettempdir()}/prunesearch-tests-{os.getpid()}/modules"

import pytest
import torch

from tests.support.heard import Heard, hearing

pytest_plugins = ["tests.support.synthetic_front", "tests.support.tiny_search"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a GPU, tests of one say what would run them."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU: `pytest -m gpu` where there is one"))


@pytest.fixture
def heard() -> Iterator[Heard]:
    """What the test's own calls tell."""
    with hearing() as found:
        yield found


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    shutil.rmtree(f"{tempfile.gettempdir()}/prunesearch-tests-{os.getpid()}", ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def _collect_only_new_garbage() -> None:
    """A measurement collects garbage first: over all libraries and collected tests that is a second each."""
    gc.collect()
    gc.freeze()
