"""What the parts compute, against slow references and made-up numbers; and some real, tiny steps on this CPU."""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import Any

import gpu_day
import numpy as np
import pytest
import torch
from gpu import correct, energy, pays, serving, tables
from gpu.day import Records, Step, work
from gpu.report import SHOWN, report
from gpu.stand import StandIn
from gpu.subjects import SUBJECTS, constant_r, schedules
from papers import ToMe, patched

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.token_tables import SCORERS
from prunesearch.cost.estimate.estimate import estimate_table
from prunesearch.cost.shape import describe_shape
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.device_profile import Profile, specs
from prunesearch.cost.tables.table_records import Validation
from prunesearch.cost.timing.unseen import draw_unseen
from prunesearch.pruning.apply import apply_
from prunesearch.tasks.shapes import load_shape, random_inputs
from tests.support.known_device import known_table

STAND = StandIn()


# -- the steps ---------------------------------------------------------------------------------------------


def steps_of(parts: list[str]) -> list[Any]:
    return gpu_day.all_steps(argparse.Namespace(on="cpu", parts=parts))[1]


def test_every_part_has_steps_and_a_table_in_the_report() -> None:
    steps = steps_of(list(gpu_day.PARTS))
    assert {step.part for step in steps} == set(gpu_day.PARTS) == set(SHOWN)
    assert len({(step.part, step.name) for step in steps}) == len(steps)
    assert max(steps, key=lambda step: step.worth).part == "correctness"


def test_a_real_step_is_recorded_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = [
        step for step in steps_of(["correctness", "pays"]) if step.name in ("vit in a graph", "deit-small, batch 1")
    ]
    assert len(chosen) == 2
    device = {"name": "this CPU", "kind": "cpu"}
    session = {"stand_in": True, "commit": "abc", "device": device, "versions": {"torch": "2", "transformers": "5"}}
    told = work(chosen, tmp_path, session, ends_at=math.inf, say=lambda text: None)
    assert told.failed == told.left == []
    report(tmp_path)
    shown = capsys.readouterr().out
    assert "STAND-IN" in shown
    assert "ToMe's formula" in shown
    assert "vit in a graph" in shown


# -- correctness ------------------------------------------------------------------------------------------


def scored_by_dtype(inputs: Any) -> torch.Tensor:
    """A scorer that is wrong in half precision: it keeps what it should drop."""
    key = inputs.attention.key
    places = torch.arange(key.shape[2], device=key.device, dtype=torch.float32).expand(key.shape[0], -1)
    return places if key.dtype == torch.float32 else key.shape[2] - places


def asking(inputs: Any) -> torch.Tensor:
    """A scorer that looks at a value."""
    key = inputs.attention.key
    return key.abs().sum((1, 3)) * (1.0 if key.sum().item() > 0 else 2.0)


def test_right_scorers_pass_and_one_that_is_wrong_on_the_device_does_not() -> None:
    methods = [("cls_attention", "drop"), ("value_norm", "fuse"), ("position", "bipartite")]
    assert correct.against_cpu(STAND, "bert", methods)["wrong"] == []
    with SCORERS.registered("by_dtype", scored_by_dtype):
        wrong = correct.against_cpu(STAND, "vit", [("by_dtype", m) for m in ("drop", "fuse", "nearest", "soft")])[
            "wrong"
        ]
    assert any(line.startswith("bfloat16") and "by_dtype: other tokens in every row" in line for line in wrong)
    assert not any(line.startswith("float32") for line in wrong)


def test_a_scorer_that_waits_is_found() -> None:
    with SCORERS.registered("asking", asking):
        methods = [("asking", "drop"), ("value_norm", "drop")]
        for family in ("vit", "bert"):  # one whose own forward never waits, one whose does
            wrong = correct.without_waiting(STAND, family, methods)["wrong"]
            assert wrong
            assert all("asking" in line for line in wrong)


class Once(StandIn):
    """Its graphs give what they gave when they were captured."""

    def replaying(self, run: Any) -> Any:
        found = run()
        return lambda: found


