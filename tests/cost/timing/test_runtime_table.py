"""The table for ONNX Runtime: pieces compute what the model's own do; cells add up to a machine that is known."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.names import Row
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.cost.measure import measure_table
from prunesearch.cost.shape import describe_shape
from prunesearch.cost.timing.loop import Job, Measurement
from prunesearch.cost.timing.modes import Eager, OnnxRuntime, OpenVino
from prunesearch.cost.timing.runtime_table import (
    GraphPieces,
    GraphSession,
    Scale,
    calibrate,
    measure_runtime_table,
    pairs_timed,
    price_cells,
)
from prunesearch.cost.timing.samples import Noise, Samples
from prunesearch.cost.timing.walk import plain_piece, variant_of_piece
from prunesearch.pruning.borders import borrowed
from prunesearch.pruning.families.find import FAMILIES
from prunesearch.pruning.families.positions import Places
from tests.support.some import some
from tests.support.tables import in_place

METHODS = ["cls_attention+drop", "value_norm+nearest", "bipartite"]
GRID = [5, 9, 13]
FACTOR, REST_MS, CALL_MS = 0.8, 3.0, 0.05
INT8 = (Change.parse("int8"),)
IN_INT8 = {"": dict.fromkeys(("rest", "attention", "mlp"), 1.0), "int8": {"rest": 0.7, "attention": 0.6, "mlp": 0.4}}


def true_ms(key: tuple) -> float:
    """What a piece takes by itself, the call of a session left out."""
    kind, *rest = key
    if kind == "attention":
        return 0.5 + 0.03 * rest[0] + 0.002 * rest[0] ** 2 + (0.1 if rest[1] else 0.0)
    if kind == "mlp":
        return 0.2 + 0.05 * rest[0]
    if kind == "scorer":
        return {"cls_attention": 0.02, "value_norm": 0.01}[rest[0]] * rest[1]
    if kind == "merge":
        return {"drop": 0.1, "nearest": 0.4, "bipartite": 0.6}[rest[0]] + 0.01 * rest[1] + 0.005 * rest[2]
    return 0.0


def truth(plan: Schedule | Plan, depth: int = 3, tokens: int = 17) -> float:
    """A whole graph on the machine that is known; int8 takes less there, of the rest too."""
    from prunesearch.cost.timing.walk import piece_names
    from tests.support.known_machine import SHAPE

    schedule, share = Plan.of(plan).schedule, IN_INT8[Plan.of(plan).variant]
    total = REST_MS * share["rest"]
    shape = SHAPE.model_copy(update={"depth": depth, "tokens": tokens})
    for piece in piece_names(schedule.flow(shape.geometry), shape):
        if piece[0] in ("attention", "mlp"):
            total += FACTOR * true_ms(piece) * share[piece[0]]
        elif len(piece) == 5:
            _, scorer, merge, n_in, n_out = piece
            scored = 0.0 if merge == "bipartite" else true_ms(("scorer", scorer, n_in))
            total += FACTOR * (scored + true_ms(("merge", merge, n_in, n_out)))
    return total


class KnownRuntime(Eager):
    """Stands in for ONNX Runtime: nothing is written, and `run` tells what would have been run."""

    def run(self) -> object:
        return self.current


def known_session(module, example, axes, variants):
    return [lambda given: lambda: None for _ in variants]


def known_measure(jobs, **_) -> Measurement:
    rng, samples = np.random.default_rng(0), {}
    for key, job in jobs.items():
        if key[0] == "whole":
            job.prepare()
            ms = truth(job.run())
        else:
            ms = true_ms(plain_piece(key)) * IN_INT8[variant_of_piece(key)].get(key[0], 1.0) + CALL_MS
        samples[key] = Samples([ms * (1 + 0.01 * float(rng.uniform(-1, 1))) for _ in range(15)])
    return Measurement(samples, Noise(0.0, 0.0, 0.0, False, ""), 1.0)


def test_a_known_machine_is_priced_right(tiny, batch):
    build = partial(measure_runtime_table, session=known_session, time_jobs=known_measure)
    with RUNTIMES.replaced("onnxruntime", KnownRuntime, table=build):
        table = measure_table(tiny, batch, counts=GRID, methods=METHODS, unseen=10, mode="onnxruntime")
    assert table.conditions["mode"] == "onnxruntime"
    assert table.status == "measured"
    assert table.validation.unseen == 10
    assert table.validation.mape < 0.02
    assert table.validation.worst < 0.05
    assert table.predict(Schedule()) == pytest.approx(truth(Schedule()), rel=0.02)
    with borrowed(tiny) as handle:
        assert handle.schedule == Schedule()


def test_fewer_bits_have_cells_of_their_own(tiny, batch):
    build = partial(measure_runtime_table, session=known_session, time_jobs=known_measure)
    with RUNTIMES.replaced("onnxruntime", KnownRuntime, table=build):
        table = measure_table(
            tiny, batch, counts=GRID, methods=METHODS, unseen=10, mode="onnxruntime", variants=[(), INT8]
        )
    assert table.variants == ("", "int8")
    assert set(table.validation.by_precision) == {"float32", "int8"}
    assert table.validation.unseen == 14
    assert table.validation.worst < 0.05
    for schedule in (Schedule(), Schedule([Stage(0, 0.5, "value_norm", "nearest")])):
        for changes in ((), INT8):
            plan = Plan(schedule, changes)
            assert table.predict(plan) == pytest.approx(truth(plan), rel=0.03)
    assert table.predict(Plan(changes=INT8)) < 0.7 * table.predict(Plan())


def test_calibration_finds_factor_and_rest():
    class Table:
        def predict(self, schedule):
            return schedule

    pieces = [10.0, 20.0, 35.0]
    scale = calibrate(Table(), pieces, [Samples([0.7 * p + 2.0] * 6) for p in pieces])
    assert scale.factor == pytest.approx(0.7)
    assert scale.rest_ms == pytest.approx(2.0)


def test_the_call_of_a_session_is_taken_off(tiny, batch):
    with borrowed(tiny) as handle:
        shape = describe_shape(tiny, handle, batch)
    samples = {
        ("call",): Samples([0.5] * 6),
        ("attention", 17, False, ""): Samples([2.5] * 6),
        ("mlp", 17, ""): Samples([1.5] * 6),
    }
    cells = price_cells(samples, shape, [], Scale(2.0, 7.0))
    assert (cells.attention[0].ms, cells.mlp[0].ms, cells.stem.ms) == (4.0, 2.0, 7.0)


def test_pairs_lie_inside_the_sequence(tiny, batch):
    with borrowed(tiny) as handle:
        pairs = pairs_timed(describe_shape(tiny, handle, batch))
    assert all(1 < after < before <= 17 for before, after in some(pairs))
    assert pairs[0] == (17, 13)


def iter_of(found):
    """What a run of a piece gave: a list in ONNX Runtime, by outputs in OpenVINO."""
    return iter(found.values() if hasattr(found, "values") else found)


@pytest.mark.parametrize("runtime", [OnnxRuntime, pytest.param(OpenVino, marks=pytest.mark.slow)])
def test_a_graph_of_a_half_takes_any_number_of_tokens(tiny, batch, tmp_path, runtime):
    """With the runtime itself: the halves of block 1 one after the other are the block."""
    with borrowed(tiny) as handle, torch.no_grad():
        shape = describe_shape(tiny, handle, batch)
        runs, original = {}, GraphSession(tmp_path, runtime.file)

        def note(module, example, axes, variants):
            (found,) = original(module, example, axes, variants)
            runs[type(module).__name__, getattr(module, "kind", "")] = found
            return [found]

        pieces = GraphPieces(handle, shape.model_copy(update={"depth": 1}), batch, note, 0)
        block = handle.encoder.blocks[1]
        handle.encoder.blocks[:], kept = [block], list(handle.encoder.blocks)
        try:
            pieces.jobs([17], ["value_norm+drop"])
        finally:
            handle.encoder.blocks[:] = kept
        for n in (17, 6):
            x = pieces.features(n)
            middle = next(iter_of(runs["_Half", "attention"]([x])()))
            out = next(iter_of(runs["_Half", "mlp"]([torch.from_numpy(middle.copy())])()))
            want = handle.run_block(1, x, None, {})
            torch.testing.assert_close(torch.from_numpy(out.copy()), want, rtol=1e-4, atol=1e-4)


def test_positions_are_refused_in_one_line(tiny, batch):
    placed = Row(replace(FAMILIES["vit"], positions=Places()), "with positions")
    refused = pytest.raises(PruneSearchError, match="take positions too: use the runtime torch")
    with in_place(FAMILIES, "vit", placed), refused:
        measure_table(tiny, batch, counts=GRID, methods=METHODS, mode="onnxruntime")


def test_other_requests_are_refused_in_one_line(tiny, batch):
    with pytest.raises(PruneSearchError, match="--concurrency 4 is not measured in a runtime of graphs"):
        measure_table(tiny, batch, counts=GRID, methods=METHODS, concurrency=4, mode="onnxruntime")


def test_jobs_cover_every_piece(tiny, batch):
    with borrowed(tiny) as handle:
        shape = describe_shape(tiny, handle, batch)
        jobs = GraphPieces(handle, shape, batch, known_session, 0).jobs([*GRID, 17], METHODS)
    assert all(isinstance(job, Job) for job in jobs.values())
    assert ("attention", 17, True, "") not in jobs
    assert {k for k in jobs if k[0] == "attention"} == {
        *(("attention", n, False, "") for n in (*GRID, 17)),
        *(("attention", n, True, "") for n in GRID),
    }
    assert {k[1] for k in jobs if k[0] == "scorer"} == {"cls_attention", "value_norm"}
    assert {k[1] for k in jobs if k[0] == "merge"} == {"drop", "nearest", "bipartite"}


def test_the_pieces_of_a_text_model_take_masks():
    """Run in torch in place of ONNX Runtime: every piece takes what its job gives it."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50,
        max_position_embeddings=40,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval().requires_grad_(False)
    ids = torch.randint(1, 50, (2, 20))
    inputs, ran = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, []

    def session(module, example, axes, variants):
        def run(given):
            out = module(list(given))
            ran.append((type(module).__name__, len(given), (out[0] if isinstance(out, list) else out).shape))

        return [lambda given: lambda: run(given) for _ in variants]

    with borrowed(model) as handle, torch.no_grad():
        shape = describe_shape(model, handle, inputs)
        jobs = GraphPieces(handle, shape, inputs, session, 0).jobs([6, 12, 20], METHODS)
        for job in jobs.values():
            job.run()
    assert shape.protected == 2
    assert ("_Half", 2, (2, 20, 16)) in ran  # with its mask
    assert ("_Scorer", 4, (2, 20)) in ran
    merged = [shape[1] for name, _, shape in ran if name == "_Merge"]
    assert sorted(set(merged)) == sorted({after for _, after in pairs_timed(shape)})
