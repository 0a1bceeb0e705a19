import itertools
import json
import math
import random

import numpy as np
import pytest
from pydantic import ValidationError

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.surface import Line, fit_straight_line
from prunesearch.cost.tables.table_records import Cells
from prunesearch.cost.timing.build import typical_ms
from prunesearch.cost.timing.unseen import unseen_schedules
from tests.support.known_machine import COUNTS, METHODS, SHAPE, synthetic_walks, table_of, true_ms, true_total
from tests.support.some import some


def test_unseen_schedules_are_predicted_exactly_on_a_machine_that_adds_up(table):
    schedules = unseen_schedules(table, METHODS, count=40)
    assert len(schedules) == len(set(schedules)) == 40
    for schedule in [Schedule(), *schedules]:
        assert table.predict(schedule) == pytest.approx(true_total(schedule), rel=1e-6)


def test_a_pair_of_scorer_and_merge_that_no_walk_had_is_priced_by_its_parts(table):
    assert not any((c.scorer, c.merge) == ("value_norm", "drop") for c in table.cells.reduce)
    expected = true_ms(("reduce", "value_norm", "drop", 65, 33))
    assert table.reduce("value_norm", "drop", 65, 33) == pytest.approx(expected, rel=1e-6)


def test_a_prediction_is_the_sum_of_the_pieces(table):
    schedule = Schedule(
        [Stage(1, (33 - 1) / 64, "value_norm", "fuse"), Stage(4, (8 - 1) / 64, "cls_attention", "drop")]
    )
    total = table.stem + 2 * table.attention(65, False, 0) + table.mlp(65, 0)
    total += table.reduce("value_norm", "fuse", 65, 33) + 3 * (table.mlp(33, 0) + table.attention(33, True, 0))
    total += table.reduce("cls_attention", "drop", 33, 8) + table.mlp(8, 0)
    total += table.attention(8, True, 0) + table.mlp(8, 0) + table.head(8)
    assert table.predict(schedule) == pytest.approx(total)


def test_dropping_leaves_attention_without_sizes(table):
    dropped = table.predict(Schedule([Stage(0, 0.5, "cls_attention", "drop")]))
    parts = table.stem + table.attention(65, False, 0) + table.reduce("cls_attention", "drop", 65, 33)
    parts += 6 * table.mlp(33, 0) + 5 * table.attention(33, False, 0) + table.head(33)
    assert dropped == pytest.approx(parts)


def test_a_stage_that_keeps_everything_costs_nothing(table):
    assert table.predict(Schedule([Stage(0, 1.0, "cls_attention", "fuse")])) == table.predict(Schedule())


def test_the_head_is_charged_against_the_full_length(table):
    assert table.head(65) == 0
    assert table.head(15) == pytest.approx(-0.1, rel=1e-6)
    assert table.stem == pytest.approx(0.5 + 0.1 + 0.002 * 65, rel=1e-6)


@pytest.mark.parametrize(
    ("disturb", "worst"),
    [
        # each piece is now and then held up for as long as it takes, as by another process on its core
        (lambda rng: 2.0 if rng.random() < 0.1 else 0.0, 0.05),
        # hiccups so long that a plain mean is off by tenths
        (lambda rng: 3000.0 if rng.random() < 0.0005 else rng.gauss(0, 0.005), 0.02),
    ],
)
def test_disturbed_walks_predict_the_median_of_disturbed_forwards(disturb, worst):
    table, rng = table_of(synthetic_walks(1500, disturb)), random.Random(5)
    for schedule in some(unseen_schedules(table, METHODS, count=6)):
        pieces = 2 + 3 * SHAPE.depth
        forwards = [true_total(schedule) + sum(disturb(rng) for _ in range(pieces)) for _ in range(600)]
        assert table.predict(schedule) == pytest.approx(np.median(forwards), rel=worst)


def test_sums_of_medians_would_be_low_under_disturbance():
    walks = synthetic_walks(1000, lambda rng: 2.0 if rng.random() < 0.1 else 0.0)
    typical = typical_ms(walks).ms
    medians = {piece: s.median_ms for piece, s in walks.pieces.items()}
    for estimate, low, high in ((medians, 0.5, 0.9), (typical, 0.97, 1.03)):
        ratios = [sum(estimate[p] for p, _ in w) / sum(ms for _, ms in w) for w in walks.steps]
        assert low < np.median(ratios) < high


