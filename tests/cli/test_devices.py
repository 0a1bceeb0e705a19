"""The commands about devices, and `run --device NAME`, on studies of a tiny model and the known machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from prunesearch.commands.verify import Verification
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import DEVICE_KINDS, EFFORTS
from prunesearch.cost.devices.cpu import Cpu
from prunesearch.cost.devices.kind import Ready
from prunesearch.cost.tables.device_profile import find_profile
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front
from prunesearch.study.trials import finished_trials, open_study
from tests.support.known_device import (
    command,
    known_table,
    one_line,
    settings,
    slower,
    true_total,
    write_model,
    write_profile,
)
from tests.support.some import some
from tests.support.studies import load_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Model and data; `profiles/` with the known machine as `box` and one with slow stages as `slow`."""
    root = tmp_path_factory.mktemp("devices")
    write_model(root)
    write_profile(root / "profiles", "box", known_table())
    write_profile(root / "profiles", "slow", slower(known_table(), reduce=30.0))
    write_profile(root / "profiles", "batch1", known_table(batch_size=1))
    return root


@pytest.fixture(autouse=True)
def _in_the_folder(folder, monkeypatch):
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(folder / "profiles"))
    monkeypatch.chdir(folder)


def make(folder: Path, **changes) -> RunConfig:
    return RunConfig(**settings(folder, **changes))


@pytest.fixture(scope="module")
def front(folder) -> Front:
    """The study `known`: `--device box`, which is not at hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESEARCH_PROFILES", str(folder / "profiles"))
        return run(make(folder, device="box"), "known", root=folder / "studies")


@pytest.fixture(scope="module")
def estimated(folder) -> Front:
    """The study `away`: `--device a100`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNESEARCH_PROFILES", str(folder / "profiles"))
        config = make(folder, device="a100", dtype="float16", batch_size=512)
        return run(config, "away", root=folder / "studies")


MODEL = ["--model", "model", "--data", "data.parquet", "--space", "space.yaml", "--trials", "6", "--quiet"]


# -- run --device NAME -------------------------------------------------------------------------------------


def test_costs_are_the_profiles_and_nothing_is_called_measured(front, folder):
    assert not front.measured
    assert front.points
    assert front.device.name == "a known machine"
    assert front.cost_table.source == "from profile 'box'"
    for item in (front.unpruned, *front.points):
        schedule = item.to_schedule() if hasattr(item, "plan") else Schedule()
        assert item.latency.predicted == pytest.approx(true_total(schedule), rel=1e-4)
        assert item.latency.measured is None
    for point in front.points:
        assert point.speedup == pytest.approx(true_total(Schedule()) / true_total(point.to_schedule()), rel=1e-4)
    assert "from profile 'box' ±1.2 %" in front.verdict.text
    data = json.loads((folder / "studies" / "known" / "front.json").read_text())
    assert data["points"][0]["costs"]["latency"]["measured"] is None
    assert data["unpruned"]["costs"].keys() == {"latency", "macs"}


def test_an_estimated_device_answers_on_a_laptop_and_says_estimated_everywhere(estimated, folder, monkeypatch, capsys):
    assert estimated.cost_table.status == "estimated"
    said = f"estimated ±{100 * estimated.cost_table.mape:.2g} %"
    assert said in estimated.verdict.text
    code, out, _ = command(monkeypatch, capsys, "show", "away")
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in out
    text = " ".join(out.split())
    assert f"ms, {said}" in text
    assert f"nothing below was measured on {estimated.device.name}: {said}" in text
    rest = text.replace("nothing below was measured", "").replace("public measurements", "")
    rest = re.sub(r"no public measurement[^.;:]*", "", rest)
    assert "measured" not in rest.replace("not measured", "")
    assert "p10" not in text
    report = (folder / "studies" / "away" / "report.html").read_text()
    assert '"status": "estimated"' in report or '"status":"estimated"' in report
    assert '"measured": null' in report or '"measured":null' in report
    assert said in report


