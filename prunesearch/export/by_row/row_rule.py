"""What decides which plan a row runs, and running rows so. This goes into exported files as it stands.

Rows go to the first plan, from the fastest on, that is sure enough of them, and else to the last. All plans share one
threshold.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule

# a plan by its place, and the rows that run it, int64 `[m]` (None: all of them) -> logits `[m, classes]`
RunRows = Callable[[int, Tensor | None], Tensor]


def _top(logits: Tensor) -> Tensor:
    return logits.softmax(dim=-1).amax(dim=-1)


def _margin(logits: Tensor) -> Tensor:
    first, second = logits.softmax(dim=-1).topk(2, dim=-1).values.unbind(dim=-1)
    return first - second


def _order(logits: Tensor) -> Tensor:
    logs = logits.log_softmax(dim=-1)
    return (logs.exp() * logs).sum(dim=-1)


# how sure an answer is, high = sure: logits [b, classes] -> [b]
SURENESS: dict[str, Callable[[Tensor], Tensor]] = {"probability": _top, "margin": _margin, "entropy": _order}


class PlanGuess(nn.Module):
    """Logistic regression on standardised states: how surely a plan answers a row as the unpruned model does.

    Args:
        width: of the states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)
        for name in ("mean", "scale"):
            self.register_buffer(name, torch.ones(width))

    def forward(self, states: Tensor) -> Tensor:
        """Sureness `[b]`, a probability, of states `[b, width]`; in float32 whatever the model is in."""
        mean, scale = self.get_buffer("mean").float(), self.get_buffer("scale").float()
        standard = (states.float() - mean) / scale
        return nn.functional.linear(standard, self.layer.weight.float(), self.layer.bias.float())[:, 0].sigmoid()


class EarlyEnd(Exception):  # noqa: N818  # no error
    """Ends a forward of which enough is known."""


class EarlyStates:
    """What the unpruned model's first blocks make of rows; the forward ends there. Threads do not see each other's.

    Args:
        model: that is run.
        handle: on it.
        block: the last one that is run, from 0.

    Raises:
        PruneSearchError: if there is no block after it.
    """

    def __init__(self, model: nn.Module, handle: Any, block: int) -> None:
        depth = handle.encoder.depth
        if not 0 <= block < depth - 1:
            raise PruneSearchError(f"`0 <= block < {depth - 1}` must hold for a router, but got {block}")
        self._model, self._handle, self.block = model, handle, block

    def __call__(self, inputs: Mapping[str, Any]) -> Tensor:
        """First token and mean of all that are real, `[b, 2 * width]`."""
        handle, after = self._handle, self.block + 1
        with handle.under(Schedule()), handle.observing() as seen:

            def enter() -> None:
                if len(seen) > after:
                    raise EarlyEnd

            with handle.watched(enter, _pass):
                try:
                    self._model(**inputs)
                except EarlyEnd:
                    return pooled_states(seen[after], inputs.get("attention_mask"))
        raise PruneSearchError(
            f"a forward must pass block {after}, but this model's does not: its plans cannot be routed"
        )


def _pass() -> None:
    """A border that nobody watches."""


def pooled_states(states: Tensor, mask: Tensor | None) -> Tensor:
    """First token and mean of all that are real, `[b, 2 * width]`, of states `[b, tokens, width]`."""
    states = states.float()
    first = states[:, 0]
    if mask is None or mask.shape != states.shape[:2]:
        return torch.cat([first, states.mean(dim=1)], dim=1)
    real = mask[..., None].float()  # what fills a short row says nothing of it
    return torch.cat([first, (states * real).sum(dim=1) / real.sum(dim=1)], dim=1)


def sent_to(sure: Tensor, threshold: float) -> Tensor:
    """The place of each row's plan, int64 `[n]`, by the sureness `[n, plans - 1]` of all but the last."""
    enough = torch.cat([sure >= threshold, torch.ones(len(sure), 1, dtype=torch.bool, device=sure.device)], dim=1)
    return enough.int().argmax(dim=1)  # the first of them


