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
from prunesearch.one_for_test import TABLE, Thing

_LIMIT = 10


def work(x: float) -> float:
    """Work."""
    from prunesearch.one_for_test import _LIMIT as other

    return Thing(x).used() + _LIMIT + TABLE["a"] + other * 0
'''


@pytest.fixture
def modules(tmp_path, monkeypatch):
    import prunesearch

    for name, text in (("one_for_test", ONE), ("two_for_test", TWO.replace(" as other", "").replace("other", "0"))):
        (tmp_path / f"{name}.py").write_text(text.replace("    from prunesearch.one_for_test import _LIMIT\n\n", ""))
    monkeypatch.setattr(prunesearch, "__path__", [*prunesearch.__path__, str(tmp_path)])
    yield "prunesearch.one_for_test", "prunesearch.two_for_test"
    for name in ("one_for_test", "two_for_test"):
        sys.modules.pop(f"prunesearch.{name}", None)


def run(text: str) -> dict:
    names: dict = {"__name__": "bundle_for_test"}
    sys.modules["bundle_for_test"] = type(sys)("bundle_for_test")
    exec(compile("from __future__ import annotations\n" + text, "bundle", "exec"), names)
    return names


def test_only_what_is_needed_is_taken_and_it_computes_the_same(modules):
    _, two = modules
    text = Bundle([(two, "work")]).source()
    for gone in ("unused", "idle", "why it is here", "import os", "prunesearch.one_for_test import"):
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
    with pytest.raises(PruneSearchError, match="one_for_test has no definition 'nothing'"):
        Bundle([(modules[0], "nothing")])
