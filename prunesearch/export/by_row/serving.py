"""Running and timing plans that are chosen row by row, beside plans that are not, on real rows."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from prunesearch.core.plans.plan import Plan
from prunesearch.cost.devices.device import clock_for
from prunesearch.cost.shape import device_of
from prunesearch.cost.timing.loop import undisturbed
from prunesearch.export.by_row.row_rule import ByRow, PlanGuess
from prunesearch.pruning.apply import Handle
from prunesearch.pruning.forward.artefacts import read_weights, save_weights
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

    def cascade(self, plans: Sequence[Plan], by: str, threshold: float) -> ByRow:
        """The fastest plan for all rows, then the next one for those of whose answer it is not sure, and so on."""
        return ByRow(self.model, self.handle, plans, threshold, by=by)

    def router(self, plans: Sequence[Plan], guesses: Sequence[PlanGuess], threshold: float, block: int) -> ByRow:
        """The first blocks for all rows, then for each of them its plan, from the start."""
        device = next(self.model.parameters()).device
        there = [copy.deepcopy(guess).to(device) for guess in guesses]
        return ByRow(self.model, self.handle, plans, threshold, guesses=there, block=block)


def keep_guesses(folder: Path, guesses: Sequence[PlanGuess]) -> str:
    """Write the guesses of a router into a folder of weights; returns what they are called there."""
    tensors = nn.ModuleList(guesses).state_dict()
    return save_weights(folder, tensors, {"what": "guesses of a router"})


def kept_guesses(folder: Path, name: str) -> list[PlanGuess]:
    """Those that `keep_guesses` wrote.

    Raises:
        PruneSearchError: if they are not there, or are others.
    """
    tensors = read_weights(folder, name)
    widths = [value.shape[0] for key, value in sorted(tensors.items()) if key.endswith(".mean")]
    guesses = nn.ModuleList(PlanGuess(width) for width in widths)
    guesses.load_state_dict(tensors)
    return [cast(PlanGuess, guess) for guess in guesses.requires_grad_(False)]


def time_forwards(
    forwards: Mapping[str, Callable[[Inputs], object]], batches: Sequence[Inputs], seed: int
) -> dict[str, list[float]]:
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
