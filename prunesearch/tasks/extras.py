"""Packages that only some tasks need."""

from __future__ import annotations

import importlib
from typing import Any

from prunesearch.core.errors import PruneSearchError


def package(name: str, message: str) -> Any:
    """Import a package.

    Raises:
        PruneSearchError: with the message, if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise PruneSearchError(message) from None
