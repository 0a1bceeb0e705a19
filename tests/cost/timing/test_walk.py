import itertools
import json
import math
import statistics
from collections import Counter

import numpy as np
import pytest
import torch

from prunesearch.core.appended import Appended
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.devices.kind import DeviceKind, Ready
from prunesearch.cost.devices.machine import usable_cores
from prunesearch.cost.measure import measure_table
from prunesearch.cost.shape import describe_shape
from prunesearch.cost.timing.build import build_table, spans
from prunesearch.cost.timing.loop import Sitting
from prunesearch.cost.timing.modes import Eager
from prunesearch.cost.timing.unseen import at_most, compare, unseen_schedules
from prunesearch.cost.timing.validate import measure_schedules
from prunesearch.cost.timing.walk import Walker, piece_names, plan_walks, take_walks
from prunesearch.cost.timing.walked_table import make_ready
from prunesearch.pruning.apply import apply_, handle_of
from prunesearch.pruning.borders import borrowed
from tests.support.known_machine import COUNTS, METHODS, SHAPE
from tests.support.some import some

WIDTHS = [5, 9, 13]  # of 17 tokens


class CountingClock:
    """Mark k comes at k squared milliseconds, so that each interval tells which one it is."""

    def __init__(self):
        self.count = -1

    def mark(self):
        self.count += 1
        return self.count**2

    def between_ms(self, marks):
        return [float(b - a) for a, b in itertools.pairwise(marks)]


def test_the_pieces_of_a_forward_are_named_in_order():
    schedule = Schedule([Stage(0, 0.5, "cls_attention", "drop"), Stage(1, 0.25, "value_norm", "fuse")])
    shape = SHAPE.model_copy(update={"depth": 3, "tokens": 17, "variants": ("", "window9/glu48", "/glu48")})
    assert piece_names(schedule.flow(shape.geometry), shape) == [
        ("stem",),
        ("attention", 17, False, ""), ("reduce", "cls_attention", "drop", 17, 9), ("mlp", 9, ""),
        ("attention", 9, False, "window9"), ("reduce", "value_norm", "fuse", 9, 5), ("mlp", 5, "glu48"),
        ("attention", 5, True, ""), ("reduce",), ("mlp", 5, "glu48"),
        ("head", 5),
    ]  # fmt: skip


def test_a_walk_is_cut_at_the_borders_and_adds_up_to_the_forward(tiny, batch):
    clock = CountingClock()
    with borrowed(tiny) as handle, torch.inference_mode():
        walker = Walker(Eager(tiny, handle, batch), describe_shape(tiny, handle, batch), clock)
        with walker.marking():
            steps = walker.walk(Schedule([Stage(1, 0.5, "cls_attention", "drop")]))
    assert clock.count == 13  # start, four a block, end
    assert sum(ms for _, ms in steps) == 13**2
    gaps = [2 * k + 1 for k in range(13)]
    # what lies between two blocks goes to the attention after it
    assert [ms for _, ms in steps] == [
        gaps[0], gaps[1], gaps[2], gaps[3], gaps[4] + gaps[5], gaps[6], gaps[7], gaps[8] + gaps[9], gaps[10], gaps[11],
        gaps[12],
    ]  # fmt: skip
    assert steps[5][0] == ("reduce", "cls_attention", "drop", 17, 9)


def test_marks_do_not_change_the_outputs_and_leave_no_trace(tiny, batch):
    schedule = Schedule([Stage(0, 0.5, "value_norm", "fuse")])
    with torch.no_grad():
        untouched = tiny(**batch).logits
        with apply_(tiny, schedule):
            expected = tiny(**batch).logits
        with borrowed(tiny) as handle:
            walker = Walker(Eager(tiny, handle, batch), describe_shape(tiny, handle, batch), CountingClock())
            encoder = handle.encoder
            with walker.marking():
                handle.set(schedule)
                assert torch.equal(tiny(**batch).logits, expected)
            assert handle.encoder is encoder
        assert torch.equal(tiny(**batch).logits, untouched)
    assert handle_of(tiny) is None


