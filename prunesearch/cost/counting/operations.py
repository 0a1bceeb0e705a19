"""How many operations a forward takes: each is a launch on a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what PyTorch dispatches, views apart."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name != "_unsafe_view":
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def counted(forward: Callable[[], object]) -> Counter[str]:
    """The operations of a forward, after one that is not counted: it makes the constants that are kept."""
    with torch.no_grad():
        forward()
        dispatched = Operations()
        with dispatched:
            forward()
    return dispatched.seen
