"""Trackers: TensorBoard's files are read back, the others by a stand-in that writes down what it hears."""

from __future__ import annotations

import types

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.export_tables import LOGGERS
from prunesearch.report.loggers import check_logger, log_study, scalars
from prunesearch.study.folder import StudyFolder
from tests.support.paths import DEV
from tests.support.studies import plain_trials


@pytest.fixture
def folder(tmp_path, make_front):
    found = StudyFolder(tmp_path, "demo")
    found.path.mkdir()
    make_front().save(found.front)
    return found


class Recorder:
    """Writes down every call, and answers with itself."""

    def __init__(self):
        self.calls = []
        self.summary = {}
        self.id = self.name = self.run_id = "r1"

    def __getattr__(self, name):
        def call(*args, **options):
            self.calls.append((name, args, options))
            return self

        return call

    @property
    def info(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def called(self, name):
        return [(args, options) for called, args, options in self.calls if called == name]


def test_what_is_told(make_front):
    front, trials = make_front(), plain_trials(3)
    found = scalars(front, trials)
    assert [step for step, _ in found] == [0, 1, 2, 1, 2, 3, 4]
    assert found[1][1]["trial/quality"] == trials[1].attrs["quality"]
    assert found[1][1]["trial/loss"] == trials[1].values[0]
    assert found[4][1]["front/latency_ms"] == front.points[1].latency.value
    assert "front/energy_mj" not in found[4][1]


def test_mlflow(folder, make_front):
    heard = Recorder()
    assert "r1" in log_study("mlflow", folder, make_front(), plain_trials(3), {"mlflow": heard}.__getitem__)
    assert len(heard.called("log_metrics")) == 7
    assert heard.called("log_params")[0][0][0]["trials"] == "64"
    assert [args[0] for args, _ in heard.called("log_artifact")] == [str(folder.front)]


def test_wandb(folder, make_front):
    heard = Recorder()
    assert "r1" in log_study("wandb", folder, make_front(), plain_trials(3), {"wandb": heard}.__getitem__)
    told = [args[0] for args, _ in heard.called("log")]
    assert [t.get("trial/step", t.get("front/step")) for t in told] == [0, 1, 2, 1, 2, 3, 4]
    assert heard.summary["verdict"].startswith("fastest")
    assert heard.calls[-1][0] == "finish"


def test_tensorboard_files_hold_the_numbers(folder, make_front):
    pytest.importorskip("tensorboardX", reason=DEV)
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  # its format is what is read below

    log_study("tensorboard", folder, make_front(), plain_trials(3))
    (file,) = (folder.path / "tensorboard").iterdir()
    data, place, found = file.read_bytes(), 0, {}
    while place < len(data):  # length, its checksum, the record, its checksum
        size = int.from_bytes(data[place : place + 8], "little")
        event = Event.FromString(data[place + 12 : place + 12 + size])
        place += 16 + size
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
    assert found["front/quality", 3] == pytest.approx(make_front().points[2].quality.value)
    assert found["trial/quality", 2] == pytest.approx(plain_trials(3)[2].attrs["quality"])


def test_what_is_missing_or_unknown_is_said_before_a_run():
    asked = []

    def missing(module):
        asked.append(module)
        raise ModuleNotFoundError(module)

    for name in LOGGERS:
        with pytest.raises(PruneSearchError, match=f"--log {name} needs a package.*pip install {name}"):
            check_logger(name, missing)
    assert asked == ["torch.utils.tensorboard", "tensorboardX", "mlflow", "wandb"]
    with pytest.raises(PruneSearchError, match=r"unknown logger 'wandbb'.*wandb"):
        check_logger("wandbb")


def test_a_tracker_that_refuses_is_said_in_one_line(folder, make_front):
    def refuse(*_, **__):
        raise RuntimeError("no\nroute")

    wandb = types.SimpleNamespace(init=refuse)
    with pytest.raises(PruneSearchError, match=r"wandb did not take the study \(no route\)"):
        log_study("wandb", folder, make_front(), [], lambda module: wandb)
