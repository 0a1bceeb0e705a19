"""A question with its context, in overlapping windows where both do not fit into the model's length.

As transformers' run_qa does it: every window has the whole question and a stretch of the context, and neighbours share
some tokens, so that an answer at a border lies whole in one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.libraries import quiet_libraries

OVERLAP = 128  # tokens, run_qa's `doc_stride` (for its length of 384)
Encoded = dict[str, list[int]]


@dataclass(frozen=True)
class Window:
    """Where the context is in one of the model's inputs.

    Attributes:
        first: place of the context's first token.
        spans: characters `[from, to)` of the context that each of its tokens stands for, int32 `[tokens, 2]`.
    """

    first: int
    spans: NDArray[np.int32]


@dataclass(frozen=True)
class Question:
    """The label of a row: reference answers, the context, and the windows that it is read in."""

    references: list[str]
    context: str
    windows: list[Window]


def overlap_of(asked: list[str], tokenizer: Any, maximum: int) -> int:
    """Tokens that neighbouring windows share: 128, but a third of `maximum` and half the room for contexts at most.

    Args:
        asked: all questions; the longest says how much room is left.
        maximum: tokens that the model can take.

    Raises:
        PruneSearchError: if a question leaves no room, or the tokenizer cannot say where its tokens come from.
    """
    if not tokenizer.is_fast:
        raise PruneSearchError(
            f"a tokenizer must know the characters of its tokens, but {type(tokenizer).__name__} does not: use a model "
            "with a fast tokenizer (tokenizer.json)"
        )
    with quiet_libraries():
        longest = max(map(len, tokenizer(asked, add_special_tokens=False)["input_ids"]))
    room: int = maximum - tokenizer.num_special_tokens_to_add(pair=True) - longest
    if room < 1:
        raise PruneSearchError(
            f"a question must leave room for its context in {maximum} tokens, but one has {longest}: check the columns"
        )
    return min(OVERLAP, maximum // 3, room // 2)


def encode_windows(
    asked: list[str], contexts: list[str], answers: list[list[str]], tokenizer: Any, maximum: int, overlap: int
) -> tuple[list[list[Encoded]], list[Question]]:
    """Tokenise questions with their contexts: the windows of every row, `maximum` tokens long at most, and its label.

    `overlap` is what `overlap_of` gives for these questions.
    """
    with quiet_libraries():
        found = tokenizer(
            asked,
            contexts,
            truncation="only_second",
            max_length=maximum,
            stride=overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
    offsets, owners = found.pop("offset_mapping"), found.pop("overflow_to_sample_mapping")
    encoded: list[list[Encoded]] = [[] for _ in asked]
    windows: list[list[Window]] = [[] for _ in asked]
    for i, row in enumerate(owners):
        inside = [place for place, sequence in enumerate(found.sequence_ids(i)) if sequence == 1]
        spans = np.array([offsets[i][place] for place in inside], dtype=np.int32).reshape(-1, 2)
        windows[row].append(Window(inside[0] if inside else 0, spans))
        encoded[row].append({name: found[name][i] for name in found})
    labels = [Question(*parts) for parts in zip(answers, contexts, windows, strict=True)]
    return encoded, labels
