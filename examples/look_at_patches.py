"""What the tower of `train_shapes_vlm` learns before it is asked anything: to say of each patch what it lies on.

Of a patch on a thing also what is nearest on each of its four sides, and how many there are of its name and its colour.
Every patch is taught in every picture, so a tower of a few blocks learns in minutes of a core what answers teach in
days; a decoder then has one thing to find for most questions.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from shapes_and_words import COLOURS, MOST, SHAPES, SIDE, SIDES, WORDS, Box, Question, Sample, Thing, nearest
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

NAMES, SHADES = (*SHAPES, *WORDS), tuple(COLOURS)
IGNORED = -100
_KINDS = {"name": 1 + len(NAMES), "colour": 1 + len(SHADES)}
_COUNTS = {"of its name": MOST + 1, "of its colour": MOST + 1}
TARGETS = {
    **_KINDS,
    **{f"{kind} {side}": classes for side in SIDES for kind, classes in _KINDS.items()},
    **_COUNTS,
}


class Looking(nn.Module):
    """Says all of `TARGETS` of each patch.

    Args:
        width: of the tower.
        patch: its side, in pixels.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.said, self.patch = nn.Linear(width, sum(TARGETS.values())), patch

    def forward(self, seen: Tensor, samples: list[Sample]) -> Tensor:
        """The loss of patches `[batch, patches, width]`: a cross entropy a target, those of sides and counts halved."""
        wanted = targets_of(samples, self.patch)
        loss = seen.new_zeros(())
        for (name, target), logits in zip(
            wanted.items(), self.said(seen).split(list(TARGETS.values()), dim=-1), strict=True
        ):
            share = 1.0 if name in _KINDS else 0.5
            loss = loss + share * nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        return loss

    @torch.no_grad()
    def right(self, seen: Tensor, samples: list[Sample]) -> dict[str, float]:
        """Shares of patches on things that are named right, a target each."""
        wanted = targets_of(samples, self.patch)
        on, found = wanted["name"] > 0, {}
        for (name, target), logits in zip(
            wanted.items(), self.said(seen).split(list(TARGETS.values()), dim=-1), strict=True
        ):
            there = on & (target != IGNORED)
            found[name] = float((logits.argmax(-1) == target)[there].float().mean())
        return found


def targets_of(samples: list[Sample], patch: int) -> dict[str, Tensor]:
    """What is to be said of the patches of pictures, `[batch, patches]` each, by where the patch's middle lies.

    Names and colours count from 1; 0 is the ground, no colour, or nothing on that side; `IGNORED` is not asked.
    """
    side = SIDE // patch
    found = {name: torch.full((len(samples), side, side), IGNORED) for name in TARGETS}
    for kind in _KINDS:
        found[kind].fill_(0)
    for number, sample in enumerate(samples):
        for thing, box in zip(sample.things, sample.boxes, strict=True):
            for name, value in _said_of(thing, sample.things):
                found[name][number][patches_on(box, patch)] = value
    return {name: target.flatten(1) for name, target in found.items()}


def patches_on(box: Box, patch: int) -> Tensor:
    """Which patches lie on a thing, by their middle: bool `[side, side]`; words are lower than a patch."""
    left, top, right, bottom = box
    middle, reach = (torch.arange(SIDE // patch) + 0.5) * patch, patch / 2
    rows = (middle >= top - reach) & (middle <= bottom + reach)
    return rows[:, None] & (middle >= left) & (middle <= right)


def word_shares(tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """Shares of the tokens that spell each name and colour, `[1 + names, vocabulary]`; the first row is of nothing."""
    found = {}
    for kind, words in (("name", NAMES), ("colour", SHADES)):
        found[kind] = torch.zeros(1 + len(words), len(tokenizer))
        for row, word in enumerate(words, 1):
            ids = tokenizer(word, add_special_tokens=False)["input_ids"]
            found[kind][row, ids] = 1 / len(ids)
    return found


def seen_in(sample: Sample, question: Question, patch: int) -> Tensor:
    """Which patches of a picture show what a question is about: bool `[patches]`."""
    found = torch.zeros((SIDE // patch) ** 2, dtype=torch.bool)
    for number in question.about:
        found |= patches_on(sample.boxes[number], patch).flatten()
    return found


def _said_of(thing: Thing, things: list[Thing]) -> Iterator[tuple[str, int]]:
    yield from (("name", _name(thing)), ("colour", _colour(thing)))
    for side, (down, right) in SIDES.items():
        near = nearest(things, thing, down, right)
        yield f"name {side}", _name(near)
        yield f"colour {side}", _colour(near)
    alike = [t for t in things if (t.name == thing.name if thing.colour else not t.colour)]
    yield "of its name", len(alike)
    if thing.colour:
        yield "of its colour", sum(t.colour == thing.colour for t in things)


def _name(thing: Thing | None) -> int:
    return 0 if thing is None else 1 + NAMES.index(thing.name)


def _colour(thing: Thing | None) -> int:
    return 1 + SHADES.index(thing.colour) if thing is not None and thing.colour else 0
