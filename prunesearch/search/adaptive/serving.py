"""Running and timing plans that are chosen row by row, beside plans that are not, on real rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunesearch.core.plans.plan import Plan
from prunesearch.cost.devices.device import clock_for
from prunesearch.cost.shape import device_of
from prunesearch.cost.timing.loop import undisturbed
from prunesearch.pruning.apply import Handle
from prunesearch.search.adaptive.choosing import SURENESS, PlanGuess, sent_to
from prunesearch.search.adaptive.row_answers import EarlyStates
from prunesearch.tasks.batching.batches import Inputs
from prunesearch.tasks.kinds.classification import logits_of

Serving = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Server:
    """A model under a handle, for a batch at a time.

    Attributes:
        model: that answers.
        handle: on it.
    """

    model: nn.Module
    handle: Handle

    def static(self, plan: Plan) -> Serving:
        """One plan for all rows; logits `[b, classes]`."""

        def run(inputs: Inputs) -> Tensor:
            with self.handle.under(plan):
                return logits_of(self.model(**inputs))

        return run

    def cascade(self, plans: Sequence[Plan], by: str, threshold: float) -> Serving:
        """The fastest plan for all rows, then the next one for those of whose answer it is not sure, and so on."""
        first, *others = [self.static(plan) for plan in plans]

        def run(inputs: Inputs) -> Tensor:
            logits = last = first(inputs)
            rows = torch.arange(len(logits), device=logits.device)
            for following in others:
                unsure = SURENESS[by](last.float()) < threshold
                rows = rows[unsure]
                if not len(rows):
                    break
                last = following({name: value[rows] for name, value in inputs.items()})
                logits = logits.index_copy(0, rows, last)
            return logits

        return run

    def router(
        self, plans: Sequence[Plan], guesses: Sequence[PlanGuess], threshold: float, early: EarlyStates
    ) -> Serving:
        """An early block for all rows, then for each of them its plan, from the start."""
        each, decide = [self.static(plan) for plan in plans], self.decider(guesses, threshold, early)

        def run(inputs: Inputs) -> Tensor:
            places = decide(inputs)
            chosen: list[int] = sorted(set(places.tolist()))
            if len(chosen) == 1:
                return each[chosen[0]](inputs)
            parts, order = [], []
            for place in chosen:
                rows = (places == place).nonzero().flatten()
                parts.append(each[place]({name: value[rows] for name, value in inputs.items()}))
                order.append(rows)
            return torch.cat(parts)[torch.cat(order).argsort()]

        return run

    def decider(self, guesses: Sequence[PlanGuess], threshold: float, early: EarlyStates) -> Serving:
        """What a router does before a plan runs: the place of every row's plan, int64 `[b]`."""

        def run(inputs: Inputs) -> Tensor:
            with self.handle.under(Plan()):
                states = early(inputs)
            return sent_to(torch.stack([guess(states) for guess in guesses], dim=1), threshold)

        return run


def time_forwards(forwards: Mapping[str, Serving], batches: Sequence[Inputs], seed: int) -> dict[str, list[float]]:
    """Milliseconds of every forward on every batch: on each all of them one after another, in a random order."""
    clock, order = clock_for(device_of(batches[0])), list(forwards)
    found: dict[str, list[float]] = {name: [] for name in forwards}
    shuffle = random.Random(seed).shuffle
    with undisturbed():
        for forward in forwards.values():
            forward(batches[0])
        for inputs in batches:
            shuffle(order)
            for name in order:
                begin = clock.mark()
                forwards[name](inputs)
                found[name].append(clock.between_ms([begin, clock.mark()])[0])
    return found
