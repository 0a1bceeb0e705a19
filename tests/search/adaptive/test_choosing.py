"""Thresholds between plans, against all of them tried by hand; early states against a whole forward's; rows alone."""

from __future__ import annotations

import itertools

import pytest
import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.export.by_row.row_rule import SURENESS, EarlyStates, sent_to
from prunesearch.export.by_row.serving import Server, keep_guesses, kept_guesses, time_forwards
from prunesearch.search.adaptive.adapting import AdaptSettings, mean_by_plan
from prunesearch.search.adaptive.choosing import RowRule, border, cheapest, learnt_guess, mixed_answers
from prunesearch.search.adaptive.row_answers import answers_of
from prunesearch.search.trials.evaluate import Evaluation, Evaluator

FAST, FASTER = Plan(Schedule([Stage(1, 0.4)])), Plan(Schedule([Stage(0, 0.2)]))


def evaluation(right: list[int]) -> Evaluation:
    rows = torch.tensor(right, dtype=torch.float32)
    return Evaluation(rows[:, None], torch.zeros(len(rows)), rows.bool())


def by_hand(sure: list[list[float]], threshold: float) -> list[int]:
    return [next((i for i, value in enumerate(row) if value >= threshold), len(row)) for row in sure]


def test_the_border_sends_as_few_rows_as_keep_enough() -> None:
    fast, slow = evaluation([0, 0, 1, 1, 0, 1, 1, 1, 1, 1]), evaluation([1] * 9 + [0])
    scores = torch.arange(10)[:, None] / 10
    found = border([fast, slow], scores, 0.9)
    assert found is not None
    threshold, places, quality = found
    tried = [(k, sum(([1] * 10)[:k] + fast.statistics[k:, 0].int().tolist()) / 10) for k in range(10)]
    least = next(k for k, value in tried if value >= 0.9)
    assert (int(places.sum()), quality) == (least, pytest.approx(0.9))
    assert int((scores < threshold).sum()) == least == 2
    assert border([fast, evaluation([0] * 10)], scores, 0.9) is None
    assert mixed_answers([fast, slow], places).statistics[:, 0].int().tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1, 1]


def test_rows_go_to_the_first_plan_that_is_sure_enough() -> None:
    torch.manual_seed(1)
    sure = torch.rand(40, 3)
    for threshold in (0.0, 0.4, 0.9, 1.1):
        assert sent_to(sure, threshold).tolist() == by_hand(sure.tolist(), threshold)


def test_the_cheapest_of_all_that_keep_enough_is_what_trying_them_one_by_one_finds() -> None:
    generator = torch.Generator().manual_seed(3)
    names, costs = ("a", "b", "c"), {"a": 1.0, "b": 3.0, "c": 10.0}
    right = {name: torch.rand(60, generator=generator) < p for name, p in zip(names, (0.6, 0.8, 0.95), strict=True)}
    evaluations = {name: evaluation(found.int().tolist()) for name, found in right.items()}
    sets = [some for size in (2, 3) for some in itertools.combinations(names, size)]
    sureness = {(some, "x"): torch.rand(60, len(some) - 1, generator=generator) for some in sets}
    for runs_all in (False, True):
        found = cheapest(evaluations, sureness, costs, 0.85, runs_all=runs_all, before=0.5)
        assert found is not None
        tried = []
        for (some, _), sure in sureness.items():
            ordered = sorted(sure.flatten().tolist())
            for cut in range(101):
                place = round(cut / 100 * len(ordered))
                threshold = ordered[place] if place < len(ordered) else 2.0
                places = by_hand(sure.tolist(), threshold)
                quality = sum(bool(right[some[place]][row]) for row, place in enumerate(places)) / 60
                runs = [some[: place + 1] if runs_all else [some[place]] for place in places]
                cost = 0.5 + sum(costs[name] for row in runs for name in row) / 60
                if quality >= 0.85 - 1e-9:
                    tried.append((cost, some))
        assert (found.cost, found.plans) == (pytest.approx(min(tried)[0]), min(tried)[1])
        assert sum(found.shares) == pytest.approx(1.0)
    assert cheapest(evaluations, {}, costs, 0.85, runs_all=True) is None


def test_batches_by_plan_take_what_each_row_takes() -> None:
    places, means = [0, 0, 1, 2, 2, 2], {"a": 1.0, "b": 3.0, "c": 10.0, "block": 0.25}
    chosen = RowRule(("a", "b", "c"), "block", 0.5, (1.0, 0.0, 0.0), 1.0, 1.0)
    shares = [places.count(place) / 6 for place in range(3)]
    routed = sum(0.25 + means["abc"[place]] for place in places) / 6
    in_turn = sum(sum(means[name] for name in "abc"[: place + 1]) for place in places) / 6
    assert mean_by_plan("router", chosen, shares, means) == pytest.approx(routed)
    assert mean_by_plan("cascade", chosen, shares, means) == pytest.approx(in_turn)


