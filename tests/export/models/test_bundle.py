from __future__ import annotations

import sys

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.export.models.bundle import Bundle

ONE = '''"""One."""
import math
import os  # not needed

from dataclasses import dataclass

_LIMIT = 3  # of something
# said of both
TABLE: dict[str, int] = {"a": 1}


def unused() -> str:
    return os.sep


@dataclass(frozen=True)
class Thing:
    """A thing."""

    size: float

    def used(self) -> float:
        """Used."""
        return math.sqrt(self.size) + _LIMIT

    # why it is here
    def idle(self) -> str:
        """Not used."""
        return unused()
'''
TWO = '''"""Two."""
from made_up_package.one import TABLE, Thing

_LIMIT = 10


def work(x: float) -> float:
    """Work."""
    from made_up_package.one import _LIMIT as other

    return Thing(x).used() + _LIMIT + TABLE["a"] + other * 0
'''


@pytest.fixture
def modules(tmp_path, monkeypatch):
    folder = tmp_path / "made_up_package"
    folder.mkdir()
    for name, text in (("__init__", ""), ("one", ONE), ("two", TWO.replace(" as other", "").replace("other", "0"))):
        text = text.replace("    from made_up_package.one import _LIMIT\n\n", "")
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "made_up_package.one", "made_up_package.two"
    for name in ("", ".one", ".two"):
        sys.modules.pop(f"made_up_package{name}", None)


def run(text: str) -> dict:
    names: dict = {"__name__": "bundle_for_test"}
    sys.modules["bundle_for_test"] = type(sys)("bundle_for_test")
    exec(compile("from __future__ import annotations\n" + text, "bundle", "exec"), names)
    return names


def test_only_what_is_needed_is_taken_and_it_computes_the_same(modules):
    _, two = modules
    text = Bundle([(two, "work")]).source()
    for gone in ("unused", "idle", "why it is here", "import os", "made_up_package.one import"):
        assert gone not in text
    assert "# said of both\nTABLE" in text
    assert run(text)["work"](16.0) == 4 + 3 + 10 + 1


def test_private_names_of_two_modules_stay_apart(modules):
    _, two = modules
    text = Bundle([(two, "work")]).source()
    assert text.count("_LIMIT_of_") == 2  # where it is defined and where it is used


def test_methods_that_the_user_of_the_file_calls_are_kept(modules):
    one, _ = modules
    assert "def idle" in Bundle([(one, "Thing")], methods=["idle"]).source()
    assert "def unused" in Bundle([(one, "Thing")], methods=["idle"]).source()


def test_values_can_be_replaced(modules):
    one, two = modules
    text = Bundle([(two, "work")], {(one, "TABLE"): '{"a": 5}'}).source()
    assert run(text)["work"](16.0) == 4 + 3 + 10 + 5


def test_what_is_not_there_is_said(modules):
    with pytest.raises(PruneSearchError, match=r"made_up_package\.one has no definition 'nothing'"):
        Bundle([(modules[0], "nothing")])
