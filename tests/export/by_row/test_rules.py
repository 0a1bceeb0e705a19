"""Exported cascades and routers, in a Python that has neither prunesearch nor, for graphs, torch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.tables.export_tables import RULE_FORMATS
from prunesearch.export.by_row.of_adapted import by_row
from prunesearch.export.by_row.onnx_runner import sureness
from prunesearch.export.by_row.row_rule import SURENESS, EarlyStates, PlanGuess
from prunesearch.export.by_row.rule_source import RuleSource, find_rule_format
from prunesearch.export.models.model_format import ModelOptions
from tests.support.small_models import build, inputs_of

FASTER, FAST = (
    Plan(ps.Schedule([ps.Stage(0, 0.3, "cls_attention", "fuse")])),
    Plan(ps.Schedule([ps.Stage(0, 0.8, "key_norm"), ps.Stage(2, 0.5, "cls_attention", "bipartite")])),
)
PLANS = {"p1": FASTER, "p2": FAST, "unpruned": Plan()}
WHOLE = Plan(ps.Schedule([ps.Stage(1, 1.0, "cls_attention", "fuse")]))
KINDS = ("cascade", "router")
ROWS = 6
AUTO = {"vit": "AutoModelForImageClassification", "bert": "AutoModelForSequenceClassification"}
MODEL = pytest.mark.parametrize("name", list(AUTO))
KIND = pytest.mark.parametrize("kind", KINDS)


def batch_of(name: str) -> dict[str, torch.Tensor]:
    """Rows that differ; of texts some are short."""
    first = inputs_of(name)
    generator = torch.Generator().manual_seed(5)
    rows = torch.arange(ROWS) % len(next(iter(first.values())))
    inputs = {key: value[rows].clone() for key, value in first.items()}
    for key, value in inputs.items():
        if value.is_floating_point():
            inputs[key] = torch.randn(value.shape, generator=generator)
        elif key == "input_ids":
            inputs[key] = torch.randint(3, 30, value.shape, generator=generator)
    return inputs


def source_of(name: str, kind: str, plans: dict[str, Plan] = PLANS, *, all_to: int | None = None) -> RuleSource:
    """A rule whose threshold lies in the middle of what the rows give."""
    model, inputs = build(name).requires_grad_(False).eval(), batch_of(name)
    torch.manual_seed(2)
    router = kind == "router"
    with torch.no_grad(), ps.apply_(model, Plan()) as handle:
        states = EarlyStates(model, handle, 0)(inputs)
        guesses = tuple(PlanGuess(states.shape[1]).requires_grad_(False) for _ in list(plans)[1:]) if router else ()
        for guess in guesses:
            guess.get_buffer("mean").copy_(states.mean(dim=0))
        blank = RuleSource(model, plans, 0.0, "" if router else "margin", guesses, 0, inputs, seed=3)
        if router:
            sure = torch.stack([guess(states) for guess in guesses], dim=1)
        else:
            with handle.under(next(iter(plans.values()))):
                sure = SURENESS["margin"](model(**inputs).logits)
    low, high = sure.flatten().sort().values[[sure.numel() // 2 - 1, sure.numel() // 2]].tolist()
    middle = (low + high) / 2 if all_to is None else (-1.0, 2.0)[all_to > 0]
    return replace(blank, threshold=middle)


def one_by_one(source: RuleSource) -> tuple[torch.Tensor, list[int]]:
    """Every row by itself, by the rule as it reads."""
    logits, places = [], []
    with torch.no_grad(), ps.apply_(source.model, Plan(), seed=source.seed) as handle:
        plans = list(source.plans.values())
        for number in range(len(next(iter(source.inputs.values())))):
            row = {key: value[number : number + 1] for key, value in source.inputs.items()}
            if source.guesses:
                with handle.under(Plan()):
                    hidden = source.model(**row, output_hidden_states=True).hidden_states[1][0]
                mask = row.get("attention_mask")
                kept = hidden if mask is None else hidden[mask[0].bool()]
                state = torch.cat([hidden[0], kept.mean(dim=0)])[None]
                sure = [float(guess(state)) >= source.threshold for guess in source.guesses]
                place = next((i for i, yes in enumerate(sure) if yes), len(plans) - 1)
                with handle.under(plans[place]):
                    found = source.model(**row).logits[0]
            else:
                place = -1
                while place < len(plans) - 1:
                    place += 1
                    with handle.under(plans[place]):
                        found = source.model(**row).logits[0]
                    first, second = found.softmax(dim=-1).sort(descending=True).values[:2].tolist()
                    if first - second >= source.threshold:
                        break
            logits.append(found)
            places.append(place)
    return torch.stack(logits), places


@pytest.mark.parametrize(
    ("to", "name", "kind"),
    [
        *(("hf", name, kind) for name in AUTO for kind in KINDS),
        # graphs take seconds each; one of them runs without torch below
        pytest.param("onnx", "bert", "router", marks=pytest.mark.slow),
        pytest.param("onnx", "bert", "cascade", marks=pytest.mark.slow),
        pytest.param("onnx", "vit", "router", marks=pytest.mark.slow),
    ],
)
def test_a_row_gets_the_answer_of_its_own_plan(to: str, name: str, kind: str, tmp_path: Path) -> None:
    plans = PLANS if to == "hf" else {"p1": FASTER, "unpruned": Plan()}
    source, target = source_of(name, kind, plans), find_rule_format(to)
    want, places = one_by_one(source)
    assert len(set(places)) > 1
    target.write(source, tmp_path / "out", ModelOptions())
    logits, taken = target.load(tmp_path / "out")(source.inputs)
    assert taken.tolist() == places
    torch.testing.assert_close(logits, want, rtol=1e-4, atol=1e-4)
    order = torch.tensor([3, 0, 5, 1])
    logits, taken = target.load(tmp_path / "out")({key: value[order] for key, value in source.inputs.items()})
    assert taken.tolist() == [places[row] for row in order]
    torch.testing.assert_close(logits, want[order], rtol=1e-4, atol=1e-4)


@MODEL
@KIND
def test_where_all_is_kept_it_is_the_unpruned_model_to_the_last_bit(name: str, kind: str, tmp_path: Path) -> None:
    """In each group of rows: how many rows are multiplied together may decide the last bit."""
    source, target = source_of(name, kind, {"p1": WHOLE, "unpruned": Plan()}), find_rule_format("hf")
    target.write(source, tmp_path / "out", ModelOptions())
    logits, taken = target.load(tmp_path / "out")(source.inputs)
    assert len(set(taken.tolist())) == 2
    groups = [None, (taken == 1).nonzero().flatten()] if kind == "cascade" else [
        (taken == place).nonzero().flatten() for place in range(2)
    ]  # fmt: skip
    want = torch.empty_like(logits)
    with torch.no_grad():
        for rows in groups:
            at = torch.arange(ROWS) if rows is None else rows
            want[at] = source.model(**{key: value[at] for key, value in source.inputs.items()}).logits
    assert torch.equal(logits, want)


@KIND
@pytest.mark.parametrize("all_to", [0, 2])
def test_where_all_rows_have_one_plan(kind: str, all_to: int, tmp_path: Path) -> None:
    source, target = source_of("vit", kind, all_to=all_to), find_rule_format("hf")
    target.write(source, tmp_path / "out", ModelOptions())
    logits, taken = target.load(tmp_path / "out")(source.inputs)
    assert taken.tolist() == [all_to] * ROWS
    with torch.no_grad(), ps.apply_(source.model, list(PLANS.values())[all_to], seed=3):
        torch.testing.assert_close(logits, source.model(**source.inputs).logits, rtol=1e-4, atol=1e-4)


ELSEWHERE = """
import copy, sys, threading

