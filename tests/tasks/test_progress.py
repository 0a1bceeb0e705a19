import io

import pytest
from rich.console import Console
from transformers.utils import logging as transformers_logging

from prunesearch.tasks import progress


@pytest.mark.parametrize(
    ("terminal", "quiet", "patience", "shown"),
    [(True, False, -1.0, True), (True, True, -1.0, False), (False, False, -1.0, False), (True, False, 60.0, False)],
)
def test_bar_only_on_a_terminal_and_only_when_slow(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, quiet: bool, patience: float, shown: bool
):
    out = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=out, force_terminal=terminal))
    monkeypatch.setattr(progress, "PATIENCE_S", patience)
    assert list(progress.track(range(5), 5, "Preparing", quiet=quiet)) == list(range(5))
    assert ("Preparing" in out.getvalue()) == shown
    assert bool(out.getvalue()) == shown


def test_library_switches_are_restored_after_an_error():
    before = (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())

    def fail():
        with progress.quiet_libraries():
            assert not transformers_logging.is_progress_bar_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert before == (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())