def test_a_machine_that_wanders_is_followed():
    """Its speed falls by a third over the run and comes back: a few timings of a forward tell its usual latency."""
    walks, rng = synthetic_walks(400, lambda rng: 0.0), random.Random(1)
    pace = [1 + 0.5 * math.sin(math.pi * i / len(walks.steps)) for i in range(len(walks.steps))]
    wandering = type(walks)()
    for steps, slow in zip(walks.steps, pace, strict=True):
        wandering.add([(piece, ms * slow * rng.gauss(1, 0.01)) for piece, ms in steps])
    whole = typical_ms(wandering)
    typical, found = whole.ms, whole.pace
    usual = float(np.median(pace))
    assert found == pytest.approx(np.array(pace) / usual, rel=0.02)
    for piece in (("mlp", 33, ""), ("attention", 65, False, "")):
        assert typical[piece] == pytest.approx(true_ms(piece) * usual, rel=0.01)
    schedule = unseen_schedules(table_of(wandering), METHODS, count=1)[0]
    few = [(i, true_total(schedule) * pace[i]) for i in (3, 40, 160, 200, 390)]
    told = np.median([ms / found[i] for i, ms in few])
    assert told == pytest.approx(true_total(schedule) * usual, rel=0.02)
    assert np.median([ms for _, ms in few]) != pytest.approx(told, rel=0.02)


# -- interpolation -----------------------------------------------------------------------------------


def test_measured_points_are_met_and_lines_run_between_them():
    line = Line("x", {10: 1.0, 20: 3.0, 40: 3.5})
    assert [line(n) for n in (10, 15, 20, 30, 40)] == [1.0, 2.0, 3.0, 3.25, 3.5]


@pytest.mark.parametrize("n", [9, 41])
def test_no_extrapolation(n):
    with pytest.raises(PruneSearchError, match=rf"`10 <= tokens <= 40` must hold for x, but got {n}"):
        Line("x", {10: 1.0, 40: 3.5})(n)


def test_a_schedule_below_the_grid_is_refused(table):
    with pytest.raises(PruneSearchError, match="does not extrapolate"):
        table.predict(Schedule([Stage(0, 0.05, "cls_attention", "drop")]))


def test_methods_that_were_not_measured_are_refused(table):
    with pytest.raises(
        PruneSearchError, match="scorer 'key_redundancy' is not in the cost table, which has attention_r"
    ):
        table.predict(Schedule([Stage(0, 0.5, "key_redundancy", "drop")]))
    with pytest.raises(PruneSearchError, match="merge 'soft' is not in the cost table, which has bipartite, drop"):
        table.reduce("cls_attention", "soft", 65, 33)


def test_the_scorer_of_a_merge_that_ignores_it_does_not_matter(table):
    costs = {table.reduce(scorer, "bipartite", 65, 50) for scorer in ("cls_attention", "random", "value_norm")}
    assert len(costs) == 1


def test_repeated_halving_is_priced(table):
    cells = []
    for cell in table.cells.reduce:
        extra = {50: 0, 33: 0, 20: 1, 8: 3}[cell.n_out] if cell.n_in == 65 and cell.merge == "bipartite" else None
        if extra is not None:
            cells.append(cell.model_copy(update={"ms": 1.0 + 0.5 * extra}))
    assert len(cells) == 4
    changed = table.model_copy(update={"cells": table.cells.model_copy(update={"reduce": cells})})
    fresh = CostTable.model_validate_json(changed.model_dump_json())
    for n_out, expected in ((50, 1.0), (33, 1.0), (20, 1.5), (8, 2.5)):
        assert fresh.reduce("random", "bipartite", 65, n_out) == pytest.approx(expected, rel=1e-6)


def test_straight_line_weighs_by_samples():
    intercept, slope = fit_straight_line([(0, 1.0, 1000), (10, 2.0, 1000), (20, 9.0, 1)])
    assert intercept == pytest.approx(1.0, abs=0.02)
    assert slope == pytest.approx(0.1, abs=0.01)