def test_a_budget_on_a_device_that_is_not_here(folder, monkeypatch, capsys):
    limit = 0.8 * true_total(Schedule())
    args = [*MODEL, "--device", "box", "--budget", f"{limit:.2f}ms", "--study", "tight", "--json"]
    code, out, err = command(monkeypatch, capsys, "run", *args)
    assert code == 0, err
    found = json.loads(out)
    assert found["budget"]["limit"] == round(limit, 2)
    assert found["points"]
    assert all(p["costs"]["latency"]["predicted"] <= found["budget"]["limit"] for p in found["points"])
    args[args.index("--budget") + 1] = "1us"
    args[args.index("tight")] = "tighter"
    code, out, err = command(monkeypatch, capsys, "run", *args)
    assert (code, out) == (2, "")
    one_line(err, "budget 1us", "below anything reachable")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--device", "bx"], ["no device or profile 'bx'", "did you mean 'box'?"]),
        (["--device", "box", "--batch-size", "4"], ["batch_size=8, but batch_size=4", "--batch-size 4"]),
        (["--device", "box", "--dtype", "bfloat16"], ["--name box", "--dtype bfloat16"]),
        (["--device", "box", "--attn", "eager"], ["--attn eager"]),
        (["--device", "box", "--mode", "compile"], ["--mode compile"]),
        (["--device", "a100", "--attn", "flash"], ["sdpa and eager"]),
    ],
)
def test_what_a_profile_cannot_answer_is_one_line_and_code_2(monkeypatch, capsys, args, words):
    code, out, err = command(monkeypatch, capsys, "run", *MODEL, *args, "--study", "refused")
    assert (code, out) == (2, "")
    one_line(err, *words)


def test_a_broken_profile_is_one_line_and_code_2(folder, monkeypatch, capsys):
    broken = folder / "profiles" / "broken"
    broken.mkdir()
    for text, words in (
        ("{", ["is not JSON"]),
        ('{"format": "prunesearch.profile", "version": 7}', ["version 7", "upgrade prunesearch"]),
        (json.dumps({**json.loads(find_profile("box").model_dump_json()), "units": {"time": "s"}}), ["units.time"]),
    ):
        (broken / "profile.json").write_text(text)
        code, _, err = command(monkeypatch, capsys, "run", *MODEL, "--device", "broken", "--study", "refused")
        assert code == 2
        one_line(err, "broken/profile.json", *words)
        code, out, err = command(monkeypatch, capsys, "devices")
        assert code == 0
        assert "box (yours)" in " ".join(out.split())
        one_line(err, "prunesearch: profile", "broken/profile.json", *words)
    (broken / "profile.json").unlink()
    broken.rmdir()


def test_a_missing_table_file_is_one_line_and_code_2(folder, monkeypatch, capsys):
    torn = write_profile(folder / "profiles", "torn", known_table())
    (torn.folder / torn.tables[0].file).unlink()
    code, _, err = command(monkeypatch, capsys, "run", *MODEL, "--device", "torn", "--study", "refused")
    assert code == 2
    one_line(err, "torn/tables/", "No such file", "prunesearch profile --redo")


# -- devices -----------------------------------------------------------------------------------------------


def test_devices_as_a_table_and_as_json(monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, "devices")
    assert (code, err) == (0, "")
    assert max(len(line) for line in out.splitlines()) <= 80
    code, out, _ = command(monkeypatch, capsys, "devices", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["box"]["own"]
    assert rows["box"]["status"] == "measured"
    assert rows["box"]["error"] == 0.012
    assert (rows["a100-40gb"]["aliases"], rows["a100-40gb"]["status"]) == (["a100"], "estimated")


# -- verify ------------------------------------------------------------------------------------------------


def test_verify_measures_the_front_here_and_says_that_it_is_another_device(front, folder, monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, "verify", "known", "--seconds", "0", "--quiet")
    assert code == 0, err
    assert max(len(line) for line in out.splitlines()) <= 80
    text = " ".join(out.split())
    assert "predictions (from profile 'box' ±1.2 %) against" in text
    assert "device a known machine in the study" in text
    found = Verification.model_validate_json((folder / "studies" / "known" / "verify.json").read_text())
    assert [p.id for p in found.points] == ["unpruned", *(p.id for p in front.points)]
    assert not found.same_device
    for point, item in zip(found.points, [front.unpruned, *front.points], strict=True):
        found_latency = point.costs["latency"]
        assert found_latency.predicted == item.latency.predicted
        assert found_latency.study is None
        assert found_latency.now.p10 <= found_latency.value <= found_latency.now.p90
        assert point.speedup == pytest.approx(found.points[0].costs["latency"].value / found_latency.value)
    assert found.conditions["batch_size"] == 8
    code, out, _ = command(monkeypatch, capsys, "verify", "known", "--seconds", "0", "--json")
    assert json.loads(out)["format"] == "prunesearch.verification"
    assert code == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["knwon"], ["no study 'knwon'", "did you mean 'known'?"]),
        (["known", "--device", "box"], ["device 'box' cannot be used here"]),
        (["known", "--device", "cuda:9"], ["cuda:9"]),
    ],
)
def test_verify_refuses_in_one_line(front, monkeypatch, capsys, args, words):
    code, out, err = command(monkeypatch, capsys, "verify", *args)
    assert (code, out) == (2, "")
    one_line(err, *words)


