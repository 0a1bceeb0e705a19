"""A user's own folder of profiles, and a profile in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunesearch.cost.tables.device_profile import Profile
from tests.support.known_device import known_table, write_profile


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """The user's own folder of profiles."""
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(tmp_path))
    return tmp_path


@pytest.fixture
def profile(root) -> Profile:
    """Batch 1 and 8 in float32, batch 1 in bfloat16."""
    tables = [known_table(), known_table(batch_size=1), known_table(batch_size=1, dtype="bfloat16")]
    return write_profile(root, "box", *tables)
