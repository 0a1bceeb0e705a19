"""A block that takes too long ends in an error; what was set before it comes back."""

from __future__ import annotations

import signal
import threading

import pytest

from prunesearch.search.engines.time_limit import LEAST_S, TrialTimeoutError, time_limit, trial_limit


def test_what_never_ends_is_stopped_and_the_alarm_is_given_back() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TrialTimeoutError, match=r"no result within 0\.05 s"), time_limit(0.05):
        threading.Event().wait()
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_what_ends_in_time_is_left_alone() -> None:
    with time_limit(3600.0):
        done = True
    assert done
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_in_another_thread_nothing_is_limited() -> None:
    seen: list[bool] = []

    def work() -> None:
        with time_limit(1e-9):
            seen.append(signal.getitimer(signal.ITIMER_REAL)[0] == 0)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


def test_a_trial_may_take_many_times_what_the_unpruned_model_does() -> None:
    assert trial_limit(0.1) == LEAST_S
    assert trial_limit(100.0) == 2000.0


def test_a_time_that_a_library_takes_for_an_error_of_its_own_is_up_all_the_same() -> None:
    def convert() -> None:
        try:
            threading.Event().wait()
        except Exception as error:
            raise ValueError("unable to convert") from error

    with pytest.raises(TrialTimeoutError, match="no result within"), time_limit(0.05):
        convert()


def test_other_errors_are_their_own() -> None:
    with pytest.raises(ValueError, match="mine"), time_limit(3600.0):
        raise ValueError("mine")
