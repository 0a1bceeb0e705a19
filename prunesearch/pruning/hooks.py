"""Hooks on a model, and what takes them away again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from prunesearch.pruning.families.family import Undo


def removal(hooks: list[RemovableHandle]) -> Undo:
    """What removes these hooks."""

    def undo() -> None:
        for hook in hooks:
            hook.remove()

    return undo
