import pytest
from transformers.utils import logging as transformers_logging

from prunesearch.tasks.libraries import quiet_libraries


def test_library_switches_are_restored_after_an_error():
    before = (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())

    def fail():
        with quiet_libraries():
            assert not transformers_logging.is_progress_bar_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert before == (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())
