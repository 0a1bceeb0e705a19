"""The one form of a table of names: `name -> Row("module:attribute", help, facts)`, which a person can read.

Nothing is imported until it is used, so that listing names (for `--help`, for a search space) costs no torch import.
The tables themselves are in `registry`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from prunesearch.core.errors import PruneSearchError, did_you_mean


@dataclass(frozen=True)
class Row:
    """One row. Tables whose others need plain facts without importing the thing have a row class of their own.

    Attributes:
        target: where the thing lives, as `module:attribute`; or the thing itself.
        help: one line for people.
    """

    target: Any
    help: str


R = TypeVar("R", bound=Row)


class Registry(Generic[R]):
    """A named table of rows with "did you mean" on a miss.

    Args:
        kind: what a name of it is called, as in "scorer".
        rows: by name.
        row: the class of its rows, for `register`.
        plugins: the rows that installed packages bring, by name, each behind a call (see `plugins.find`); asked on the
            first miss, and when names are listed.
    """

    def __init__(
        self,
        kind: str,
        rows: Mapping[str, R],
        row: Callable[..., R] | None = None,
        plugins: Callable[[], Mapping[str, Callable[[], Any]]] | None = None,
    ) -> None:
        self.kind = kind
        self._rows: dict[str, R] = dict(rows)
        self._make: Callable[..., Any] = row or Row
        self._find_plugins = plugins
        self._plugins: Mapping[str, Callable[[], Any]] | None = None if plugins else {}

    def __iter__(self) -> Iterator[str]:
        yield from self._rows
        yield from (name for name in self._outside() if name not in self._rows)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._rows or name in self._outside()

    def entry(self, name: str) -> R:
        """Return the row called `name`.

        Raises:
            PruneSearchError: naming the nearest one on a miss; for a plug-in that cannot be loaded, in one line.
        """
        if not isinstance(name, str):  # from a file that somebody edited
            raise PruneSearchError(f"a {self.kind} must be a name, but got {name!r}")
        if name not in self._rows:
            outside = self._outside()
            if name not in outside:
                raise PruneSearchError(f"unknown {self.kind} '{name}': {did_you_mean(name, self)}")
            found = outside[name]()
            row: Any = found if isinstance(found, Row) else self._make(found, _first_line(found))
            self._rows[name] = row
        return self._rows[name]

    def load(self, name: str) -> Any:
        """Import (once) and return the thing behind `name`."""
        return load_target(self.entry(name).target)

    def __getitem__(self, name: str) -> Any:
        return self.load(name)

    def register(self, name: str, target: Any, help: str = "", **facts: Any) -> None:
        """Add a row; a name already taken is refused, so that no study changes its meaning silently.

        Args:
            name: what users type.
            target: the thing, or `module:attribute`.
            help: one line for people; none: the first line of the thing's docstring.
            facts: the other fields of the table's rows, as `makes_sizes` of a merge.
        """
        if name in self:
            raise PruneSearchError(f"{self.kind} '{name}' is already registered: choose another name")
        self._rows[name] = self._make(target, help or _first_line(target), **facts)

    @contextmanager
    def registered(self, name: str, target: Any, help: str = "", **facts: Any) -> Iterator[None]:
        """Within the block there is such a row; see `register`."""
        self.register(name, target, help, **facts)
        try:
            yield
        finally:
            del self._rows[name]

    def _outside(self) -> Mapping[str, Callable[[], Any]]:
        if self._plugins is None:
            self._plugins = self._find_plugins() if self._find_plugins is not None else {}
        return self._plugins


def load_target(target: Any) -> Any:
    """What `module:attribute` names; anything else is the thing itself."""
    if not isinstance(target, str) or ":" not in target:
        return target
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _first_line(thing: Any) -> str:
    return (getattr(thing, "__doc__", None) or "").strip().partition("\n")[0]
