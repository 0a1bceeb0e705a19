from __future__ import annotations

from pathlib import Path

from prunesearch.core.events import Event, Note, listening
from prunesearch.study.folder import StudyFolder
from prunesearch.study.storage.alone import Alone
from tests.support.searches import start


def test_one_process_at_a_time_and_a_dead_one_frees_the_folder(tmp_path: Path) -> None:
    folder = StudyFolder.create("x", tmp_path)
    with Alone(folder) as lock:
        lock.release()
        script = """
            from prunesearch.study.folder import StudyFolder
            from prunesearch.study.storage.alone import Alone
            lock = Alone(StudyFolder.create("x", sys.argv[1]))
            lock.take()
            print("taken", flush=True)
            sleep_for_ever()
        """
        other = start(script, tmp_path)
        assert other.stdout is not None
        assert other.stdout.readline() == "taken\n"

        def kill(event: Event) -> None:
            if isinstance(event, Note) and "another process measures for study x" in event.text:
                other.kill()

        with listening(kill):
            assert lock.take()
        lock.release()
        assert not lock.take()
    other.wait()
