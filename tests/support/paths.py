"""Where things lie: the repository, and data and trained weights that may not be shipped with it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS, EXAMPLES, SPACES = ROOT / "docs", ROOT / "examples", ROOT / "search_spaces"
ASSETS = Path(os.environ.get("PRUNESEARCH_ASSETS", ROOT.parent / "shared" / "assets"))


# why a test is skipped where something is missing: what would run it
DEV = "pip install -e '.[dev]' (make test does it) has what this needs"

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no browser: apt install chromium, or have chromium or google-chrome on the PATH"
)


def needs_assets(*names: str) -> pytest.MarkDecorator:
    """Skip a test where files or folders of `ASSETS` are missing; the reason says what would run it."""
    missing = [name for name in names if not (ASSETS / name).exists()]
    reason = f"{', '.join(missing)} may not be shipped: set PRUNESEARCH_ASSETS to a folder that has it"
    return pytest.mark.skipif(bool(missing), reason=reason)