def test_a_front_for_cuda_graphs_is_not_verified_on_a_cpu(front, monkeypatch, capsys, folder):
    graph = {**front.config, "mode": "cuda-graph"}
    path = folder / "studies" / "graph"
    path.mkdir(exist_ok=True)
    front.model_copy(update={"study": "graph", "config": graph}).save(path / "front.json")
    code, _, err = command(monkeypatch, capsys, "verify", "graph", "--seconds", "0", "--quiet")
    assert code == 2
    one_line(err, "cuda-graph")


# -- transfer ----------------------------------------------------------------------------------------------


def test_transfer_to_the_same_device_changes_nothing(front, monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, "transfer", "known", "--to", "box", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["rank_correlation"] == pytest.approx(1)
    for mine, point in some(zip(found["points"], front.points, strict=True)):
        assert mine["there_ms"] == pytest.approx(point.latency.predicted)
        assert mine["rank_here"] == mine["rank_there"]
        assert mine["stays"]


def test_transfer_to_a_device_with_slow_stages_by_hand(front, folder, monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, "transfer", "known", "--to", "slow", "--json")
    assert code == 0, err
    found = json.loads(out)
    table = slower(known_table(), reduce=30.0)
    records = finished_trials(open_study(folder / "studies" / "known" / "study.journal"))
    choices = {r.schedule: r.quality for r in records} | {Schedule(): front.unpruned.quality.calibration}
    for mine, point in some(zip(found["points"], front.points, strict=True)):
        there = table.predict(point.to_schedule())
        assert mine["there_ms"] == pytest.approx(there, rel=1e-4)
        assert mine["here_ms"] == point.latency.predicted
        best = min(table.predict(s) for s, q in choices.items() if q >= point.quality.calibration)
        assert mine["regret"] == pytest.approx(there / min(best, there) - 1, abs=1e-3)
    assert found["trust"] == "from profile 'slow' ±1.2 %"
    code, out, _ = command(monkeypatch, capsys, "transfer", "known", "--to", "slow")
    assert max(len(line) for line in out.splitlines()) <= 80


def test_transfer_to_an_estimated_device_says_so(front, monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, "transfer", "known", "--to", "v100")
    assert code == 0, err
    text = " ".join(out.split())
    assert "to v100 (estimated ±" in text
    assert "there (est.)" in text
    assert max(len(line) for line in out.splitlines()) <= 80


def test_transfer_to_a_measured_gpu_asks_for_its_own_kind_of_table(front, folder, monkeypatch, capsys):
    table = known_table(device="cuda", threads=None, cores=None)
    write_profile(folder / "profiles", "card", table, device={"name": "Card", "kind": "cuda"})
    code, out, err = command(monkeypatch, capsys, "transfer", "known", "--to", "card", "--json")
    assert code == 0, err
    assert json.loads(out)["status"] == "measured"


def test_transfer_leaves_the_study_alone(front, folder, monkeypatch, capsys):
    """A run may be under way: its running trials are its own."""
    database = folder / "studies" / "known" / "study.journal"
    study = open_study(database)
    study.ask()
    before = [t.state for t in study.get_trials()]
    command(monkeypatch, capsys, "transfer", "known", "--to", "box")
    assert [t.state for t in load_study(database).get_trials()] == before


def test_transfer_refuses_in_one_line(front, folder, monkeypatch, capsys):
    path = folder / "studies" / "alone"
    path.mkdir(exist_ok=True)
    front.model_copy(update={"study": "alone"}).save(path / "front.json")
    for args, words in (
        (["alone", "--to", "box"], ["has no study.journal", "run the same"]),
        (["known", "--to", "bx"], ["did you mean 'box'?"]),
        (["known", "--to", "batch1"], ["batch_size=1, but batch_size=8", "--name batch1"]),
        (["nothing", "--to", "box"], ["no study 'nothing'"]),
    ):
        code, out, err = command(monkeypatch, capsys, "transfer", *args)
        assert (code, out) == (2, "")
        one_line(err, *words)
    assert not (path / "study.journal").exists()


# -- profile -> run ----------------------------------------------------------------------------------------


class Calm(Cpu):
    """This CPU, which waits for nobody to leave it alone."""

    def make_ready(self, run, device, patience_s):
        return Ready()


def test_what_profile_measures_here_serves_run_by_name(folder, monkeypatch, capsys):
    """No step in between: the name goes from one command into the other, and the front is re-measured, being here."""
    args = ["--model", "model", "--name", "here", "--batch-size", "8", "--quick", "--quiet"]
    short = EFFORTS.replaced("quick", 0.5, counts=3, rounds=1, windows=2)
    with short, DEVICE_KINDS.replaced("cpu", Calm):
        code, out, err = command(monkeypatch, capsys, "profile", *args)
    assert code == 0, err
    assert out.strip() == str(folder / "profiles" / "here")
    rows = pd.read_json(next((folder / "profiles" / "here" / "tables").glob("*.json")))
    assert set(rows.piece) == {"stem", "head", "attention", "mlp", "reduce"}
    path = folder / "profiles" / "here" / "profile.json"
    written = json.loads(path.read_text())
    for table in written["tables"]:  # half a second on a machine that others use would be refused
        table["validation"]["mape"] = 0.01
    path.write_text(json.dumps(written))
    found = run(make(folder, device="here"), "here", root=folder / "studies")
    assert found.measured
    assert found.cost_table.source == "from profile 'here'"
    assert found.unpruned.latency.measured.value > 0


# -- help --------------------------------------------------------------------------------------------------


COMMANDS = ["profile", "devices", "verify", "transfer", "flops", "adapt", "stress", "compare"]


def test_the_help_lists_the_commands_and_imports_no_torch():
    code = "import sys; sys.argv = ['prunesearch', '--help']\nfrom prunesearch.cli.app import main\ntry:\n    main()\n"
    code += "except SystemExit:\n    pass\nassert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"  {name} ")]
        assert len(line) <= 80
        assert not line.endswith("..."), line


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_fits_80_columns(monkeypatch, capsys, name):
    code, out, _ = command(monkeypatch, capsys, name, "--help")
    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "--help" in out


# -- what was refused leaves no trace ----------------------------------------------------------------------


def test_after_a_refusal_the_corrected_command_works_in_the_same_study(folder, monkeypatch, capsys):
    """The name of a study is made from model, device and batch size: the way out must not need another one."""
    study = folder / "studies" / "again"
    args = [*MODEL, "--device", "box", "--study", "again"]
    assert command(monkeypatch, capsys, "run", *args, "--dtype", "bfloat16")[0] == 2
    assert not (study / "config.yaml").exists()
    code, _, err = command(monkeypatch, capsys, "run", *args, "--budget", "1us")
    assert code == 2
    one_line(err, "raise the budget")
    code, _, err = command(monkeypatch, capsys, "run", *args, "--budget", "40mJ")
    assert code == 2
    one_line(err, "no energy for this model")
    assert not (study / "study.journal").exists()
    code, out, err = command(monkeypatch, capsys, "run", *args, "--budget", "80%")
    assert code == 0, err
    assert "budget   80%" in out
    code, _, err = command(monkeypatch, capsys, "run", *args, "--budget", "70%", "--trials", "7")
    assert code == 2
    one_line(err, "budget='80%', but got '70%'")


def test_a_broken_database_is_said_before_anything_is_measured(folder, monkeypatch, capsys):
    (folder / "studies" / "broken").mkdir(parents=True)
    (folder / "studies" / "broken" / "study.journal").write_text("no database")
    code, _, err = command(monkeypatch, capsys, "run", *MODEL, "--device", "box", "--study", "broken")
    assert code == 2
    one_line(err, "study.journal", "not a readable study")
    assert {file.name for file in (folder / "studies" / "broken").iterdir()} <= {"study.journal", ".lock"}
