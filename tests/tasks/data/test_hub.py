"""Names that are no folder: the Hub is asked once and shortly, and the cache is used where it does not answer."""

from __future__ import annotations

import threading

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.hub import answers_in_time, data_cached, model_cached, only_cached
from prunesearch.tasks.loading import load_config
from prunesearch.tasks.shapes import shape_config


def test_where_the_hub_answers_its_own_client_is_asked() -> None:
    assert not only_cached("owner/nope", "model", cached=lambda name: False, answers=lambda: True)


def test_where_it_does_not_what_is_cached_is_taken_and_all_else_is_one_line() -> None:
    assert only_cached("owner/there", "model", cached=lambda name: name == "owner/there", answers=lambda: False)
    with pytest.raises(
        PruneSearchError, match=r"the data set of 'owner/nope' could not be loaded .*check the name"
    ) as e:
        only_cached("owner/nope", "data set", cached=lambda name: False, answers=lambda: False)
    assert "\n" not in str(e.value)


def test_an_attempt_that_hangs_or_fails_is_no_answer() -> None:
    never = threading.Event()
    assert not answers_in_time(never.wait, 0.05)
    never.set()

    def refused() -> None:
        raise OSError("no route")

    assert not answers_in_time(refused, 10.0)
    assert answers_in_time(lambda: "200", 10.0)


def test_nothing_is_cached_under_a_name_that_nobody_has() -> None:
    assert not model_cached("nobody/has-this-model")
    assert not data_cached("nobody/has-this-data")


def test_commands_that_take_a_model_say_so_at_once() -> None:
    """Tests run with HF_HUB_OFFLINE."""
    with pytest.raises(PruneSearchError, match=r"HF_HUB_OFFLINE is set.*check the name"):
        load_config("nobody/has-this-model")
    with pytest.raises(PruneSearchError, match="'nope' is no folder, Hub id or built-in shape"):
        shape_config("nope")
