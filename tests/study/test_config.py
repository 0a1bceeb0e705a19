"""Every setting of a run: how it may be written, what is refused, and what a study keeps of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from prunesearch.core.budget import Budget
from prunesearch.core.constraint import Constraint
from prunesearch.core.errors import PruneSearchError
from prunesearch.study.config import RunConfig
from prunesearch.study.settings.loads import Load
from tests.support.known_device import one_line


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ({"timeout": "10m"}, {"timeout_s": 600.0}),
        ({"timeout": timedelta(hours=1)}, {"timeout_s": 3600.0}),
        ({"timeout_s": 5}, {"timeout_s": 5.0}),
        ({"energy_window": "8s"}, {"energy_window_s": 8.0}),
        ({"patience": "0s"}, {"patience_s": 0.0}),
        ({"columns": "text=a, b,label=c=d"}, {"columns": {"text": "a, b", "label": "c=d"}}),
        ({"table_time": "1m"}, {"table_seconds": 60.0}),
        ({"budget": "2x"}, {"budget": Budget.parse("2x")}),
        ({"budget": Budget.parse("10ms")}, {"budget": Budget.parse("10ms")}),
        ({"constraints": "macs <= 60%"}, {"constraints": [Constraint.parse("macs <= 60%")]}),
        ({"constraints": [Constraint.parse("quality >= 0.9")]}, {"constraints": [Constraint.parse("quality >= 0.9")]}),
        ({"columns": "text=review, label = stars"}, {"columns": {"text": "review", "label": "stars"}}),
        ({"objectives": " energy , latency "}, {"objectives": ["energy", "latency"]}),
        ({"objectives": ("macs", "memory", "latency")}, {"objectives": ["macs", "memory", "latency"]}),
        ({"batch_size": "4", "length": [32]}, {"batch_size": 4, "length": 32, "loads": []}),
        ({"batch_size": [1, 8]}, {"loads": [Load(batch_size=1), Load(batch_size=8)], "batch_size": 1}),
        ({"batch_size": {1: 2, 8: 1}}, {"loads": [Load(batch_size=1, weight=2), Load(batch_size=8)]}),
        ({"loads": [1, 8]}, {"loads": [Load(batch_size=1), Load(batch_size=8)]}),
        ({"loads": [4]}, {"loads": [], "batch_size": 4}),
        ({"length": "buckets"}, {"length_buckets": True}),
        ({"runtime": "onnxruntime"}, {"mode": "onnxruntime"}),
        ({"runtime": "torch"}, {"mode": "eager"}),
        ({"model": Path("m"), "data": Path("d.csv")}, {"model": "m", "data": "d.csv"}),
        ({"start_from": Path("a.json")}, {"start_from": ["a.json"]}),
        ({"seed": None, "trials": None}, {"seed": 0, "trials": None}),
        ({"device": "A100"}, {"device": "a100"}),
        ({"device": "CUDA:1"}, {"device": "cuda:1"}),
    ],
    ids=str,
)
def test_settings_may_be_written_as_they_are_thought_of(written, kept):
    config = RunConfig(**written)
    assert {name: getattr(config, name) for name in kept} == kept


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"budget": "2x", "constraints": ["macs <= 60%", "quality >= 0.99*unpruned"], "timeout": "10m"},
        {"batch_size": [1, 8], "length": [32, 128], "objectives": "latency,macs"},
        {"model": "m", "data": "d", "columns": "label=x", "device": "a100", "given": None},
    ],
    ids=str,
)
def test_what_a_study_keeps_says_the_same_again(settings):
    config = RunConfig(**settings)
    kept = config.to_dict()
    assert RunConfig(**kept) == config
    assert RunConfig(**config.model_dump()) == config
    plain = (str, int, float, bool, type(None))
    assert all(isinstance(value, (*plain, list, dict)) for value in kept.values())
    assert kept["budget"] == settings.get("budget")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trials": 0}, ["`trials`", "greater than or equal to 1", "got 0"]),
        ({"trials": "many"}, ["`trials`", "'many'"]),
        ({"timeout": "soon"}, ["90s, 10m or 2h", "'soon'"]),
        ({"timeout": "0s"}, ["`timeout_s`", "greater than 0"]),
        ({"energy_window": "1s"}, ["`energy_window_s`", "greater than or equal to 5"]),
        ({"budget": "10"}, ["without a unit"]),
        ({"budget": 10}, ["`budget`", "10"]),
        ({"constraints": ["quality > 1"]}, ["quality >= bound"]),
        ({"constraints": "macs <= 1ms"}, ["macs is bounded in GMACs"]),
        ({"columns": "label"}, ["role=name", "'label'"]),
        ({"objectives": "enrgy"}, ["unknown objective 'enrgy'", "did you mean 'energy'?"]),
        ({"objectives": "quality"}, ["unknown objective 'quality'", "quality is always one"]),
        ({"objectives": ""}, ["unknown objective ''", "energy, latency"]),
        ({"objectives": []}, ["named once"]),
        ({"objectives": "latency,"}, ["unknown objective ''"]),
        ({"objectives": "energy,energy"}, ["named once", "energy,energy"]),
        ({"objectives": "latency,energy,macs,memory"}, ["objectives <= 3", "bound the others"]),
        ({"percentile": 100}, ["percentile", "99"]),
        ({"across": "wurst"}, ["did you mean 'worst'"]),
        ({"loads": [{"batch_size": 1}, {"batch_size": 1}]}, ["named once"]),
        ({"loads": [{"batch_size": 0}]}, ["loads.0.batch_size", "got 0"]),
        ({"loads": [{"batch_size": 1}, {"batch_size": 1, "length": 32}]}, ["every load must name a length"]),
        ({"loads": [{"batch_size": 1, "weight": 2}, {"batch_size": 8}], "across": "worst"}, ["weights", "worst"]),
        ({"batch_size": ["1", "8:2"]}, ["all values have a weight"]),
        ({"sampler": "tpee"}, ["did you mean 'tpe'"]),
        ({"engine": "rai"}, ["did you mean 'ray'"]),
        ({"task": "text-clasification"}, ["did you mean 'text-classification'"]),
        ({"metric": "acuracy"}, ["did you mean 'accuracy'"]),
        ({"mode": "eagre"}, ["did you mean 'eager'"]),
        ({"runtime": "onnxruntim"}, ["did you mean 'onnxruntime'"]),
        ({"mode": "compile", "runtime": "onnxruntime"}, ["leave one of them out"]),
        ({"workers": 3}, ["--workers 3 needs --engine ray"]),
        ({"model": "m"}, ["--model needs --data"]),
        ({"data": "m"}, ["--data needs --model"]),
        ({"sampelr": "tpe"}, ["unknown setting 'sampelr'", "did you mean 'sampler'"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [RunConfig])
def test_settings_that_cannot_be_are_one_line(make, settings, words):
    with pytest.raises(PruneSearchError) as error:
        make(**settings)
    one_line(error.value, *words)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"objectives": ["energy"]}, True),
        ({"objectives": ["latency", "energy"], "budget": "10ms"}, True),
        ({"objectives": ["latency"], "budget": "40mJ"}, True),
        ({"budget": "40mJ"}, True),
        ({"objectives": ["latency"], "budget": "40%"}, False),
        ({}, False),
    ],
)
def test_who_needs_energy(settings, needed):
    assert RunConfig(**settings).needs_energy is needed


def test_a_budget_in_mj_makes_energy_the_objective_unless_another_is_named():
    assert RunConfig(budget="40mJ").objectives == ["energy"]
    assert RunConfig(budget="1.5J").objectives == ["energy"]
    assert RunConfig(budget="40ms").objectives == ["latency"]
    assert RunConfig().objectives == ["latency"]
    assert RunConfig(budget="40mJ", objectives=["latency"]).objectives == ["latency"]
    assert RunConfig(budget="2GMACs").objectives == ["macs"]
    assert RunConfig(budget="60%").objectives == ["latency"]


@pytest.mark.parametrize(
    ("settings", "costs"),
    [
        ({}, {"latency"}),
        ({"budget": "64MiB", "objectives": ["latency"]}, {"latency", "memory"}),
        ({"constraints": ["macs <= 60%", "quality >= 0.9"]}, {"latency", "macs"}),
        ({"objectives": ["memory", "energy"], "budget": "60%"}, {"latency", "memory", "energy"}),
    ],
)
def test_what_costs_a_run_has_to_know(settings, costs):
    assert RunConfig(**settings).costs == costs


def test_the_first_of_several_loads_has_the_most_tokens():
    loads = [{"batch_size": b, "length": n} for b in (1, 8) for n in (32, 128)]
    config = RunConfig(loads=loads)
    assert [(x.batch_size, x.length) for x in config.loads] == [(1, 128), (8, 128), (1, 32), (8, 32)]
    assert (config.batch_size, config.length) == (1, 128)


def test_bounds_are_shown_as_typed():
    config = RunConfig(budget="10ms", constraints=["macs <= 60%", "quality >= 0.9"])
    assert config.asked == "budget 10ms and macs <= 60%"
    assert RunConfig().asked == ""


def test_paths_to_what_is_here_become_absolute_and_hub_ids_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    for name in ("a.csv", "b.csv", "x,y.csv", "s.yaml", "p.json"):
        (tmp_path / name).touch()
    config = RunConfig(model="m/", data="a.csv,b.csv", space="s.yaml", start_from=["p.json"]).located()
    assert (config.model, config.data) == (str(tmp_path / "m"), f"{tmp_path / 'a.csv'},{tmp_path / 'b.csv'}")
    assert (config.space, config.start_from) == (str(tmp_path / "s.yaml"), [str(tmp_path / "p.json")])
    assert RunConfig(model="m", data="x,y.csv").located().data == str(tmp_path / "x,y.csv")
    there = RunConfig(model="facebook/deit-tiny/", data="glue:sst2", space="small").located()
    assert (there.model, there.data, there.space) == ("facebook/deit-tiny", "glue:sst2", "small")
    assert RunConfig().located() == RunConfig()


@pytest.mark.parametrize("before", ["m", "m/", "./m"])
def test_a_study_of_before_whose_paths_were_relative_resumes(tmp_path, monkeypatch, before):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "d.csv").touch()
    kept = {**RunConfig(model="m", data="d.csv").to_dict(), "model": before}
    for model in ("m", "m/", str(tmp_path / "m")):
        RunConfig(model=model, data="d.csv").check_resumes(kept, "s", tried=True)
    with pytest.raises(PruneSearchError, match="begun with model="):
        RunConfig(model="other/m", data="d.csv").check_resumes(kept, "s", tried=True)


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({}, {"given": "Net"}, ["of the demo", "a caller's own model (Net)"]),
        ({"given": "Net"}, {}, ["a caller's own model (Net)", "got the demo"]),
        ({"given": "Net"}, {"given": "Other"}, ["(Net)", "(Other)"]),
        ({"model": "m", "data": "d"}, {"given": "Net"}, ["of model", "(Net)"]),
    ],
)
def test_a_callers_own_model_is_no_other(before, now, words):
    with pytest.raises(PruneSearchError) as error:
        RunConfig(**now).check_resumes(RunConfig(**before).to_dict(), "s", tried=False)
    one_line(error.value, "study 's' is of", *words, "another --study")


def test_what_may_change_when_a_study_is_resumed():
    before = RunConfig(trials=10, budget="2x").to_dict()
    RunConfig(trials=20, budget="2x", timeout="1m", race=False, patience="0s").check_resumes(before, "s", tried=True)
    RunConfig(budget="3x").check_resumes(before, "s", tried=False)
    with pytest.raises(PruneSearchError, match="begun with budget='2x', but got '3x'"):
        RunConfig(budget="3x").check_resumes(before, "s", tried=True)
    with pytest.raises(PruneSearchError, match="begun with seed=0, but got 1"):
        RunConfig(budget="2x", seed=1).check_resumes(before, "s", tried=False)


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().seed = 1


def test_a_study_goes_on_whatever_the_capitals_of_its_device():
    before = RunConfig(device="A100").to_dict()
    RunConfig(device="a100").check_resumes({**before, "device": "A100"}, "s", tried=True)  # as it was once written
    with pytest.raises(PruneSearchError, match="device='a100', but got 'h100'"):
        RunConfig(device="h100").check_resumes(before, "s", tried=True)


@pytest.mark.parametrize(("budget", "objective"), [(None, "latency"), ("2x", "latency"), ("2GMACs", "macs")])
def test_a_study_of_before_that_left_its_objectives_to_the_budget_resumes(budget, objective):
    before = {**RunConfig(budget=budget).to_dict(), "objectives": None}
    RunConfig(budget=budget).check_resumes(before, "s", tried=True)
    RunConfig(budget=budget, objectives=[objective]).check_resumes(before, "s", tried=True)
    with pytest.raises(PruneSearchError, match="was begun with objectives"):
        RunConfig(budget=budget, objectives=["memory"]).check_resumes(before, "s", tried=True)
