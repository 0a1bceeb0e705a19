"""Exports are tested on the synthetic front of tests/results."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_PATH = Path(__file__).parents[1] / "results" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("synthetic_front", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
make_front = _MODULE.make_front
