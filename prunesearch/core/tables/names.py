"""The one form of a table of names: `name -> Row("module:attribute", help, facts)`, which a person can read.

Nothing is imported until it is used, so that listing names (for `--help`, for a search space) costs no torch import.
The tables themselves are in `registry`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.tables import plugins


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
        outside: the rows that installed packages bring, by name, each behind a call (see `plugins.find`); asked on the
            first miss, and when names are listed.
        beside: a table whose names are taken where these are, though they are not listed with them.
        check: called with name and row before a row from outside is taken in, and the rows that are there; raises
            `PruneSearchError` where it must not be.
    """

    def __init__(
        self,
        kind: str,
        rows: Mapping[str, R],
        row: Callable[..., R] | None = None,
        outside: Callable[[], Mapping[str, Callable[[], Any]]] | None = None,
        check: Callable[[str, R, Mapping[str, R]], None] | None = None,
        beside: Registry[Any] | None = None,
    ) -> None:
        self.kind = kind
        self._beside = beside
        self._rows: dict[str, R] = dict(rows)
        self._make: Callable[..., Any] = row or Row
        self._check = check
        self._find_plugins = outside
        self._plugins: Mapping[str, Callable[[], Any]] | None = None if outside else {}

    def __iter__(self) -> Iterator[str]:
        yield from self._rows
        yield from (name for name in self._outside() if name not in self._rows)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._rows or name in self._outside() or (self._beside is not None and name in self._beside)

    def entry(self, name: str) -> R:
        """Return the row called `name`.

        Raises:
            PruneSearchError: naming the nearest one on a miss; for a plug-in that cannot be loaded, in one line.
        """
        if not isinstance(name, str):  # from a file that somebody edited
            raise PruneSearchError(f"a {self.kind} must be a name, but got {name!r}")
        if name not in self._rows:
            outside = self._outside()
            if self._beside is not None and name not in outside and name in self._beside:
                return self._beside.entry(name)  # type: ignore[no-any-return]
            if name not in outside:
                raise PruneSearchError(f"unknown {self.kind} '{name}': {did_you_mean(name, self)}")
            found = outside[name]()
            row = self._row_of(name, found)
            if self._check is not None:
                self._check(name, row, self._rows)
            self._rows[name] = row
        return self._rows[name]

    def entries(self) -> dict[str, R]:
        """Every row by name; a plug-in that cannot be loaded is left out (it is refused where it is asked for)."""
        found = {}
        for name in self:
            try:
                found[name] = self.entry(name)
            except PruneSearchError:
                continue
        return found

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
        self.add(name, self._make(target, help or _first_line(target), **facts))

    def add(self, name: str, row: R) -> None:
        """Add a row that is made already; see `register`."""
        if name in self:
            raise PruneSearchError(f"{self.kind} '{name}' is already registered: choose another name")
        if self._check is not None:
            self._check(name, row, self._rows)
        self._rows[name] = row

    @contextmanager
    def registered(self, name: str, target: Any, help: str = "", **facts: Any) -> Iterator[None]:
        """Within the block there is such a row; see `register`."""
        with self.added(name, self._make(target, help or _first_line(target), **facts)):
            yield

    @contextmanager
    def added(self, name: str, row: R) -> Iterator[None]:
        """Within the block there is this row; see `add`."""
        self.add(name, row)
        try:
            yield
        finally:
            del self._rows[name]

    def _row_of(self, name: str, found: Any) -> R:
        """What a plug-in names, as a row."""
        if isinstance(found, Row):
            return found  # type: ignore[return-value]
        try:
            row: R = self._make(found, _first_line(found))
        except TypeError as error:  # rows with facts that nobody can guess
            raise PruneSearchError(
                f"plug-in '{name}' must name a row of the table of a {self.kind} ({error})"
            ) from error
        return row

    @contextmanager
    def replaced(self, name: str, target: Any = None, **facts: Any) -> Iterator[None]:
        """Within the block the row called `name` has another thing behind it, or other facts; the rest stays."""
        row: Any = self.entry(name)
        self._rows[name] = replace(row, target=target or row.target, **facts)
        try:
            yield
        finally:
            self._rows[name] = row

    def _outside(self) -> Mapping[str, Callable[[], Any]]:
        if self._plugins is None:
            self._plugins = self._find_plugins() if self._find_plugins is not None else {}
        return self._plugins


def make_table(
    kind: str,
    rows: Mapping[str, R],
    row: Callable[..., R],
    group: str = "",
    check: Callable[[str, R, Mapping[str, R]], None] | None = None,
    beside: Registry[Any] | None = None,
) -> Registry[R]:
    """A table that packages may add to by entry points of `prunesearch.GROUP` (none: the kind's plural)."""
    return Registry(kind, rows, row, partial(plugins.find, group or f"{kind.replace(' ', '_')}s"), check, beside)


def load_target(target: Any) -> Any:
    """What `module:attribute` names; anything else is the thing itself."""
    if not isinstance(target, str) or ":" not in target:
        return target
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _first_line(thing: Any) -> str:
    return (getattr(thing, "__doc__", None) or "").strip().partition("\n")[0]
