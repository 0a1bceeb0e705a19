"""What `scripts/carry_for_gpu.py` finds missing on a machine, and what is typed there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from tests.support.paths import ROOT


def script() -> Any:
    spec = importlib.util.spec_from_file_location("carry_for_gpu", ROOT / "scripts" / "carry_for_gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_missing_or_too_old_is_carried_with_what_it_needs_itself(tmp_path: Path) -> None:
    carry = script()
    found = carry.needed([Requirement("optuna>=5"), Requirement("numpy>=1.26")], carry.environment("3.12"))
    assert {"optuna", "alembic", "sqlalchemy", "mako", "numpy"} <= set(found)  # Mako is Alembic's need
    listed = tmp_path / "has.txt"
    listed.write_text("# a machine\nnumpy==2.5.2\nSQLAlchemy==1.0.0\nMako\ntqdm\nPyYAML==6.0.4\n")
    lacking = carry.missing(found, carry.read_has(listed))
    assert {"optuna", "alembic", "sqlalchemy"} <= set(lacking)
    assert not {"numpy", "mako", "tqdm", "pyyaml"} & set(lacking)


def test_the_shipped_list_names_what_the_package_needs_newer_there() -> None:
    carry = script()
    has = carry.read_has(ROOT / "scripts" / "gpu_machine.txt")
    found = carry.needed([Requirement("transformers>=5.23"), Requirement("torch>=2.6")], carry.environment("3.12"))
    lacking = carry.missing(found, has)
    assert "transformers" in lacking
    assert "torch" not in lacking


def test_the_command_is_short_and_stops_where_the_wheels_do_not_install() -> None:
    typed = script().command(".gpu_day", 500)
    assert len(typed) <= 2000
    assert "--deadline 500" in typed
    assert "|| exit" in typed.partition("gpu_day.py")[0]
