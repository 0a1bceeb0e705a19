"""Every setting of a run is reachable from the command line, or it is written down why not; and the other way round."""

from __future__ import annotations

import inspect

import pytest

from prunesearch.api import verbs
from prunesearch.cli.app import run
from prunesearch.study.config import RunConfig
from tests.support.known_device import command, one_line

# settings whose options have another name, because they are typed with a unit, or may be given again
OPTIONS = {
    "objectives": "objective",
    "constraints": "constraint",
    "timeout_s": "timeout",
    "table_seconds": "table_time",
    "patience_s": "patience",
    "energy_window_s": "energy_window",
}
NO_OPTION = {
    "given": "an object of the caller's exists in Python alone",
    "given_digest": "found by itself",
    "loads": "several values of --batch-size and --length are loads",
    "length_buckets": "--length buckets",
}
NO_SETTING = {
    "runtime": "another way to say `mode`",
    "quick": "another way to say `accuracy`",
    "thorough": "another way to say `accuracy`",
    "study": "where a study is kept, not what it is: an argument of `run`",
    "dry_run": "whether it is searched at all",
    "log": "what is told to others when the study is finished",
    "quiet": "what is printed",
    "json": "what is printed",
}


def test_every_setting_has_an_option_and_every_option_is_a_setting_or_says_why_not():
    options = set(inspect.signature(run).parameters)
    settings = {OPTIONS.get(name, name) for name in RunConfig.model_fields if name not in NO_OPTION}
    assert settings - options == set(), "no option"
    assert options - settings == NO_SETTING.keys()
    assert set(RunConfig.model_fields) >= NO_OPTION.keys() | OPTIONS.keys()


TYPED = {
    "--model": ("m", "model", "m"),
    "--data": ("d", "data", "d"),
    "--weights": ("s/elastic", "weights", "s/elastic"),
    "--task": ("text-classification", "task", "text-classification"),
    "--columns": ("text=a,label=b", "columns", {"text": "a", "label": "b"}),
    "--delimiter": (";", "delimiter", ";"),
    "--no-header": (None, "header", False),
    "--skip-bad": (None, "skip_bad", True),
    "--metric": ("accuracy", "metric", "accuracy"),
    "--device": ("a100", "device", "a100"),
    "--percentile": ("90", "percentile", 90),
    "--answer": ("64", "answer", 64),
    "--batch-size": ("4", "batch_size", 4),
    "--across": ("worst", "across", "worst"),
    "--dtype": ("float16", "dtype", "float16"),
    "--precision": ("float16,int8", "precision", ["float16", "int8"]),
    "--free": ("tokens,width", "free", ["tokens", "width"]),
    "--attn": ("eager", "attention", "eager"),
    "--mode": ("compile", "mode", "compile"),
    "--concurrency": ("2", "concurrency", 2),
    "--length": ("64", "length", 64),
    "--space": ("small", "space", "small"),
    "--sampler": ("tpe", "sampler", "tpe"),
    "--trials": ("7", "trials", 7),
    "--timeout": ("10m", "timeout_s", 600),
    "--no-race": (None, "race", False),
    "--start-from": ("a.json", "start_from", ["a.json"]),
    "--storage": ("sqlite:///x.db", "storage", "sqlite:///x.db"),
    "--robust": ("weather,contrast", "robust", ["weather", "contrast"]),
    "--over": ("worst", "over", "worst"),
    "--severity": ("4", "severity", 4),
    "--robust-rows": ("32", "robust_rows", 32),
    "--seed": ("3", "seed", 3),
    "--calibration": ("100", "calibration", 100),
    "--holdout": ("200", "holdout", 200),
    "--eval-batch-size": ("16", "eval_batch_size", 16),
    "--seeds": ("5", "seeds", 5),
    "--quick": (None, "accuracy", "quick"),
    "--search-samples": ("64", "search_samples", 64),
    "--sensitivity-samples": ("32", "sensitivity_samples", 32),
    "--sensitivity-units": ("2.5", "sensitivity_units", 2.5),
    "--table-time": ("20s", "table_seconds", 20),
    "--patience": ("0s", "patience_s", 0),
    "--energy-window": ("6s", "energy_window_s", 6),
    "--front-points": ("4", "front_points", 4),
    "--objective": ("latency,macs", "objectives", ["latency", "macs"]),
    "--workers": ("2", "workers", 2),
    "--engine": ("ray", "engine", "ray"),
    "--ray-address": ("auto", "ray_address", "auto"),
    "--group": ("breed", "group", "breed"),
}


def test_what_is_typed_is_what_is_asked_for(monkeypatch, capsys):
    """All options at once, of those that go together with all others."""
    seen = []

    def stop(study, **settings):
        seen.append((RunConfig(**settings), study))
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs, "run", stop)
    words = [word for option, (value, _, _) in TYPED.items() for word in (option, value) if word is not None]
    code, _, err = command(
        monkeypatch, capsys, "run", *words, "--study", "s", "--budget", "2x", "--constraint", "macs <= 60%"
    )
    assert code == 130, err
    config, study = seen[0]
    assert study == "s"
    assert (config.budget.text, [c.text for c in config.constraints]) == ("2x", ["macs <= 60%"])
    for option, (_, name, expected) in TYPED.items():
        assert getattr(config, name) == expected, option
    settled = {name for _, name, _ in TYPED.values()} | {"budget", "constraints"}
    assert set(RunConfig.model_fields) - settled == NO_OPTION.keys()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--timeout", "soon"], ["90s, 10m or 2h", "'soon'"]),
        (["--columns", "label"], ["role=name,role=name"]),
        (["--batch-size", "many"], ["batch_size takes whole numbers"]),
        (["--energy-window", "1s"], ["`energy_window_s`", "got 1"]),
        (["--holdout", "3"], ["`holdout`", "got 3"]),
        (["--objective", "latency,enrgy"], ["did you mean 'energy'"]),
        (["--precision", "float32,int9"], ["unknown precision 'int9'", "did you mean 'int8'"]),
        (["--free", "tokens,widht"], ["plans cannot be free in 'widht'", "did you mean 'width'"]),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(monkeypatch, capsys, args, words):
    code, out, err = command(monkeypatch, capsys, "run", *args)
    assert (code, out) == (2, "")
    one_line(err, *words)
