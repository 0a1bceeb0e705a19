from __future__ import annotations

from pathlib import Path

from prunesearch.study.alone import Alone
from prunesearch.study.folder import StudyFolder
from tests.support.heard import Heard
from tests.support.searches import start


def test_one_process_at_a_time_and_a_dead_one_frees_the_folder(tmp_path: Path, heard: Heard) -> None:
    folder = StudyFolder.create("x", tmp_path)
    with Alone(folder) as lock:
        lock.release()
        script = """
            from prunesearch.study.folder import StudyFolder
            from prunesearch.study.alone import Alone
            lock = Alone(StudyFolder.create("x", sys.argv[1]))
            lock.take()
            print("taken", flush=True)
            time.sleep(0.5)
            import os
            os._exit(1)  # without a word
        """
        other = start(script, tmp_path)
        assert other.stdout is not None
        assert other.stdout.readline() == "taken\n"
        assert lock.take()
        assert "another process measures for study x" in str(heard)
        lock.release()
        assert not lock.take()
    other.wait()