def test_a_model_that_carries_a_schedule_keeps_it_and_its_trace(tiny, batch):
    schedule = Schedule([Stage(0, 0.5, "value_norm", "fuse")])
    with apply_(tiny, schedule, trace=True) as handle:
        trace = handle.trace
        with borrowed(tiny) as same:
            assert same is handle
            assert handle.trace is None
            same.set(Schedule())
        assert handle.schedule == schedule
        assert handle.trace is trace


def test_walks_visit_every_piece_about_as_often():
    seen, layers = Counter(), Counter()
    for schedule in itertools.islice(plan_walks(6, 65, 1, COUNTS, METHODS, 0), 600):
        seen.update(piece_names(schedule.flow(SHAPE.geometry), SHAPE))
        layers.update(stage.layer for stage in schedule)
    for n in COUNTS:
        assert min(seen["attention", n, False, ""], seen["attention", n, True, ""], seen["mlp", n, ""]) > 100
    assert all(layers[layer] > 40 for layer in range(6))
    merges = Counter({m: sum(c for p, c in seen.items() if len(p) == 5 and p[2] == m) for m in ("drop", "bipartite")})
    assert merges["bipartite"] > 100
    pairs = {(p[3], p[4]) for p in seen if len(p) == 5}
    assert pairs == {(a, b) for a in (*COUNTS, 65) for b in COUNTS if b < a}


def test_methods_that_all_merge_need_no_attention_without_sizes_at_reduced_widths():
    names = set()
    for schedule in itertools.islice(plan_walks(6, 65, 1, COUNTS, ["bipartite"], 0), 200):
        names.update(piece_names(schedule.flow(SHAPE.geometry), SHAPE))
    assert not any(p[0] == "attention" and not p[2] and p[1] < 65 for p in names)


def test_walking_stops_when_there_is_enough(tiny, batch):
    """Each walk takes a second of a made-up time; a twentieth of the budget lies between two looks."""
    seconds, looked = itertools.count(), []

    def enough(walks):
        looked.append(len(walks.steps))
        return len(walks.steps) >= 20

    with borrowed(tiny) as handle:
        walker = Walker(Eager(tiny, handle, batch), describe_shape(tiny, handle, batch), CountingClock())
        plan = plan_walks(3, 17, 1, WIDTHS, METHODS, 0)
        walks = take_walks(
            walker, plan, time_budget_s=60, min_walks=10, enough=enough, sitting=Sitting(now=lambda: next(seconds))
        )
    assert looked == [10, 13, 16, 19, 22]
    assert len(walks.steps) == 22
    assert walks.noise is not None


def test_walking_goes_on_past_its_time_while_the_error_is_not_what_was_promised_and_ends_all_the_same(tiny, batch):
    """Each walk takes a second of a made-up time; it is looked at again after a quarter more, up to four budgets."""

    def walked(go_on):
        seconds, looked = itertools.count(), []
        with borrowed(tiny) as handle:
            walker = Walker(Eager(tiny, handle, batch), describe_shape(tiny, handle, batch), CountingClock())

            def look(walks):
                looked.append(len(walks.steps))
                return go_on(len(walks.steps))

            walks = take_walks(
                walker, plan_walks(3, 17, 1, WIDTHS, METHODS, 0), time_budget_s=40, min_walks=1,
                enough=lambda walks: False, go_on=look, sitting=Sitting(now=lambda: next(seconds)),
            )  # fmt: skip
        return len(walks.steps), looked

    assert walked(lambda walks: False) == (41, [41])
    assert walked(lambda walks: walks < 90) == (103, [41, 52, 65, 82, 103])
    assert walked(lambda walks: True) == (162, [41, 52, 65, 82, 103, 129])