# -- conditions --------------------------------------------------------------------------------------


def test_the_measured_conditions_are_accepted(table):
    table.check_conditions(batch_size=8, dtype="float32", attention="sdpa", mode="eager", threads=2, device="cpu")


@pytest.mark.parametrize(
    ("name", "value", "measured"),
    [("batch_size", 1, 8), ("dtype", "bfloat16", "float32"), ("attention", "eager", "sdpa"), ("threads", 1, 2),
     ("device", "cuda", "cpu"), ("mode", "compile", "eager")],
)  # fmt: skip
def test_any_other_condition_is_refused_with_both_values(table, name, value, measured):
    with pytest.raises(PruneSearchError, match=f"measured with {name}={measured}, but {name}={value}"):
        table.check_conditions(**{name: value})


def test_a_condition_that_does_not_exist_is_refused(table):
    with pytest.raises(PruneSearchError, match="no condition 'batch'"):
        table.check_conditions(batch=8)


def other(**changes):
    return SHAPE.model_copy(update=changes)


def test_the_blocks_of_a_table_serve_a_deeper_model(table):
    deeper = table.for_shape(other(depth=9))
    block = table.attention(65, False, 0) + table.mlp(65, 0)
    assert deeper.predict(Schedule()) == pytest.approx(table.predict(Schedule()) + 3 * block)
    assert deeper.notes == ["table of 6 blocks, added up for 9"]
    assert table.for_shape(SHAPE) is table


def test_fewer_tokens_are_read_off_the_measured_curve(table):
    short = table.for_shape(other(tokens=33))
    assert short.conditions["tokens"] == 33
    expected = 0.5 * 33 / 65 + 0.1 + 0.002 * 33 + 6 * (table.attention(33, False, 0) + table.mlp(33, 0))
    assert short.predict(Schedule()) == pytest.approx(expected, rel=1e-6)
    schedule = Schedule([Stage(1, 0.5, "value_norm", "fuse")])
    shape = short.shape
    counts = schedule.counts(shape.depth, shape.tokens, shape.protected)
    steps = [(33, counts[0], False), (33, counts[1], False), *((counts[1], counts[1], True) for _ in range(4))]
    blocks = sum(table.attention(n, biased, 0) + table.mlp(m, 0) for n, m, biased in steps)
    stage = table.reduce("value_norm", "fuse", 33, counts[1])
    rest = 0.5 * 33 / 65 + 0.1 + 0.002 * counts[-1]
    assert short.predict(schedule) == pytest.approx(rest + blocks + stage, rel=1e-6)
    assert any("interpolated for 33" in note for note in short.notes)


def test_another_family_of_the_same_blocks_is_served_and_said(table):
    deit = table.for_shape(other(family="deit"))
    assert deit.predict(Schedule()) == table.predict(Schedule())
    assert deit.notes == ["embeddings and head are those of vit, not of deit"]


def test_more_tokens_than_measured_are_refused(table):
    with pytest.raises(PruneSearchError, match="up to 65 tokens, but this model has 66"):
        table.for_shape(other(tokens=66))


@pytest.mark.parametrize(("name", "value"), [("width", 32), ("kind", "bert"), ("activation", "relu"), ("heads", 4)])
def test_other_blocks_are_refused(table, name, value):
    with pytest.raises(PruneSearchError, match=f"{name}={getattr(SHAPE, name)}, but this model's have {name}={value}"):
        table.for_shape(other(**{name: value}))


def test_the_breakdown_adds_up_to_the_prediction(table):
    schedule = Schedule([Stage(1, 0.5, "value_norm", "fuse"), Stage(4, 0.2, "cls_attention", "drop")])
    parts = table.breakdown(schedule.flow(table.geometry))
    assert sum(parts.values()) == table.predict(schedule)
    assert parts["reduce"] > 0
    assert table.breakdown(Schedule().flow(table.geometry))["reduce"] == 0


