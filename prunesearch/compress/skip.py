"""Half a block left out: who runs the blocks passes by it, so that there is nothing to make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from prunesearch.compress.halves import Changing


@dataclass(frozen=True)
class Skip:
    """What enters the half goes on as it is, a norm that stands behind the half left out with it.

    Attributes:
        half: `attention` or `mlp`.
    """

    half: str

    def change(self, own: Changing, fit: Mapping[str, Tensor]) -> None:
        """See `ChangesBlock`: nothing; `Reductions.skips` says it."""


def make_skip(part: str) -> Skip:
    """What a change of kind `skip` comes to."""
    return Skip(part)