def test_walking_goes_on_while_something_is_lacking(tiny, batch):
    with borrowed(tiny) as handle:
        shape = describe_shape(tiny, handle, batch)
        walker = Walker(Eager(tiny, handle, batch), shape, CountingClock())
        plan = plan_walks(3, 17, 1, WIDTHS, METHODS, 0)
        walks = take_walks(
            walker, plan, time_budget_s=0.0, min_walks=2, enough=lambda walks: True,
            lacking=lambda walks: not spans(walks, shape, WIDTHS, METHODS),
        )  # fmt: skip
    assert spans(walks, shape, WIDTHS, METHODS)
    assert len(walks.steps) <= 40


def test_a_table_of_slow_forwards_is_checked_on_fewer_schedules(tiny, batch):
    class Slow(CountingClock):
        """Whatever takes place between two marks takes two seconds."""

        def between_ms(self, marks):
            return [2000.0 + k for k, _ in enumerate(itertools.pairwise(marks))]

    slow = measure_table(tiny, batch, counts=WIDTHS, methods=METHODS, time_budget_s=0.5, clock=Slow(), min_rounds=1)
    assert slow.validation.unseen == 12
    longer = measure_table(
        tiny, batch, counts=WIDTHS, methods=METHODS, time_budget_s=0.5, clock=CountingClock(), unseen=5
    )
    assert longer.validation.unseen == 5


class Interrupting:
    """Every interval takes a millisecond; at one of the marks the process ends."""

    def __init__(self, marks=10**9):
        self.left = marks

    def mark(self):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.left

    def between_ms(self, marks):
        return [1.0 for _ in itertools.pairwise(marks)]


def test_a_table_that_is_interrupted_again_and_again_ends_as_if_it_had_not_been(tiny, batch, tmp_path):
    """Each process gets a few walks far; together they time what one would have timed, walks and whole forwards."""
    keep = tmp_path / "table.part"

    def measured(marks):
        return measure_table(
            tiny, batch, counts=WIDTHS, methods=METHODS, time_budget_s=0.0, clock=Interrupting(marks), unseen=4,
            min_rounds=4, keep=keep,
        )  # fmt: skip

    def noted(word):
        return [rest for first, *rest in Appended(keep, conditions).found if first == word]

    sittings, table = 0, None
    while table is None:
        try:
            table = measured(150)
        except KeyboardInterrupt:
            sittings += 1
            assert sittings < 30
    assert sittings > 2
    conditions = json.loads(keep.read_text().partition("\n")[0])["conditions"]
    walked, whole = noted("walk"), noted("whole")
    keep.unlink()
    undisturbed = measured(10**9)
    n = len(noted("walk"))
    assert len(walked) - n in (0, 1)  # the last process walks at least once
    assert sorted(place for place, _ in walked) == sorted({place for place, _ in walked})
    assert [schedule for schedule, *_ in whole[:n]] == [schedule for schedule, *_ in noted("whole")]
    assert table.validation.schedules == undisturbed.validation.schedules
    rounds = [len(s) for s in table.validation.samples_us]
    assert max(rounds) - min(rounds) <= 1
    assert table.predict(Schedule()) == pytest.approx(undisturbed.predict(Schedule()), rel=0.05)  # of other walks


def test_timings_of_another_table_do_not_count(tiny, batch, tmp_path):
    keep = tmp_path / "table.part"
    settings = {"methods": METHODS, "time_budget_s": 0.0, "unseen": 3, "min_rounds": 2, "keep": keep}
    with pytest.raises(KeyboardInterrupt):
        measure_table(tiny, batch, counts=WIDTHS, clock=Interrupting(100), **settings)
    assert keep.exists()
    table = measure_table(tiny, batch, counts=WIDTHS[:2], clock=CountingClock(), **settings)
    assert {cell.n for cell in table.cells.mlp} == {*WIDTHS[:2], 17}
    assert min(min(cell.samples_us) for cell in table.cells.mlp) > 1000.0  # none of those of a millisecond


