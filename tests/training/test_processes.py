"""Trainings in several processes: what they come to, who writes, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTForImageClassification

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import say
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.storage.alone import Alone
from prunesearch.study.target import Target
from prunesearch.training import processes
from prunesearch.training.settings import TrainingSettings
from tests.commands.test_tune import write_rows
from tests.support.heard import hearing
from tests.support.known_device import command, one_line, write_model

ASKED = (
    "tune", "--model", "model", "--data", "data.parquet", "--schedule", "3:0.5 cls_attention+drop", "--train",
    "train.parquet", "--epochs", "0.6", "--batch-size", "32", "--no-augment", "--rate", "0.001",
)  # fmt: skip


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is the second of two processes."""
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)


def _learnt(folder: Path) -> dict[str, torch.Tensor]:
    """How far every parameter moved; keys' biases, which softmax takes no notice of, move by rounding alone."""
    name = json.loads((folder / "plan.json").read_text())["weights"].removeprefix("sha256:")
    found = load_file(folder / "weights" / f"{name[:16]}.safetensors")
    before = dict(ViTForImageClassification.from_pretrained(folder.parent / "model").named_parameters())
    return {key: (found[key] - before[key]).detach() for key in found if not key.endswith("k_proj.bias")}


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_and_one_of_them_writes(tmp_path: Path) -> None:
    write_model(tmp_path)
    write_rows(tmp_path, 320)  # 32 to stop by, and 32 a step: shared evenly
    place = {"cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}, "check": True}
    place |= {"stdout": subprocess.PIPE, "text": True}
    together = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    subprocess.run([sys.executable, "-m", "prunesearch", *ASKED, "-o", "one"], **place)  # type: ignore[call-overload]
    said = subprocess.run(  # type: ignore[call-overload]
        [sys.executable, *together, "-m", "prunesearch", *ASKED, "-o", "two"], **place
    ).stdout
    assert said == "two/plan.json\n"  # once
    one, two = _learnt(tmp_path / "one"), _learnt(tmp_path / "two")
    assert one.keys() == two.keys()
    assert len(one) > 50
    a, b = (torch.cat([found[key].flatten() for key in one]) for found in (one, two))
    assert a.norm() > 0.1
    # sums of gradients are rounded in another order, and Adam moves by their signs
    assert (a - b).norm() < 0.02 * a.norm()


def test_commands_that_do_not_train_are_refused(
    second: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = command(monkeypatch, capsys, "show", "plain")
    assert code == 2
    one_line(err, "2 were begun for 'show'", "--engine ray --workers N")


def test_rows_of_a_step_are_shared_evenly(second: None) -> None:
    assert processes.share_of(64) == 32
    with pytest.raises(PruneSearchError, match=r"multiple of the 2 processes that train, but is 33"):
        TrainingSettings(batch_size=33)


def test_the_others_say_nothing_and_wait_until_the_first_is_done(
    second: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[str | None] = []
    monkeypatch.setattr(processes, "together", lambda device=None: met.append(device))
    folder = StudyFolder.create("mine", tmp_path)
    said, over = [""], threading.Event()

    def other() -> None:
        with hearing() as heard, processes.alone_together(folder, "cpu") as first:
            assert not first
            say("nobody hears this")
        said.append(str(heard))
        over.set()

    with Alone(folder):  # the first has it
        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        assert not over.wait(0.3)
    assert over.wait(10)
    assert met == ["cpu"]
    assert said == ["", ""]


def test_one_process_alone_is_the_first_and_meets_nobody(tmp_path: Path) -> None:
    folder = StudyFolder.create("mine", tmp_path)
    with processes.alone_together(folder, "cpu") as first:
        assert first
        assert processes.processes() == 1
    processes.together()


def test_each_process_has_a_device_of_its_own(second: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunesearch.study.target.resolve_target", lambda device: Target(device, None, True))
    assert processes.target_of(RunConfig(device="cuda")).device == "cuda:1"
    assert processes.target_of(RunConfig(device="cuda:0")).device == "cuda:1"
    assert processes.target_of(RunConfig(device="cpu")).device == "cpu"