def test_cells_go_into_flat_rows_and_come_back(table):
    rows = table.cells.rows()
    assert len(rows) == len(table.cells)
    again = Cells.from_rows(json.loads(json.dumps(rows)))
    kept = CostTable(**{**table.model_dump(), "cells": again})
    for schedule in some(unseen_schedules(table, METHODS)):
        assert kept.predict(schedule) == pytest.approx(table.predict(schedule), rel=1e-12)


# -- files -------------------------------------------------------------------------------------------


def test_round_trip_keeps_every_prediction(table, tmp_path):
    schedules = unseen_schedules(table, METHODS)
    before = [table.predict(s) for s in schedules]  # fills the caches, which must not leak into the file
    table.save(tmp_path / "new" / "table.json")
    again = CostTable.load(tmp_path / "new" / "table.json")
    assert [again.predict(s) for s in schedules] == before
    assert again.model_dump() == table.model_dump()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["table.json"]


def test_every_sample_is_kept(table):
    cell = next(c for c in table.cells.mlp if c.n == 33)
    assert cell.samples == len(cell.samples_us) > 100
    assert cell.samples_us[0] == pytest.approx(1e3 * true_ms(("mlp", 33, "")), abs=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object"),
        ("{}", '"format": "prunesearch.cost_table"'),
        ('{"format": "prunesearch.cost_table", "version": 9}', "version 2 or 3, but has 9"),
        ('{"format": "prunesearch.cost_table", "version": 2}', "field `status`: Field required"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, text, message):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(CorruptFileError) as error:
        CostTable.load(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_broken_cell_is_named(table, tmp_path):
    data = json.loads(table.model_dump_json())
    data["cells"]["mlp"][1]["ms"] = "fast"
    (tmp_path / "table.json").write_text(json.dumps(data))
    with pytest.raises(CorruptFileError, match=r"field `cells\.mlp\.1\.ms`"):
        CostTable.load(tmp_path / "table.json")


@pytest.mark.parametrize(
    ("kind", "name"), [("mlp", "n"), ("mlp", "samples"), ("reduce", "n_in"), ("reduce", "n_out"), ("reduce", "samples")]
)
def test_a_count_that_no_float_holds_is_named(table, tmp_path, kind, name):
    data = json.loads(table.model_dump_json())
    data["cells"][kind][0][name] = 10**400
    (tmp_path / "table.json").write_text(json.dumps(data))
    with pytest.raises(CorruptFileError, match=rf"field `cells\.{kind}\.0\.{name}`"):
        CostTable.load(tmp_path / "table.json")


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(PruneSearchError, match="No such file"):
        CostTable.load(tmp_path / "table.json")


def test_a_cell_without_samples_is_no_measurement(table):
    data = json.loads(table.model_dump_json())
    data["cells"]["mlp"][1].update(samples=0, samples_us=[])
    with pytest.raises(ValidationError, match="a measured cell has samples, but mlp has none"):
        CostTable.model_validate(data)
    assert CostTable.model_validate({**data, "status": "estimated"}).predict(Schedule()) == table.predict(Schedule())


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_times_are_finite_and_not_negative(table, value):
    data = json.loads(table.model_dump_json())
    data["cells"]["mlp"][1]["ms"] = value
    with pytest.raises(ValidationError, match="ms"):
        CostTable.model_validate(data)


def test_the_summary_of_an_unvalidated_table_claims_no_error(table):
    summary = table.summary()
    assert math.isnan(summary["mape"])
    assert (summary["status"], summary["schedules"], summary["noisy"]) == ("measured", 0, False)
    assert summary["cells"] == len(table.cells) > 2 * len(COUNTS)


def test_unseen_schedules_lie_within_the_grid_and_mix(table):
    schedules = unseen_schedules(table, METHODS, count=60)
    widths = [n for s in schedules for n in s.counts(SHAPE.depth, SHAPE.tokens, SHAPE.protected) if n < SHAPE.tokens]
    assert min(widths) >= min(COUNTS)
    assert set(widths) - set(COUNTS)
    assert {len(s) for s in schedules} == {1, 2, 3, 4}
    assert {stage.method for s in schedules for stage in s} == set(METHODS)
    assert any(len({x.method for x in s}) > 1 for s in schedules)
    for a, b in some(itertools.pairwise(unseen_schedules(table, METHODS, count=3, seed=4))):
        assert a != b