def cascaded(run: RunRows, plans: int, by: str, threshold: float) -> tuple[Tensor, Tensor]:
    """The first plan for all rows, then the next one for those of whose answer it is not sure, and so on.

    Returns:
        Logits `[b, classes]`, and the place of the plan that answered each row, int64 `[b]`.
    """
    logits = last = run(0, None)
    rows = torch.arange(len(logits), device=logits.device)
    places = torch.zeros_like(rows)
    for place in range(1, plans):
        rows = rows[SURENESS[by](last.float()) < threshold]
        if not len(rows):
            break
        last = run(place, rows)
        logits = logits.index_copy(0, rows, last.to(logits.dtype))
        places = places.index_fill(0, rows, place)
    return logits, places


def routed(run: RunRows, places: Tensor) -> Tensor:
    """Each row by the plan at its place, int64 `[b]`; logits `[b, classes]` in the order of the rows."""
    chosen: list[int] = sorted(set(places.tolist()))
    if len(chosen) == 1:
        return run(chosen[0], None)
    parts, order = [], []
    for place in chosen:
        rows = (places == place).nonzero().flatten()
        parts.append(run(place, rows))
        order.append(rows)
    return torch.cat(parts)[torch.cat(order).argsort()]


class ByRow:
    """A model under a handle, whose plan is chosen row by row: a router if there are guesses, else a cascade.

    Args:
        model: that answers with logits.
        handle: on it.
        plans: as `handle.under` takes them, the fastest first.
        threshold: sureness from which on a plan has a row.
        by: a name in `SURENESS`, of a cascade.
        guesses: of a router: one for each plan but the last.
        block: after which a router decides, from 0.
    """

    def __init__(
        self,
        model: nn.Module,
        handle: Any,
        plans: Sequence[Any],
        threshold: float,
        *,
        by: str = "",
        guesses: Sequence[nn.Module] = (),
        block: int = 0,
    ) -> None:
        self.model, self.handle, self.plans, self.threshold = model, handle, plans, threshold
        self.by, self.guesses = by, guesses
        self.early = EarlyStates(model, handle, block) if guesses else None

    def __call__(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Logits `[b, classes]`, and the place of each row's plan, int64 `[b]`, both in the order of the rows."""

        def run(place: int, rows: Tensor | None) -> Tensor:
            given = inputs if rows is None else some_rows(inputs, rows)
            with self.handle.under(self.plans[place]):
                return logits_in(self.model(**given))

        if not self.guesses:
            return cascaded(run, len(self.plans), self.by, self.threshold)
        places = self.decide(inputs)
        return routed(run, places), places

    def decide(self, inputs: Mapping[str, Any]) -> Tensor:
        """What a router does before a plan runs: the place of every row's plan, int64 `[b]`."""
        if self.early is None:
            raise PruneSearchError("a cascade decides by what a plan answers: nothing is known before")
        states = self.early(inputs)
        return sent_to(torch.stack([guess(states) for guess in self.guesses], dim=1), self.threshold)


def some_rows(inputs: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    """Rows, int64 `[m]`, of a batch's inputs; what has not one thing a row stays as it is."""
    count = next(len(value) for value in inputs.values() if isinstance(value, Tensor))
    return {
        name: value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == count else value
        for name, value in inputs.items()
    }


def named_inputs(forward: Callable[..., Any], args: tuple[Any, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a call gives to `forward`, by name, but for what is None.

    Raises:
        PruneSearchError: for what rows of different plans cannot give together.
    """
    inputs = {**dict(zip(inspect.signature(forward).parameters, args, strict=False)), **given}
    for name in ("labels", "output_attentions", "output_hidden_states"):
        value = inputs.pop(name, None)
        if value is not None and value is not False:
            raise PruneSearchError(f"rows run different plans, and what they give together is logits: leave {name} out")
    return {name: value for name, value in inputs.items() if value is not None}


def logits_in(outputs: Any) -> Tensor:
    """The logits of what a classifier returned."""
    found = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    logits: Tensor = outputs[0] if found is None else found
    return logits
