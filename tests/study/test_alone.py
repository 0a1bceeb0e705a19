from __future__ import annotations

from pathlib import Path

import pytest

from prunesearch.progress import Reporter
from prunesearch.study.alone import Alone
from prunesearch.study.folder import StudyFolder
from tests.support.searches import start


def test_one_process_at_a_time_and_a_dead_one_frees_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = StudyFolder.create("x", tmp_path)
    with Alone(folder, Reporter()) as lock:
        lock.release()
        script = """
            from prunesearch.study.folder import StudyFolder
            from prunesearch.study.alone import Alone
            from prunesearch.progress import Reporter
            lock = Alone(StudyFolder.create("x", sys.argv[1]), Reporter())
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
        assert "another process measures for study x" in capsys.readouterr().err
        lock.release()
        assert not lock.take()
    other.wait()