def test_who_was_interrupted_while_it_waited_waits_half_as_long(tmp_path):
    waited = []

    class Busy(DeviceKind):
        name = "busy"

        def make_ready(self, run, device, patience_s):
            waited.append(patience_s)
            if len(waited) < 4:
                raise KeyboardInterrupt
            return Ready(patience_s)

    def sitting():
        return Sitting(Appended(tmp_path / "table.part"))

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            make_ready(Busy(), print, torch.device("cpu"), 8.0, sitting())
    with sitting() as last:
        assert make_ready(Busy(), print, torch.device("cpu"), 8.0, last).waited_s == 1.0
    make_ready(Busy(), print, torch.device("cpu"), 8.0, sitting())
    assert waited == [8.0, 4.0, 2.0, 1.0, 1.0]


def test_a_table_stops_before_its_time_by_other_schedules_than_its_error_is_of(tiny, batch):
    """Stages take no time here, and all else a millisecond, so that the table foretells well: one look is enough."""

    class Even(CountingClock):
        """A forward of three blocks has 13 pieces, 3 of which are where a stage would be."""

        def between_ms(self, marks):
            return [float(k % 4 != 2) for k in range(len(marks) - 1)] if len(marks) > 2 else [10.0]

    wanted = {"counts": WIDTHS, "methods": METHODS, "unseen": 9, "clock": Even(), "min_rounds": 2}
    early = measure_table(tiny, batch, **wanted, time_budget_s=60, error=0.5)
    assert early.validation.unseen == 9
    assert early.walks == 2 * (1 + 9 + 3)  # at least: of the unpruned model, and of those judged by and watched


def test_the_bound_of_a_mean_error_is_students():
    errors = np.array([0.01, 0.02, 0.03, 0.02])
    assert at_most(errors) == pytest.approx(0.02 + 2.3534 * errors.std(ddof=1) / 2, rel=1e-4)
    assert at_most(errors[:2]) == math.inf


@pytest.fixture(scope="module")
def built(tiny, batch):
    return build_table(tiny, batch, counts=[17, *WIDTHS], methods=METHODS, time_budget_s=0.5, min_walks=60)


def test_a_built_table_covers_the_grid_and_predicts(built, tiny):
    assert built.shape.model_dump() == {
        "family": "vit", "kind": "vit", "depth": 3, "tokens": 17, "protected": 1, "width": 16, "heads": 2,
        "mlp_width": 48, "activation": "gelu",
    }  # fmt: skip
    assert built.conditions == {
        "batch_size": 2, "dtype": "float32", "attention": "sdpa", "mode": "eager", "threads": torch.get_num_threads(),
        "cores": usable_cores(), "tokens": 17, "device": "cpu", "concurrency": 1,
    }  # fmt: skip
    assert {c.n for c in built.cells.mlp} == {17, *WIDTHS}
    assert {(c.n, c.biased) for c in built.cells.attention} >= {(n, b) for n in WIDTHS for b in (True, False)}
    assert {c.merge for c in built.cells.reduce} == {"drop", "fuse", "nearest", "bipartite"}
    for schedule in [Schedule(), *unseen_schedules(built, METHODS)]:
        assert 0 < built.predict(schedule) < 1000
    assert handle_of(tiny) is None


def test_the_pieces_of_the_unpruned_model_add_up_to_its_prediction(built):
    parts = built.stem + 3 * (built.attention(17, False, 0) + built.mlp(17, 0))
    assert built.predict(Schedule()) == pytest.approx(parts)


