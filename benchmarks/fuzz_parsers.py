"""The parsers that `fuzz.py` tries: valid documents of each, and a reader that uses once what it has read."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml

from prunesearch.core.budget import Budget
from prunesearch.core.constraint import Constraint
from prunesearch.core.duration import seconds_of
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.schedule_text import parse_schedule
from prunesearch.core.plans.stage import DECODER, ENCODER, INPUT, Place, Stage, read_method
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.device_profile import Profile
from prunesearch.export import FORMATS, export_schedule, import_schedule
from prunesearch.export.pick import pick
from prunesearch.export.schedules.format import ModelShape
from prunesearch.report.views.shown_samples import ShownRow, ShownSamples, ShownStage, ShownTrace
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.space.space import SpaceFile
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder, check_name
from prunesearch.study.front import Front
from prunesearch.study.storage.reader import TrialReader
from prunesearch.study.storage.storage import storage_of
from prunesearch.study.trials import open_study, read_trials

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "studies" / "example"
SHAPE, PROMPT = ModelShape(12, 197, 1), ModelShape(12, 205, 9, part=DECODER)
_SCHEDULES = [
    Schedule(),
    Schedule([Stage(3, 0.7), Stage(6, 0.5, "value_norm", "fuse"), Stage(9, 0.25, merge="bipartite")]),
    Schedule([Stage(1, 0.8, "key_redundancy", "fuse", params={"margin": 0.5})]),
]
_OF_PICTURES = [
    Schedule([Stage(Place(INPUT, 0), 0.4, "tower_cls_attention")]),
    Schedule([Stage(2, 0.7, "text_attention"), Stage(6, 0.5, "text_attention")]),
]


@dataclass(frozen=True)
class Parser:
    """Valid documents, their form (`json`, `yaml`, `text`), and what makes a reader that may write into a folder."""

    documents: list[str]
    form: str
    reader: Callable[[Path], Callable[[str], object]]


def _plain(read: Callable[[str], object]) -> Callable[[Path], Callable[[str], object]]:
    return lambda folder: read


def _of_file(read: Callable[[Path], object], name: str) -> Callable[[Path], Callable[[str], object]]:
    def reader(folder: Path) -> Callable[[str], object]:
        def written(text: str) -> object:
            (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
            return read(folder / name)

        return written

    return reader


def _again(found: object, again: object) -> object:
    """What was read, if it is the same once it was written and read again; anything else is a fault, no refusal."""
    if found != again:
        raise RuntimeError(f"written and read again, {found} is {again}")
    return found


def schedules() -> Parser:
    """JSON of schedules."""

    def read(text: str) -> object:
        found = Schedule.from_json(text)
        return str(_again(found, Schedule.from_json(found.to_json())))

    return Parser([s.to_json() for s in _SCHEDULES], "json", _plain(read))


def plans() -> Parser:
    """JSON of plans."""

    def read(text: str) -> object:
        found = Plan.from_json(text)
        return str(_again(found, Plan.from_json(found.to_json()))), found.variant

    documents = [Plan(s, [Change.parse("3:int8")], "w1") for s in _SCHEDULES] + [Plan(s) for s in _SCHEDULES]
    return Parser([p.to_json() for p in documents], "json", _plain(read))


def lines() -> Parser:
    """Schedules, plans and methods as they are typed."""

    def read(text: str) -> object:
        found = Plan.parse(text) if "|" in text else parse_schedule(text)
        return str(found)

    documents = [str(p) for p in (*_SCHEDULES, Plan(_SCHEDULES[1], [Change.parse("3:int8")]))]
    return Parser([*documents, "3:.7, 6:0.5 cls_attention + fuse > 9:0.25 bipartite"], "text", _plain(read))


def methods() -> Parser:
    """Methods as they are typed."""
    documents = ["cls_attention+fuse", "bipartite", "key_redundancy(margin=0.5)+drop", "value_norm+drop@top_k"]
    return Parser(documents, "text", _plain(read_method))


def fronts() -> Parser:
    """front.json of this version and an older one; points are picked."""

    def read(path: Path) -> object:
        front = Front.load(path)
        front.within_budget()
        if front.points:
            pick(front, "best@2x" if len(front.points) % 2 else "knee")
        return front.save(path)

    older = (ROOT / "tests" / "study" / "fixtures" / "front-v3.json").read_text(encoding="utf-8")
    newer = (EXAMPLE / "front.json").read_text(encoding="utf-8")
    return Parser([_short(newer, "points", 2), older], "json", _of_file(read, "front.json"))


def _short(text: str, key: str, most: int) -> str:
    """A JSON document with the first few of a list alone: it is changed and read thousands of times."""
    data = json.loads(text)
    data[key] = data[key][:most]
    if data.get("verdict"):
        data["verdict"].update(point=None, by_estimate=None)
    return json.dumps(data)


def cost_tables() -> Parser:
    """cost_table.json; it prices two schedules, and is fitted to a deeper model."""

    def read(path: Path) -> object:
        table = CostTable.load(path)
        flows = [s.flow(table.geometry) for s in (Schedule(), Schedule([Stage(1, 0.5, "value_norm", "fuse")]))]
        table.summary()
        table.save(path)
        return [table.price(flow) for flow in flows]

    data = json.loads((EXAMPLE / "cost_table.json").read_text(encoding="utf-8"))
    cells = data["cells"]
    for cell in [cells["stem"], *cells["head"], *cells["attention"], *cells["mlp"], *cells["reduce"]]:
        cell["samples_us"] = cell["samples_us"][:2]
    methods = [("value_norm", "fuse"), ("cls_attention", "bipartite")]
    cells["reduce"] = [c for c in cells["reduce"] if (c["scorer"], c["merge"]) in methods]
    for name in ("schedules", "predicted_ms", "measured_ms", "samples_us", "pace"):
        data["validation"][name] = []
    return Parser([json.dumps(data)], "json", _of_file(read, "cost_table.json"))


def profiles() -> Parser:
    """profile.json; a table is looked for as a run does, under conditions that none was measured under."""
    asked = {"device": "cpu", "batch_size": 5, "dtype": "float32", "attention": "sdpa", "mode": "eager", "threads": 2}

    def read(path: Path) -> object:
        profile = Profile.load(path.parent)
        profile.save()
        return [profile.find(t.shape, asked, "model") for t in profile.tables[:1]]

    whole = _short((ROOT / "hw_profiles" / "epyc-2c" / "profile.json").read_text(encoding="utf-8"), "tables", 2)
    card = (ROOT / "hw_profiles" / "a100-80gb" / "profile.json").read_text(encoding="utf-8")
    return Parser([whole, card], "json", _of_file(read, "profile.json"))


def profile_cells() -> Parser:
    """The cells of a profile's table."""
    folder = ROOT / "hw_profiles" / "epyc-2c"
    entry = Profile.load(folder).tables[0]
    rows = json.loads((folder / entry.file).read_text(encoding="utf-8"))
    kept = [r for r in rows if r["piece"] == "stem"] + [r for r in rows if r["piece"] != "stem"][:: len(rows) // 30]

    def read(path: Path) -> object:
        profile = Profile.load(folder).model_copy(update={"folder": path.parent})
        table = profile.read(entry.model_copy(update={"file": path.name}))
        return table.summary()

    return Parser([json.dumps(kept)], "json", _of_file(read, "cells.json"))


def spaces() -> Parser:
    """Search spaces; each is fitted to a model, and a schedule is drawn, written and read."""

    def read(path: Path) -> object:
        space = SpaceFile.load(path).fit(12, 197, 1)
        schedule = space.decode(space.plain(random.Random(0)))
        space.distributions()
        return space.encode(schedule), space.shrink(schedule)

    files = sorted((ROOT / "search_spaces").glob("*.yaml"))
    return Parser([f.read_text(encoding="utf-8") for f in files], "yaml", _of_file(read, "space.yaml"))


def imports(name: str) -> Callable[[], Parser]:
    """Files of another tool."""

    def made() -> Parser:
        form = FORMATS[name]
        encoder = ENCODER in form.parts
        shape, schedules = (SHAPE, _SCHEDULES[1:]) if encoder else (PROMPT, _OF_PICTURES)
        texts = [export_schedule(s, form, shape, lossy=True).text for s in schedules]
        kind = {"json": "json", "pruna": "json", "lightcompress": "yaml"}.get(name, "text")

        def read(text: str) -> object:
            entry = text[:5] if form.entries and len(text) % 2 else None
            return str(import_schedule(text, form, shape, entry).schedule)

        return Parser(texts, kind, _plain(read))

    return made


def configs() -> Parser:
    """config.yaml, as a resumed run takes it."""

    def read(path: Path) -> object:
        folder = StudyFolder(path.parent.parent, path.parent.name)
        config = RunConfig(**folder.load_config())
        folder.save_config(config.to_dict())
        return RunConfig(**folder.load_config())

    example = (EXAMPLE / "config.yaml").read_text(encoding="utf-8")
    return Parser([example, _given_config()], "yaml", _of_file(read, "config.yaml"))


def _given_config() -> str:
    given = RunConfig(
        model="m", data="a.csv,b.csv", columns="text=review,label=stars", budget="10ms", constraints=["macs <= 60%"],
        batch_size={1: 0.7, 8: 0.3}, length=64, percentile=95, timeout="10m", objectives="latency,macs",
    )  # fmt: skip
    return str(yaml.safe_dump(given.to_dict(), sort_keys=False))


def journals() -> Parser:
    """study.journal, as a dashboard and a run read it, and then go on with it."""

    def read(path: Path) -> object:
        for trial in _refreshed(path):
            if trial.complete:
                str(trial.plan)
            trial.number_of("quality")
        read_trials(path)
        return open_study(path).get_trials()

    return Parser([_journal()], "text", _of_file(read, "study.journal"))


def _refreshed(path: Path) -> list[Any]:
    reader = TrialReader(path)
    reader.refresh()
    return reader.trials


def _journal() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.journal"
        study = open_study(path)
        for schedule in _SCHEDULES:
            trial = study.ask({"level": optuna.distributions.IntDistribution(0, 9)})
            storage_of(study).publish(trial.number)
            said = {"quality": 0.9, "latency": 1.5, "source": "seed", "seconds": 0.1}
            for key, value in {"schedule": schedule.to_dict(), **said}.items():
                trial.set_user_attr(key, value)
            study.tell(trial, [0.1, 1.5])
        storage_of(study).publish(study.ask().number)
        return path.read_text(encoding="utf-8")


def samples() -> Parser:
    """samples.json."""
    row = ShownRow(index=0, label="a", words=["a", "b", "c"], leading=1)
    stages = [ShownStage(layer=1, tokens=2, method="bipartite", owner=[0, 1, -1])]
    trace = ShownTrace(point="p1", row=0, unpruned="a", pruned="b", stages=stages)
    text = ShownSamples(rows=[row], traces=[trace]).model_dump_json()
    return Parser([text], "json", _of_file(ShownSamples.load, "samples.json"))


def losses() -> Parser:
    """sensitivities.json."""
    data = {"layers": [0, 3], "keeps": [1.0, 0.5], "methods": ["bipartite"], "samples": 8, "measured": 2}
    arrays = {"loss": [[[0.0], [0.1]], [[0.0], [0.3]]], "sd": [[[0.0], [0.0]], [[0.0], [0.5]]]}
    return Parser([json.dumps({**data, **arrays})], "json", _of_file(Sensitivities.load, "sensitivities.json"))


_TYPED = (
    "budget 10ms|budget 40mJ|budget 2GMACs|budget 64MiB|budget 60%|budget 2x|budget 1.5×|budget 10µs|time 90s|time 2h|"
    "timeout 1e3s|patience 30s|energy_window 5s|table_time 50s|constraint quality >= 0.99*unpruned|delimiter ;|"
    "constraint agreement >= 0.98|constraint latency <= 10ms|constraint macs <= 60%|columns text=review,label=stars|"
    "batch_size 8|batch_size 1:0.7|length 128|length buckets|objectives latency,macs|device A100|device cuda:0|"
    "task auto|metric f1|mode eager|runtime onnxruntime|percentile 95|sampler guided|trials 40|seeds 3|seed 7|"
    "across worst|engine ray|workers 2|storage sqlite:///a.db|space small|study vit-cpu-10ms|dtype float16"
)


def words() -> Parser:
    """Values of options, one to a line: the setting, and what is typed."""

    def read(text: str) -> object:
        name, _, value = text.partition(" ")
        if name == "study":
            return check_name(value)
        typed = {"budget": Budget.parse, "constraint": Constraint.parse, "time": seconds_of}
        if name in typed:
            typed[name](value)
        settings = {"constraint": "constraints", "time": "timeout"}
        return RunConfig(**{settings.get(name, name): value}).to_dict()

    return Parser(_TYPED.split("|"), "text", _plain(read))


PARSERS: dict[str, Callable[[], Parser]] = {
    "schedule": schedules,
    "plan": plans,
    "line": lines,
    "method": methods,
    "front": fronts,
    "cost table": cost_tables,
    "profile": profiles,
    "profile cells": profile_cells,
    "space": spaces,
    "config": configs,
    "journal": journals,
    "samples": samples,
    "losses": losses,
    "words": words,
    **{f"import {name}": imports(name) for name in FORMATS},
}