class NoPrunesearch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "prunesearch":
            raise ImportError("prunesearch is not installed here")

sys.meta_path.insert(0, NoPrunesearch())
import torch, transformers
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
for folder, auto in zip(sys.argv[1::2], sys.argv[2::2]):
    given, out = load_file(folder + ".in"), {}
    load = getattr(transformers, auto).from_pretrained
    for place in (folder, folder + "-again"):
        model = load(place, trust_remote_code=True).eval()
        with torch.no_grad():
            found = model(**given)
            if place == folder:
                model.save_pretrained(folder + "-again")
        name = place.removeprefix(folder) or "first"
        out[name], out[name + "-plans"] = found.logits, found.plans
    main = model.main_input_name
    first, rest = given[main], {k: v for k, v in given.items() if k != main}
    with torch.no_grad():
        out["tuple"] = model(first, **rest, return_dict=False)[0]
        out["copy"] = copy.deepcopy(model)(**given).logits
    try:
        model(**given, labels=torch.zeros(len(first), dtype=torch.long))
    except Exception as error:
        assert "leave labels out" in str(error), error
    else:
        raise AssertionError("labels were taken")
    wrong = []

    def work():
        with torch.no_grad():
            for _ in range(3):
                found = model(**given)
                wrong.append(not torch.equal(found.logits, out["first"]) or not torch.equal(found.plans, out["first-plans"]))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out["wrong"] = torch.tensor(sum(wrong) + 18 - len(wrong))
    save_file(out, folder + ".out")