def test_a_graph_that_does_not_look_at_its_inputs_again_is_found() -> None:
    methods = [("cls_attention", "drop")]
    assert correct.in_a_graph(STAND, "vit", methods)["wrong"] == []
    assert "from an eager forward" in correct.in_a_graph(Once(), "vit", methods)["wrong"][0]


# -- ToMe's formula ------------------------------------------------------------------------------------------


def merged_slowly(keys: np.ndarray, x: np.ndarray, size: np.ndarray, r: int) -> tuple[list[np.ndarray], list[float]]:
    """The paper's five steps for one row, token by token: every even place proposes to its likest odd one."""
    likest = {}
    for a in range(2, len(keys), 2):  # CLS is place 0
        cosines = {
            b: keys[a] @ keys[b] / np.linalg.norm(keys[a]) / np.linalg.norm(keys[b]) for b in range(1, len(keys), 2)
        }
        b = max(cosines, key=cosines.__getitem__)
        likest[a] = (cosines[b], b)
    gone = sorted(likest, key=lambda a: -likest[a][0])[:r]
    total, sizes = x * size[:, None], size.copy()
    for a in gone:
        total[likest[a][1]] += x[a] * size[a]
        sizes[likest[a][1]] += size[a]
    order = [a for a in range(0, len(keys), 2) if a not in gone] + list(range(1, len(keys), 2))
    return [total[i] / sizes[i] for i in order], [sizes[i] for i in order]


def test_tome_merges_as_the_paper_says() -> None:
    torch.manual_seed(0)
    keys, x = torch.randn(3, 17, 4, dtype=torch.float64), torch.randn(3, 17, 6, dtype=torch.float64)
    size = torch.randint(1, 4, (3, 17)).double()
    formula = ToMe([3])
    formula.key, formula.size = keys[:, None], size
    found = formula.between(0, x)
    for row in range(3):
        wanted, wanted_sizes = merged_slowly(keys[row].numpy(), x[row].numpy(), size[row].numpy(), 3)
        assert np.allclose(found[row].numpy(), wanted, atol=1e-12)
        assert np.allclose(formula.size[row].numpy(), wanted_sizes, atol=1e-12)


@torch.inference_mode()
def test_tomes_forward_is_the_models_where_nothing_merges_and_as_narrow_as_ours_where_something_does() -> None:
    subject = SUBJECTS["deit-small"]
    model = subject.build(STAND)
    inputs = subject.inputs(model, 2)
    want = model(**inputs).logits
    with patched(model.vit, ToMe([0] * len(model.vit.layers))):
        torch.testing.assert_close(model(**inputs).logits, want, rtol=1e-5, atol=1e-6)
    with apply_(model, Schedule()) as handle:
        shape = describe_shape(model, handle, inputs)
    r, ours = constant_r(shape)
    widths: list[int] = []
    hooks = [b.mlp.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1])) for b in model.vit.layers]
    with patched(model.vit, ToMe([r] * shape.depth)):
        model(**inputs)
    assert widths == ours.counts(shape.depth, shape.tokens, shape.protected)
    assert len(hooks) == shape.depth


@pytest.mark.parametrize("name", list(SUBJECTS))
@torch.inference_mode()
def test_every_subject_runs_every_schedule(name: str) -> None:
    subject = SUBJECTS[name]
    model = subject.build(STAND)
    inputs = subject.inputs(model, 2)
    with apply_(model, Schedule()) as handle:
        for schedule in schedules(subject, describe_shape(model, handle, inputs)).values():
            with handle.under(schedule):
                assert torch.isfinite(model(**inputs).logits).all()


# -- what is read off measurements ----------------------------------------------------------------------------------


def test_it_pays_from_the_least_batch_above_which_it_always_does() -> None:
    def result(batch: int, **speedups: float) -> dict[str, Any]:
        rows = [{"mode": "eager", "schedule": name, "speedup": value} for name, value in speedups.items()]
        return {"batch": batch, "rows": rows}

    results = [result(8, a=1.3, b=1.3, c=1.0), result(1, a=0.7, b=1.5, c=1.0), result(32, a=1.5, b=1.01, c=1.2)]
    assert pays.from_batch(results) == {"eager, a": 8, "eager, b": None, "eager, c": 32}