def test_how_sure_an_answer_is() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [2.0, 1.0, -1.0], [9.0, 0.0, 0.0]])
    shares = logits.softmax(dim=-1)
    assert torch.allclose(SURENESS["probability"](logits), shares.amax(dim=-1))
    assert torch.allclose(SURENESS["margin"](logits)[1], shares[1, 0] - shares[1, 1])
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    assert torch.allclose(SURENESS["entropy"](logits), -entropy, atol=1e-5)
    for sure_of in SURENESS.values():
        assert (sure_of(logits).diff() > 0).all()


def test_a_guess_learns_what_states_say_where_nothing_else_is_trained() -> None:
    torch.manual_seed(0)
    with torch.inference_mode():  # as where it is used
        states = torch.randn(400, 6) * 3 + 1
        same = states[:, 2] > 1
        guess = learnt_guess(states[::2], same[::2])
        assert ((guess(states[1::2]) > 0.5) == same[1::2]).float().mean() > 0.95


def test_a_guess_is_not_surer_than_few_rows_make_it() -> None:
    torch.manual_seed(0)
    states = torch.randn(1200, 200)
    same = torch.rand(1200) < 0.7 + 0.2 * (states[:, 0] > 0)  # the other 199 say nothing
    sure = learnt_guess(states[:200], same[:200])(states[200:])
    told = torch.nn.functional.binary_cross_entropy(sure, same[200:].float())
    knows_nothing = torch.nn.functional.binary_cross_entropy(same[:200].float().mean().expand(1000), same[200:].float())
    assert told < 1.05 * knows_nothing  # with the smallest ridge it is 1.66 times as much


def test_early_states_are_those_of_a_whole_forward(vit_task, handle) -> None:
    inputs = vit_task.timing_inputs(3)
    with torch.no_grad():
        early = EarlyStates(vit_task.model, handle, 1)(inputs)
        hidden = vit_task.model(**inputs, output_hidden_states=True).hidden_states[2].float()
    assert torch.equal(early, torch.cat([hidden[:, 0], hidden.mean(dim=1)], dim=1))
    with pytest.raises(PruneSearchError, match="must hold for a router"):
        EarlyStates(vit_task.model, handle, handle.encoder.depth - 1)


def test_answers_are_the_evaluators_and_serving_gives_each_row_its_plans_logits(vit_task, handle, tmp_path) -> None:
    plans = {"unpruned": Plan(), "fast": FAST, "faster": FASTER}
    early = EarlyStates(vit_task.model, handle, 0)
    answers, states = answers_of(vit_task, handle, plans, vit_task.holdout, early)
    assert len(states) == 12
    want = Evaluator(vit_task, handle, vit_task.holdout).evaluate(FAST)
    assert answers["fast"].evaluation.quality == want.quality
    assert answers["fast"].evaluation.loss == pytest.approx(want.loss)
    server, inputs = Server(vit_task.model, handle), vit_task.holdout.batches.pick(list(range(8)), {})[0].inputs
    rows = [{name: value[i : i + 1] for name, value in inputs.items()} for i in range(8)]
    chain = [FASTER, FAST, Plan()]
    with torch.inference_mode():
        alone = [[server.static(plan)(row)[0] for plan in chain] for row in rows]
        sure = [[float(logits.softmax(dim=-1).max()) for logits in row[:-1]] for row in alone]
        middle = sorted(s for row in sure for s in row)[8] + 1e-6
        places = by_hand(sure, middle)
        assert len(set(places)) > 1
        cascade, taken = server.cascade(chain, "probability", middle)(inputs)
        assert taken.tolist() == places
        wanted = torch.stack([row[place] for row, place in zip(alone, places, strict=True)])
        assert torch.allclose(cascade, wanted, atol=1e-5)
        assert torch.equal(server.cascade(chain, "probability", 0.0)(inputs)[0], server.static(FASTER)(inputs))
        guesses = [learnt_guess(states, torch.tensor(same * 4)) for same in ([True, False, False], [True, True, False])]
        said = [[float(guess(early(row))) for guess in guesses] for row in rows]
        middle = sorted(s for row in said for s in row)[10] + 1e-6
        places = by_hand(said, middle)
        assert len(set(places)) > 1
        router = server.router(chain, kept_guesses(tmp_path, keep_guesses(tmp_path, guesses)), middle, 0)
        assert router.decide(inputs).tolist() == places
        routed, taken = router(inputs)
        assert taken.tolist() == places
        wanted = torch.stack([row[place] for row, place in zip(alone, places, strict=True)])
        assert torch.allclose(routed, wanted, atol=1e-5)
    times = time_forwards({"a": server.static(Plan()), "b": server.static(FAST)}, [inputs, inputs], 0)
    assert {name: len(ms) for name, ms in times.items()} == {"a": 2, "b": 2}
    assert min(ms for found in times.values() for ms in found) > 0


def test_settings_that_cannot_be_are_refused() -> None:
    for settings, why in (
        ({"keep": 1.5}, "keep <= 1"),
        ({"rows": 3}, "rows >= 64"),
        ({"batch_sizes": (0,)}, "at least 1"),
        ({"batches": 3}, "10 <= batches"),
    ):
        with pytest.raises(PruneSearchError, match=why):
            AdaptSettings(**settings)
