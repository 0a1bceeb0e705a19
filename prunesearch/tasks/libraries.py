"""Libraries: packages that only some tasks need, and quiet for those that print and draw for themselves."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets.utils as datasets_bars
from transformers.utils import logging as transformers_logging

from prunesearch.core.errors import PruneSearchError


@contextmanager
def quiet_libraries(*, progress: bool = False) -> Iterator[None]:
    """Silence the warnings and (unless `progress`) the bars of transformers and datasets; restore."""
    hub: Any = transformers_logging  # both libraries leave these switches untyped
    data: Any = datasets_bars
    verbosity, bars = hub.get_verbosity(), hub.is_progress_bar_enabled()
    data_bars = not data.are_progress_bars_disabled()
    hub.set_verbosity_error()
    if not progress:
        hub.disable_progress_bar()
        data.disable_progress_bars()
    try:
        yield
    finally:
        hub.set_verbosity(verbosity)
        if bars:
            hub.enable_progress_bar()
        if data_bars:
            data.enable_progress_bars()


def package(name: str, message: str) -> Any:
    """Import a package.

    Raises:
        PruneSearchError: with the message, if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise PruneSearchError(message) from None
