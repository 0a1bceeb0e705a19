"""What is put into a model, and taken out again exactly. All of it can be copied and pickled with the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


class Hooks:
    """Hooks on modules and attributes put over theirs.

    Give it bound methods of plain objects and module-level functions, no closures: those stay tied to the model that
    they were made for when it is copied, and cannot be pickled.
    """

    def __init__(self) -> None:
        self._hooks: list[RemovableHandle] = []
        self._attributes: list[tuple[nn.Module, str, Any, bool, Any]] = []  # ours; whether there was one, and which

    def before(self, module: nn.Module, hook: Callable[..., Any], *, with_kwargs: bool = False) -> None:
        """Call `hook` before each forward of `module`."""
        self._hooks.append(module.register_forward_pre_hook(hook, with_kwargs=with_kwargs))

    def after(
        self, module: nn.Module, hook: Callable[..., Any], *, with_kwargs: bool = False, always: bool = False
    ) -> None:
        """Call `hook` after each forward of `module`; `always`: after one that failed too."""
        self._hooks.append(module.register_forward_hook(hook, with_kwargs=with_kwargs, always_call=always))

    def put(self, module: nn.Module, name: str, value: Any) -> None:
        """Give the module itself an attribute, over its class's or over one of its own, which comes back."""
        own = module.__dict__
        self._attributes.append((module, name, value, name in own, own.get(name)))
        module.__dict__[name] = value

    def remove(self) -> None:
        """Take everything out. What somebody has meanwhile put over an attribute of ours stays."""
        for hook in self._hooks:
            hook.remove()
        for module, name, value, had, before in reversed(self._attributes):
            if module.__dict__.get(name) is not value:
                continue
            if had:
                module.__dict__[name] = before
            else:
                del module.__dict__[name]
        self._hooks, self._attributes = [], []
