"""One model with a schedule in many threads at once: every answer is what it is alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import prunesearch as ps
from prunesearch.pruning.forward.state import state_of
from tests.support.heads import HEADS, answers_of, given_to, model_of

MIXED = ps.Schedule([ps.Stage(0, 0.7, "attention_received", "fuse"), ps.Stage(2, 0.4, "value_norm", "bipartite")])
OTHER = ps.Schedule([ps.Stage(1, 0.5, "cls_attention", "drop")])
THREADS, FORWARDS = 8, 3


@pytest.fixture(autouse=True)
def _switching_often() -> Iterator[None]:
    before, cores = sys.getswitchinterval(), torch.get_num_threads()
    sys.setswitchinterval(1e-6)
    torch.set_num_threads(1)
    yield
    sys.setswitchinterval(before)
    torch.set_num_threads(cores)


def in_threads(work: Callable[[int], None]) -> None:
    """Call `work(0)`, `work(1)`, … at once; whatever one raises comes out."""
    failed: list[BaseException] = []
    barrier = threading.Barrier(THREADS)

    def guarded(number: int) -> None:
        barrier.wait()
        try:
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


@pytest.mark.parametrize("kind", list(HEADS))
def test_every_answer_is_what_it_is_alone(kind: str) -> None:
    model = model_of(kind)
    inputs = [given_to(kind, seed) for seed in range(THREADS)]
    with ps.apply_(model, MIXED):
        alone = [answers_of(model, x) for x in inputs]

        def work(number: int) -> None:
            for _ in range(FORWARDS):
                assert torch.equal(answers_of(model, inputs[number]), alone[number])

        in_threads(work)


def test_threads_run_schedules_of_their_own() -> None:
    model, inputs = model_of("vit"), given_to("vit", 0)
    schedules = [MIXED, OTHER, ps.Schedule()]
    with ps.apply_(model, OTHER) as handle:
        wanted = []
        for schedule in schedules:
            with handle.under(schedule):
                wanted.append(answers_of(model, inputs))

        def work(number: int) -> None:
            which = number % len(schedules)
            with handle.under(schedules[which]), handle.traced() as trace:
                for _ in range(FORWARDS):
                    assert torch.equal(answers_of(model, inputs), wanted[which])
                    assert [s.stage for s in trace.stages] == list(schedules[which])

        in_threads(work)
        assert handle.schedule == OTHER
        assert torch.equal(answers_of(model, inputs), wanted[1])


def test_a_schedule_that_is_set_meanwhile_is_for_the_next_forward() -> None:
    model, inputs = model_of("vit"), given_to("vit", 0)
    with ps.apply_(model, MIXED) as handle:
        wanted = {0: answers_of(model, inputs)}
        handle.set(OTHER)
        wanted[1] = answers_of(model, inputs)

        def work(number: int) -> None:
            for turn in range(FORWARDS):
                if number == 0:
                    handle.set((MIXED, OTHER)[turn % 2])
                found = answers_of(model, inputs)
                assert any(torch.equal(found, want) for want in wanted.values())

        in_threads(work)


class _BreakError(Exception):
    pass


@pytest.mark.parametrize("kind", list(HEADS))
def test_a_forward_that_fails_in_the_middle_leaves_nothing_behind(kind: str) -> None:
    model, inputs = model_of(kind), given_to(kind, 0)
    handle = ps.apply_(model, MIXED)
    want = answers_of(model, given_to(kind, 1))

    def fail(*_: Any) -> None:
        raise _BreakError

    hook = handle.encoder.cores[2].register_forward_pre_hook(fail)
    with pytest.raises(_BreakError):
        answers_of(model, inputs)
    hook.remove()
    state = state_of(handle.encoder.cores[2])
    assert state.forward is None
    assert not state.notes
    assert (state.departures, state.real, state.mask) == (None, None, None)
    assert torch.equal(answers_of(model, given_to(kind, 1)), want)


def test_a_decoder_in_another_thread_than_its_encoder_is_told_so() -> None:
    model, inputs = model_of("bart"), given_to("bart", 0)
    ids = inputs.pop("decoder_input_ids")
    with ps.apply_(model, MIXED), torch.no_grad():
        states = model.base_model.encoder(**inputs)

        def work(number: int) -> None:
            with torch.no_grad(), pytest.raises(ps.PruneSearchError, match="has not run in this thread"):
                model(encoder_outputs=states, decoder_input_ids=ids)

        in_threads(work)


def test_two_models_in_one_thread_keep_apart() -> None:
    first, second = model_of("tags"), model_of("vit")
    x, y = given_to("tags", 0), given_to("vit", 0)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text, self.image = first, second

        def forward(self) -> Any:
            hook = self.text.base_model.encoder.layer[1].register_forward_hook(self.look)
            found = answers_of(self.text, x)
            hook.remove()
            return found, self.seen

        def look(self, *_: Any) -> None:
            self.seen = answers_of(self.image, y)

    with ps.apply_(first, MIXED), ps.apply_(second, OTHER):
        want = answers_of(first, x), answers_of(second, y)
        found = Both()()
    assert torch.equal(found[0], want[0])
    assert torch.equal(found[1], want[1])


def test_blocks_run_apart_from_a_forward_are_refused() -> None:
    """Activation checkpointing around blocks runs them again when the tokens they had are gone."""
    model, inputs = model_of("vit"), given_to("vit", 0)
    with ps.apply_(model, MIXED) as handle, torch.no_grad():
        answers_of(model, inputs)
        block = handle.encoder.blocks[2]
        with pytest.raises(ps.PruneSearchError, match="block 2 was run apart from a forward"):
            block(torch.randn(1, 17, 32))


def test_a_shallow_copy_of_the_model_is_refused() -> None:
    """nn.DataParallel runs shallow copies, whose blocks would be the first device's."""
    model, inputs = model_of("vit"), given_to("vit", 0)
    with ps.apply_(model, MIXED):
        replica = model.base_model._replicate_for_data_parallel()
        with pytest.raises(ps.PruneSearchError, match="DataParallel"):
            replica(**inputs)
