"""Final bounds, who stands, and whether a winner's curse is seen where there is one, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunesearch.core.budget import Budget
from prunesearch.core.constraint import Constraint
from prunesearch.search.finish.candidates import (
    Bounds,
    blind_note,
    hypervolume,
    selection,
    selection_note,
    senseless_note,
    sensible,
    standing,
)
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.study.front_items import CostAmount
from prunesearch.tasks.kinds.classification import Classification
from tests.search.finish.test_verdict import UNPRUNED, point
from tests.support.synthetic_front import latency

POINTS = [point("p1", 16.0, 0.8), point("p2", 10.0, 0.79), point("p3", 5.0, 0.7)]


def judged(metric: str, kind: str = "text-classification") -> Classification:
    return Classification(kind, torch.nn.Identity(), {}, 1, lambda rows: {}, metric=metric)


def bounds(budget=None, *constraints):
    parsed = None if budget is None else Budget.parse(budget)
    return Bounds(parsed, [Constraint.parse(text) for text in constraints], UNPRUNED, "latency")


@pytest.mark.parametrize(
    ("budget", "constraints", "kept"),
    [
        (None, [], ["p1", "p2", "p3"]),
        ("10ms", [], ["p2", "p3"]),
        ("2x", [], ["p2", "p3"]),
        ("30%", [], ["p3"]),
        (None, ["quality >= 0.98*unpruned"], ["p1", "p2"]),
        (None, ["quality >= 0.8"], ["p1"]),
        (None, ["agreement >= 0.91"], []),
        ("12ms", ["quality >= 0.75", "latency <= 12ms"], ["p2"]),
        (None, ["latency <= 50%"], ["p2", "p3"]),
        (None, ["macs <= 0.4GMACs"], []),
    ],
)
def test_final_bounds(budget, constraints, kept):
    assert [p.id for p in bounds(budget, *constraints).inside(POINTS)] == kept


def test_what_broke_a_constraint_is_counted_with_what_it_came_to():
    (found,) = bounds(None, "quality >= 0.98*unpruned").constraint_infos(POINTS)
    assert (found.limit, found.broken) == (pytest.approx(0.784), 1)


def test_less_than_no_answer_is_no_point():
    babbling = point("p4", 2.0, -9.8)
    assert sensible([*POINTS, babbling], UNPRUNED) == POINTS
    assert "word_accuracy below 0 is worse than no answer at all: 1 of" in (senseless_note(1, "word_accuracy") or "")
    assert senseless_note(0, "word_accuracy") is None
    quality = UNPRUNED.quality.model_copy(update={"value": -0.5})
    hopeless = UNPRUNED.model_copy(update={"qualities": {next(iter(UNPRUNED.qualities)): quality}})
    assert [p.id for p in sensible([point("p5", 3.0, -0.4), babbling], hopeless)] == ["p5"]


def test_a_bound_in_ms_holds_under_every_load():
    loads = [{"latency": CostAmount.model_validate(latency(ms))} for ms in (4.0, 11.0)]
    both = POINTS[2].model_copy(update={"loads": loads})
    unpruned = UNPRUNED.model_copy(
        update={"loads": [{"latency": CostAmount.model_validate(latency(ms))} for ms in (20.0, 40.0)]}
    )
    found = Bounds(Budget.parse("10ms"), [], unpruned, "latency")
    assert found.budget_info().each
    assert found.inside([both]) == []
    share = Bounds(Budget.parse("50%"), [], unpruned, "latency")
    assert not share.budget_info().each
    assert share.inside([both]) == [both]


def with_memory(item, mib):
    return item.model_copy(update={"costs": {**item.costs, "memory": CostAmount(predicted=mib)}})


def test_what_is_promised_stands_though_it_is_dominated():
    better = point("p4", 9.0, 0.8)
    assert [p.latency.value for p in standing([POINTS[1], better], UNPRUNED, ["latency"])] == [9.0]
    found = standing([POINTS[1], better], UNPRUNED, ["latency"], keep=POINTS[1])
    assert [p.latency.value for p in found] == [10.0, 9.0]


def test_who_stands_by_all_objectives():
    slower = point("p4", 11.0, 0.79)
    assert [p.latency.value for p in standing([*POINTS, slower], UNPRUNED, ["latency"])] == [16.0, 10.0, 5.0]
    smaller = with_memory(slower, 1.0)
    large, whole = [with_memory(p, 2.0) for p in POINTS], with_memory(UNPRUNED, 3.0)
    found = standing([*large, smaller], whole, ["latency", "memory"])
    assert [(p.id, p.latency.value) for p in found] == [("p1", 16.0), ("p2", 11.0), ("p3", 10.0), ("p4", 5.0)]


def test_where_quality_is_blind_the_divergence_ranks():
    kls = (0.1, 0.3, 0.2)  # of the points at 16, 10 and 5 ms
    seen = [
        p.model_copy(update={"qualities": UNPRUNED.qualities, "fidelity": p.fidelity.model_copy(update={"kl": kl})})
        for p, kl in zip(POINTS, kls, strict=True)
    ]
    assert [p.latency.value for p in standing(seen, UNPRUNED, ["latency"])] == [5.0]
    assert [p.latency.value for p in standing(seen, UNPRUNED, ["latency"], blind=True)] == [16.0, 5.0]


def test_the_hypervolume_is_the_area_summed_by_hand():
    """Shares 0.8, 0.5 and 0.25, all with a divergence of 0.1: 0.75 x 0.4."""
    found = hypervolume(POINTS, UNPRUNED, "latency")
    assert found.value == pytest.approx(0.3)
    assert hypervolume([], UNPRUNED, "latency").value == 0.0


def draw(rng, rows, quality):
    right = torch.from_numpy(rng.random(rows) < quality)
    return Evaluation(right[:, None].float(), torch.zeros(rows), right)


def search(rng, tried, chosen=6, rows=200):
    """Schedules that are all alike are tried on few rows; those that look best are chosen."""
    found = sorted((float(draw(rng, rows, 0.7).quality) for _ in range(tried)), reverse=True)[:chosen]
    holdout = [draw(rng, 2000, 0.7) for _ in found]
    return selection(found, 0.7, rows, holdout, draw(rng, 2000, 0.7))


def test_a_winners_curse_is_seen_and_its_absence_too():
    rng = np.random.default_rng(0)
    honest = [search(rng, tried=6).p_value < 0.05 for _ in range(200)]
    cursed = [search(rng, tried=300).p_value < 0.05 for _ in range(50)]
    assert np.mean(honest) < 0.1
    assert np.mean(cursed) > 0.8


def test_the_note_says_by_how_much():
    rng = np.random.default_rng(1)
    found = search(rng, tried=300)
    note = selection_note(found, "accuracy")
    assert f"{100 * (found.calibration - found.holdout):.2f} points of accuracy better" in note
    assert "held-out rows" in note
    assert selection_note(found.model_copy(update={"p_value": 0.2}), "accuracy") is None
    assert selection_note(None, "accuracy") is None


def test_candidates_that_change_nothing_are_no_curse():
    right = torch.ones(50, dtype=torch.bool)
    same = Evaluation(right[:, None].float(), torch.zeros(50), right)
    assert selection([0.8, 0.8], 0.8, 100, [same, same], same).p_value == 1.0
    assert selection([], 0.8, 100, [], same) is None


@pytest.mark.parametrize(
    ("right", "labels", "said"),
    [
        ([0, 0, 0, 0], [0, 1, 2, 3], "has 0.0 % of accuracy here, and the same answer for every row has 25.0 %"),
        ([1, 1, 0, 0], [0, 0, 1, 2], "has 50.0 % of accuracy here, and the same answer for every row has 50.0 %"),
        # a constant answer within 5 % of the model's, as on the keyword transformer's test set
        (
            [1] * 40,
            [0] * 39 + [1],
            "has 97.5 %: that cannot tell schedules apart, and the front is of",
        ),
        ([1, 1, 1, 0], [0, 0, 1, 2], None),
    ],
)
def test_a_model_that_is_no_better_than_one_class_is_told(right: list[int], labels: list[int], said: str | None):
    n = len(right)
    found = Evaluation(torch.tensor(right)[:, None].float(), torch.zeros(n), torch.ones(n, dtype=torch.bool))
    note = blind_note(judged("accuracy"), found, torch.tensor(labels))
    assert (note is None) if said is None else (said in note)
    if n == 40:
        assert note.endswith("take --metric f1 or mcc")
        assert judged("accuracy").telling(torch.tensor([0] * 90 + [1] * 5 + [2] * 5)) == ["macro_f1", "mcc"]


def test_any_metric_of_nothing_is_told():
    none = Evaluation(torch.zeros(3, 1), torch.zeros(3), torch.ones(3, dtype=torch.bool))
    task = judged("exact_match", "question-answering")
    none_right = "has 0.0 % of exact_match here, and the same answer for every row has 0.0 %: that cannot"
    assert none_right in blind_note(task, none, [["x"], ["y"], ["z"]])
    # sums of qualities that round are no difference
    assert selection([0.1 + 0.2], 0.3, 3, [none], none).p_value == 1.0
