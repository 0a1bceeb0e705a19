"""The file of a study: whole whatever happens to its writers."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import suppress

import optuna
import pytest
from filelock import Timeout
from optuna.storages import JournalStorage
from optuna.trial import TrialState

from prunesearch.core.errors import PruneSearchError
from prunesearch.study.storage.journal import StudyFile, lock_of
from prunesearch.study.storage.storage import StudyStorage
from prunesearch.study.trials import finished_trials, open_study
from tests.support.searches import make_search, run_local, start
from tests.support.studies import load_study


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_optuna_reads_what_is_written_and_the_other_way_round(tmp_path):
    path = tmp_path / "s.journal"
    records = list(run_local(make_search(path), 3))
    theirs = load_study(path)
    assert [t.values for t in theirs.trials] == [[r.loss, *r.values] for r in records]
    theirs.enqueue_trial(theirs.trials[0].params)
    assert [t.state for t in open_study(path).trials] == [TrialState.COMPLETE] * 3 + [TrialState.WAITING]


def test_a_trial_is_written_in_two_pieces(tmp_path):
    """One as it begins and one as it ends, and nothing between."""
    written = []

    class Counting(StudyFile):
        def _write(self, data):
            written.append(data)
            super()._write(data)

    path = tmp_path / "s.journal"
    open_study(path)
    file = Counting(path)
    journal = JournalStorage(file)
    storage = StudyStorage(journal, journal.get_study_id_from_name("prunesearch"), file.together)
    search = make_search(path, study=optuna.load_study(study_name="prunesearch", storage=storage))
    for count in (2, 4):
        assert len(list(run_local(search, count // 2))) == 1
        assert len(written) == count
    assert all(data.endswith(b"\n") for data in written)


def test_nothing_of_a_block_that_fails_is_written(tmp_path):
    file = StudyFile(tmp_path / "s.journal")
    with suppress(KeyError), file.together():
        file.append_logs([{"a": 1}])
        raise KeyError
    file.append_logs([{"b": 2}])
    assert lines(file.path) == [{"b": 2}]


@pytest.mark.parametrize("torn", [b'{"op_code":4,"work', b'{"op_code":4}\x00\x00', b"\xff"])
def test_a_line_that_was_cut_is_removed_before_the_next(tmp_path, torn):
    path = tmp_path / "s.journal"
    first = list(run_local(make_search(path), 3))
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(torn)
    search = make_search(path)
    assert [r.number for r in finished_trials(search.study)] == [0, 1, 2]
    assert len(list(run_local(search, 5))) == 2
    assert path.read_bytes().startswith(whole)
    assert all("op_code" in line for line in lines(path))
    assert finished_trials(load_study(path))[:3] == first


FULL = """
    import resource, signal
    path, room = Path(sys.argv[1]), int(sys.argv[2])
    search = make_search(path, seed=1)
    for record in run_local(search, 3):
        print(record.number, flush=True)
    # no file may grow any further than this: a write is cut in the middle, as on a full disk
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room,) * 2)
    try:
        for record in run_local(search, 30):
            print(record.number, flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""


@pytest.mark.parametrize("room", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (300, 1500, 4001)), 2500])
def test_a_full_disk_is_one_line_and_loses_nothing_that_was_told(tmp_path, room):
    path = tmp_path / "s.journal"
    process = start(FULL, path, room)
    *numbers, said = process.communicate(timeout=120)[0].splitlines()
    assert said.startswith("PruneSearchError ")
    assert f"{path} cannot be written (File too large): make room there" in said
    search = make_search(path)
    assert [str(r.number) for r in finished_trials(search.study)] == numbers
    assert TrialState.RUNNING not in {t.state for t in search.study.trials}
    assert len(list(run_local(search, len(numbers) + 2))) == 2
    assert all("op_code" in line for line in lines(path))


def test_a_file_that_may_not_be_written_is_one_line(tmp_path):
    path = tmp_path / "s.journal"
    file = StudyFile(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(PruneSearchError, match="cannot be written"):
        file.append_logs([{"a": 1}])


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    """Optuna's own lock is waited for half a minute, then taken away."""
    path = tmp_path / "s.journal"
    make_search(path)
    script = """
        from prunesearch.study.storage.journal import lock_of
        lock = lock_of(Path(sys.argv[1]))
        lock.acquire()
        print("mine", flush=True)
        sleep_for_ever()
    """
    process = start(script, path)
    assert process.stdout.readline() == "mine\n"
    with pytest.raises(Timeout):
        lock_of(path).acquire(timeout=0)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(run_local(make_search(path), 1))) == 1


def test_threads_take_turns(tmp_path):
    file = StudyFile(tmp_path / "s.journal")
    threads = [
        threading.Thread(target=lambda n=n: [file.append_logs([{"n": n, "i": i}]) for i in range(50)]) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = lines(file.path)
    assert len(found) == 200
    for n in range(4):
        assert [line["i"] for line in found if line["n"] == n] == list(range(50))
