"""Every public name is what it should be, whatever was imported before: a subpackage of a verb's name would win."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import prunesearch as ps

KINDS = {
    "run": "function",
    "compare": "function",
    "inspect": "function",
    "load_study": "function",
    "tune": "function",
    "load_tuned": "function",
    "profile": "function",
    "measure": "function",
    "devices": "function",
    "names": "function",
    "models": "function",
    "flops": "function",
    "import_schedule": "function",
    "dashboard": "function",
    "apply_": "function",
    "handle_of": "function",
    "fit_plan": "function",
    "load_fits": "function",
    "mean_pool": "function",
    "register_family": "function",
    "Study": "type",
    "StudyPoint": "type",
}


def test_no_module_hides_a_public_name() -> None:
    """After every module was imported: an import sets its module's name in the folder above."""
    for found in pkgutil.walk_packages(ps.__path__, "prunesearch."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    assert not [name for name in ps.__all__ if inspect.ismodule(getattr(ps, name))]


def test_verbs_are_functions_and_nouns_are_classes() -> None:
    for name, kind in KINDS.items():
        assert type(getattr(ps, name)).__name__ in (kind, "ModelMetaclass"), name
    assert KINDS.keys() <= set(ps.__all__)


def test_importing_it_imports_no_torch() -> None:
    code = "import prunesearch, sys; print(sorted({'torch', 'pandas', 'transformers', 'optuna'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
