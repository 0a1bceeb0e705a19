"""Memory and multiply-adds as costs: against whole forwards and the closed form, which are their outside judges."""

from __future__ import annotations

import random

import pytest
import torch

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage, parse_method
from prunesearch.cost.counting.flops import MacCosts, closed_form_gmacs
from prunesearch.cost.counting.memory import peak_activation_mib
from prunesearch.cost.counting.memory_costs import MemoryCosts
from prunesearch.cost.shape import describe_shape
from prunesearch.pruning.apply import apply_
from tests.support.small_models import CASES, build, inputs_of
from tests.support.some import some

METHODS = ["cls_attention+fuse", "value_norm+drop", "value_norm+nearest", "attention_received+soft", "random+bipartite"]
MODELS = [name for name in ("vit", "deit", "dinov2", "bert", "roberta", "distilbert") if name in CASES]


def random_schedules(shape, count=6):
    rng = random.Random(0)
    yield Schedule()
    for _ in range(count):
        layers = sorted(rng.sample(range(shape.depth), rng.randint(1, min(3, shape.depth))))
        counts = sorted(rng.sample(range(shape.protected + 1, shape.tokens), len(layers)), reverse=True)
        keeps = [(n - shape.protected) / (shape.tokens - shape.protected) for n in counts]
        yield Schedule(
            Stage(layer, keep, *parse_method(rng.choice(METHODS))) for layer, keep in zip(layers, keeps, strict=True)
        )


@pytest.fixture(params=[*((name, None) for name in MODELS), ("vit", "eager")], ids=str)
def model(request):
    name, attention = request.param
    made = build(name, attention)
    inputs = {key: value for key, value in inputs_of(name, (14, 14)).items() if key != "attention_mask"}
    with apply_(made, Schedule()) as handle:
        shape = describe_shape(made, handle, {key: value[:1] for key, value in inputs.items()})
        yield made, handle, inputs, shape


def test_the_peak_is_that_of_a_whole_forward(model):
    made, handle, inputs, shape = model
    costs = MemoryCosts(made, handle, inputs, shape.tokens)
    for schedule in some(random_schedules(shape)):
        predicted = costs.predict(schedule)
        assert handle.schedule == Schedule()
        handle.set(schedule)
        assert predicted == peak_activation_mib(made, inputs).value_mib, schedule
        handle.set(Schedule())


def test_what_is_solved_for_is_never_more_than_the_peak(model):
    made, handle, inputs, shape = model
    costs = MemoryCosts(made, handle, inputs, shape.tokens)
    for schedule in some(random_schedules(shape)):
        counts = schedule.counts(shape.depth, shape.tokens, shape.protected)
        assert costs.stem + sum(costs.mlp(n, 0) for n in counts) <= costs.predict(schedule) * (1 + 1e-9)


def test_a_mask_of_ones_is_no_part_of_it():
    made = build("bert")
    inputs = inputs_of("bert", (14, 14))
    with apply_(made, Schedule()) as handle:
        masked = MemoryCosts(made, handle, inputs, 14).predict(Schedule())
        bare = {key: value for key, value in inputs.items() if key != "attention_mask"}
        assert masked == MemoryCosts(made, handle, bare, 14).predict(Schedule())


def test_macs_are_the_closed_form_exactly_and_add_up(model):
    _, handle, _, shape = model
    costs = MacCosts.of(handle.encoder, shape.tokens)
    for schedule in some(random_schedules(shape)):
        assert costs.predict(schedule) == closed_form_gmacs(handle.encoder, schedule, shape.tokens)
        n, total = shape.tokens, costs.stem
        for n_out in schedule.counts(shape.depth, shape.tokens, shape.protected):
            total += costs.attention(n, False, 0) + costs.reduce("value_norm", "drop", n, n_out) + costs.mlp(n_out, 0)
            n = n_out
        assert total + costs.head(n) == pytest.approx(costs.predict(schedule), rel=1e-12)


def test_the_front_that_is_solved_for_by_the_mean_holds_the_best_of_every_peak():
    """All one- and two-stage schedules of a small space, priced one by one."""
    from prunesearch.core.pareto import hypervolume_2d
    from prunesearch.search.solve.losses import Sensitivities
    from prunesearch.search.solve.solver import solve
    from prunesearch.search.space.space import Space, SpaceFile

    made, inputs = build("vit"), inputs_of("vit", (14, 14))
    with apply_(made, Schedule()) as handle:
        shape = describe_shape(made, handle, {key: value[:1] for key, value in inputs.items()})
        file = SpaceFile.model_validate(
            {
                "format": "prunesearch.space", "version": 1, "keep": [0.8, 0.6, 0.4, 0.2], "scorers": ["value_norm"],
                "merges": ["drop", "nearest"], "max_stages": 2,
            }
        )  # fmt: skip
        space = Space(file, shape.depth, shape.tokens, shape.protected)
        free = Sensitivities.free(space)
        rng = torch.Generator().manual_seed(0)
        loss = torch.rand(free.loss.shape, generator=rng, dtype=torch.float64).numpy()
        loss[:, 0] = 0.0
        losses = free.with_loss(loss.cumsum(axis=1))
        costs = MemoryCosts(made, handle, inputs, shape.tokens)
        every = [
            Schedule([space.stage(a, g, m), *([space.stage(b, h, k)] if h > g else [])])
            for a in space.layers for b in space.layers if b > a
            for g in range(1, len(space.keeps)) for h in range(len(space.keeps))
            for m in space.methods for k in space.methods
        ]  # fmt: skip
        whole = costs.predict(Schedule())
        best = [(costs.predict(s) / whole, losses.estimate(s)) for s in every]
        found = [(s.cost / whole, s.loss) for s in solve(space, losses, costs, whole, 1000)]
    reference = (1.0, 5.0)
    assert hypervolume_2d(found, reference) >= 0.98 * hypervolume_2d(best, reference)