def test_energy_and_latency_are_compared() -> None:
    found = {
        "plain": (10.0, 50.0, 30.0),
        "fast": (5.0, 40.0, 32.0),
        "thrifty": (6.0, 30.0, 20.0),
        "bad": (9.0, 45.0, 40.0),
    }
    told = energy.compare(found)
    assert (told["fastest"], told["least_gross"], told["least_net"]) == ("fast", "thrifty", "thrifty")
    assert told["fronts"] == {"gross": ["fast", "thrifty"], "net": ["fast", "thrifty"]}
    assert told["rank"] == pytest.approx(0.8)


def test_requests_are_batched_as_they_wait() -> None:
    played = serving.Played({1: [1.0], 2: [1.5], 4: [2.0]})
    took = serving.serve([0.0, 0.2, 0.3, 0.4, 5.0], [1, 2, 4], played.run, played, played.wait)
    # the first alone until 1.0; the three that waited then in a batch of four until 3.0; the last by itself
    assert took == pytest.approx([1.0, 2.8, 2.7, 2.6, 1.0])


def test_the_greatest_rate_is_the_last_within_the_bound() -> None:
    seconds = {1: [0.01], 8: [0.02]}
    rate = serving.greatest_rate(seconds, 0.045)
    assert serving.p95_played(rate, seconds) <= 0.045
    assert serving.p95_played(rate + 0.03 * 400, seconds) > 0.045
    assert serving.greatest_rate(seconds, 0.009) == 0
    gaps = np.diff(serving.arrivals(50.0, 5000))
    assert gaps.mean() == pytest.approx(0.02, rel=0.05)


# -- tables ---------------------------------------------------------------------------------------------------


def test_tables_that_came_back_become_a_profile(tmp_path: Path) -> None:
    session = {"device": {"kind": "cuda", "name": "NVIDIA H200", "sm_count": 132}, "commit": "abc"}
    given = known_table(batch_size=8), known_table(batch_size=32)
    steps = [Step("tables", str(n), 1, 1, lambda one=one: {"table": tables.lean(one)}) for n, one in enumerate(given)]
    work(steps, tmp_path / "out", session, ends_at=math.inf, say=lambda text: None)
    tables.profile_from(tables.tables_in(Records.open(tmp_path / "out")), tmp_path, None)
    profile = Profile.load(tmp_path / "h200")
    assert profile.status == "measured"
    assert profile.device["name"] == "NVIDIA H200"
    assert sorted(entry.conditions["batch_size"] for entry in profile.tables) == [8, 32]
    read = profile.read(profile.tables[0])
    assert read.predict(Schedule()) == pytest.approx(given[0].predict(Schedule()), rel=1e-4)


def test_what_the_estimate_had_said_is_compared_schedule_by_schedule() -> None:
    """A device that takes a tenth longer than estimated in everything: the estimate is off by 1 / 1.1 - 1."""
    model, spec = load_shape("minilm-l6"), specs()["h200"]
    counts, methods = [40, 80, 104], ["cls_attention+drop"]
    inputs = random_inputs(model, 1)
    guess = estimate_table(spec, model, inputs, counts=counts, methods=methods, dtype="float32")
    drawn = [Schedule(), *draw_unseen(guess.shape, counts, methods, count=4, seed=1)]
    slower = [1.1 * guess.predict(schedule) for schedule in drawn]
    checked = Validation(mape=0.01, worst=0.01, bias=0.0, rank_correlation=1.0, unseen=4,
                         schedules=[str(s) for s in drawn], measured_ms=slower, predicted_ms=slower)  # fmt: skip
    table = CostTable(**{**dict(guess), "validation": checked, "model": "minilm-l6"})
    off = tables.estimated({"table": tables.lean(table), "counts": counts, "methods": methods}, spec)
    for name in ("bias", "unpruned"):
        assert off[name] == pytest.approx(1 / 1.1 - 1, abs=1e-6)
    assert off["rank"] == pytest.approx(1)


def test_tables_are_lean_and_whole() -> None:
    table = known_table()
    again = CostTable(**tables.lean(table))
    assert all(cell.samples_us == [] for cell in itertools.chain(again.cells.mlp, again.cells.reduce))
    assert again.predict(Schedule()) == table.predict(Schedule())