assert "prunesearch" not in sys.modules
"""  # noqa: E501


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Folders of an image model's router and a text model's cascade, as a Python without prunesearch runs them."""
    from safetensors.torch import load_file, save_file

    root, sources, words = tmp_path_factory.mktemp("rules"), {}, []
    for (name, auto), kind in zip(AUTO.items(), reversed(KINDS), strict=True):
        sources[name] = source_of(name, kind)
        find_rule_format("hf").write(sources[name], root / name, ModelOptions())
        save_file(dict(sources[name].inputs), f"{root / name}.in")
        words += [str(root / name), auto]
    environment = {"HF_HOME": str(root / "cache"), "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return root, sources, {name: load_file(f"{root / name}.out") for name in AUTO}


@MODEL
def test_the_folder_runs_without_prunesearch(elsewhere, name: str) -> None:
    _, sources, got = elsewhere
    source, found = sources[name], got[name]
    with torch.no_grad(), ps.apply_(source.model, Plan(), seed=source.seed) as handle:
        logits, places = by_row(source, handle)(source.inputs)
    assert found["first-plans"].tolist() == found["-again-plans"].tolist() == places.tolist()
    for key in ("first", "-again", "tuple", "copy"):
        torch.testing.assert_close(found[key], logits, rtol=1e-6, atol=1e-6)
    assert found["wrong"] == 0, "in threads"


@MODEL
def test_nothing_loads_the_folder_unpruned(elsewhere, name: str) -> None:
    root, sources, _ = elsewhere
    folder = root / name
    for auto in ("AutoConfig", "AutoModel", AUTO[name]):
        with pytest.raises(ValueError, match="custom code"):
            getattr(transformers, auto).from_pretrained(folder, trust_remote_code=False)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        type(sources[name].model).from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == f"pruned_by_row_{name}"
    assert [plan["name"] for plan in config["prunesearch"]["plans"]] == list(PLANS)


@MODEL
def test_the_file_has_what_it_needs_and_no_undefined_name(elsewhere, name: str) -> None:
    file = elsewhere[0] / name / "modeling_pruned.py"
    defined = {
        node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    assert {"cls_attention", "key_norm", "fuse", "bipartite", "ByRow"} < defined
    assert not {"value_norm", "apply_", "Server", "CompiledLayout"} & defined
    assert [line for line in file.read_text().splitlines() if len(line) > 120] == []
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,F811,F401", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


NO_TORCH = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("prunesearch", "torch", "transformers"):
            raise ImportError(name)

sys.meta_path.insert(0, Nothing())
import runpy
folder, given, answers = sys.argv[1:]
sys.argv = [folder + "/run.py", given, answers]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("kind", ["router", pytest.param("cascade", marks=pytest.mark.slow)])
def test_the_runner_of_graphs_needs_no_torch(kind: str, tmp_path: Path) -> None:
    plans = {"p1": FASTER, "unpruned": Plan()} if kind == "router" else PLANS
    source, folder = source_of("vit", kind, plans), tmp_path / "out"
    find_rule_format("onnx").write(source, folder, ModelOptions())
    np.savez(tmp_path / "in.npz", **{key: value.numpy() for key, value in source.inputs.items()})
    words = [sys.executable, "-c", NO_TORCH, str(folder), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    want, places = one_by_one(source)
    with np.load(tmp_path / "out.npz") as got:
        assert got["plans"].tolist() == places
        np.testing.assert_allclose(got["logits"], want.numpy(), rtol=1e-4, atol=1e-4)
    rule = json.loads((folder / "rule.json").read_text())
    assert [plan["file"] for plan in rule["plans"]] == [f"{name}.onnx" for name in plans]
    assert ("decide" in rule) == (kind == "router")
    if kind == "router":  # no block behind the one that is looked at is in it
        assert (folder / "decide.onnx").stat().st_size < (folder / "unpruned.onnx").stat().st_size / 2


def test_every_format_is_a_model_format_too() -> None:
    """In which each plan is written by itself."""
    for name in RULE_FORMATS:
        assert find_rule_format(name).name == find_rule_format(name).single.name == name


def test_the_runner_is_as_sure_as_torch() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [2.0, 1.0, -1.0], [90.0, 0.0, 0.0]])
    for by, sure_of in SURENESS.items():
        np.testing.assert_allclose(sureness(logits.numpy(), by), sure_of(logits).numpy(), atol=1e-6)


def test_threads_decide_by_their_own_rows() -> None:
    source = source_of("vit", "router")
    with torch.no_grad(), ps.apply_(source.model, Plan()) as handle:
        early, rows = EarlyStates(source.model, handle, 0), source.inputs["pixel_values"]
        want, wrong = [early({"pixel_values": rows[i : i + 2]}) for i in range(4)], []

        def work(place: int) -> None:
            with torch.no_grad():
                for _ in range(5):
                    wrong.append(not torch.equal(early({"pixel_values": rows[place : place + 2]}), want[place]))

        threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == [False] * 20
        whole = source.model(**source.inputs).logits
    assert torch.equal(whole, source.model(**source.inputs).logits)


def test_a_plan_with_weights_of_its_own_is_no_folder(tmp_path: Path) -> None:
    for text, shown in (("0:width(mlp=4)", "width"), ("int8", "int8")):
        plans = {"p1": Plan(FAST.schedule, (Change.parse(text),)), "unpruned": Plan()}
        with pytest.raises(PruneSearchError, match=f"p1 has others of its own .*{shown}.*--to onnx"):
            find_rule_format("hf").write(
                replace(source_of("vit", "cascade"), plans=plans), tmp_path / "x", ModelOptions()
            )
    assert not (tmp_path / "x").exists()


def test_halves_that_are_left_out_are_in_the_folder(tmp_path: Path) -> None:
    plans = {"p1": Plan(FASTER.schedule, (Change.parse("1:skip(part=mlp)"),)), "unpruned": Plan()}
    source, target = source_of("vit", "cascade", plans), find_rule_format("hf")
    target.write(source, tmp_path / "out", ModelOptions())
    logits, taken = target.load(tmp_path / "out")(source.inputs)
    want, places = one_by_one(source)
    assert taken.tolist() == places
    torch.testing.assert_close(logits, want, rtol=1e-5, atol=1e-5)