def test_a_measured_table_holds_its_error_on_unseen_schedules(tiny, batch):
    checked = measure_table(tiny, batch, counts=WIDTHS, methods=METHODS, time_budget_s=0.5, unseen=30)
    result = checked.validation
    assert result.schedules[0] == "unpruned"
    assert len(set(result.schedules)) == len(result.schedules) == 31
    assert all(len(samples) >= 3 for samples in some(result.samples_us))  # as often as on the slowest machine
    timed = zip(result.samples_us, result.pace, strict=True)
    medians = [statistics.median(np.divide(samples, pace)) / 1e3 for samples, pace in timed]
    assert result.measured_ms == pytest.approx(medians, rel=1e-2)
    errors = [abs(p / m - 1) for p, m in zip(result.predicted_ms[1:], result.measured_ms[1:], strict=True)]
    assert result.mape == pytest.approx(sum(errors) / 30)
    assert result.worst == pytest.approx(max(errors))
    assert -1 <= result.rank_correlation <= 1
    assert checked.summary()["schedules"] == 30
    assert handle_of(tiny) is None


def test_unseen_schedules_run_between_walks_with_their_own_tokens(tiny, batch):
    """Every whole forward that is compared must have flowed with its own schedule's widths."""
    seen = []
    hook = tiny.vit.layernorm.register_forward_hook(lambda *args: seen.append(args[2].shape[1]))
    try:
        checked = measure_table(tiny, batch, counts=WIDTHS, methods=METHODS, time_budget_s=0.1)
    finally:
        hook.remove()
    assert len(seen) >= checked.walks + sum(len(s) for s in checked.validation.samples_us)
    assert set(seen) <= set(range(min(WIDTHS), 18))


def test_a_comparison_of_too_few_schedules_is_refused(built):
    with pytest.raises(PruneSearchError, match="schedules >= 3"):
        compare(built, [Schedule()], [], [])


def test_schedules_are_measured_with_their_own_tokens(tiny, batch):
    schedules = [Schedule(), Schedule([Stage(0, 0.5)]), Schedule([Stage(0, 0.25)])]
    widths = []
    hook = tiny.vit.layernorm.register_forward_hook(lambda *args: widths.append(args[2].shape[1]))
    try:
        samples = measure_schedules(tiny, batch, schedules, time_budget_s=0, min_rounds=4)
    finally:
        hook.remove()
    assert [len(s) for s in samples] == [4, 4, 4]
    assert Counter(widths) == {17: 5, 9: 5, 5: 5}  # warm-up included


def test_counts_and_schedules_that_cannot_be_are_refused(tiny, batch):
    with pytest.raises(PruneSearchError, match="`1 < tokens < 17` must hold for a width after a stage, but got 1"):
        build_table(tiny, batch, counts=[1], methods=METHODS)
    with pytest.raises(PruneSearchError, match="unknown merge 'fusee'"):
        build_table(tiny, batch, counts=WIDTHS, methods=["cls_attention+fusee"])
    with pytest.raises(PruneSearchError, match="at least one schedule"):
        measure_schedules(tiny, batch, [])


def test_the_shape_is_read_from_the_model_as_it_runs(tiny, batch):
    with borrowed(tiny) as handle:
        assert describe_shape(tiny, handle, batch).tokens == 17


def test_walks_that_a_throttled_device_spoiled_do_not_count(tiny, batch):
    answers = itertools.cycle([True, False])
    with borrowed(tiny) as handle:
        walker = Walker(Eager(tiny, handle, batch), describe_shape(tiny, handle, batch), CountingClock())
        plan = plan_walks(3, 17, 1, WIDTHS, METHODS, 0)
        counted = []
        walks = take_walks(
            walker,
            plan,
            time_budget_s=60,
            min_walks=20,
            enough=lambda w: True,
            between=counted.append,
            spoiled=lambda: next(answers),
        )
    assert counted == list(range(1, 21))
    assert len(walks.steps) == 20
    assert walks.thrown_away == 20


def test_a_device_that_always_throttles_is_measured_in_the_end(tiny, batch):
    table = build_table(
        tiny, batch, counts=WIDTHS, methods=METHODS, time_budget_s=1.5, min_walks=5, spoiled=lambda: True
    )
    assert table.walks >= 5
    assert table.noise.thrown_away > 0
