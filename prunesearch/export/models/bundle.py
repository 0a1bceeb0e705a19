"""One readable file out of a package's own source: the definitions that are needed, as they stand, and no others.

The mathematics keeps its one home. A definition is taken when a taken one names it; a method when its name is used
anywhere in what is taken.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from prunesearch.core.errors import PruneSearchError

Key = tuple[str, str]  # module, name
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class _Module:
    """A module's source: its top-level definitions by name, and what its imports bring."""

    name: str
    lines: list[str]
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    ours: dict[str, Key] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)

    @property
    def package(self) -> str:
        """Whose source it is."""
        return self.name.partition(".")[0]

    def add_imports(self, tree: ast.AST) -> None:
        """Note every import, wherever it stands."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    shown = f" as {alias.asname}" if alias.asname else ""
                    self.others[alias.asname or alias.name.split(".")[0]] = f"import {alias.name}{shown}"
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    name = alias.asname or alias.name
                    if node.module.split(".")[0] == self.package:
                        self.ours[name] = (node.module, alias.name)
                    else:
                        shown = f" as {alias.asname}" if alias.asname else ""
                        self.others[name] = f"from {node.module} import {alias.name}{shown}"


@lru_cache(maxsize=64)
def _read(name: str) -> _Module:
    source = inspect.getsource(importlib.import_module(name))
    tree = ast.parse(source)
    module = _Module(name, source.splitlines())
    module.add_imports(tree)
    for node in tree.body:
        for defined in _defines(node):
            module.definitions[defined] = node
    return module


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.Assign):
        return [n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)]
    return []


class Bundle:
    """Collects definitions, from `roots` on.

    Args:
        roots: (module, name) of what is needed.
        replaced: expressions to put in place of the value of some module-level names.
        methods: names of methods that whoever uses the file calls.

    Raises:
        PruneSearchError: if two modules call different things by the same public name.
    """

    def __init__(
        self, roots: Iterable[Key], replaced: Mapping[Key, str] | None = None, methods: Iterable[str] = ()
    ) -> None:
        self.replaced = dict(replaced or {})
        self._taken: dict[Key, None] = {}
        self._imports: set[str] = set()
        self._attributes: set[str] = set(methods)
        self._methods: dict[Key, list[ast.stmt]] = {}  # of taken classes, not needed so far
        self._queue = list(roots)
        self._collect()
        self._renamed = self._collisions()

    def source(self, *imports: str) -> str:
        """The imports and the definitions, each module's in its own order, modules after those that they import.

        Args:
            imports: further import lines.
        """
        modules = self._ordered_modules()
        self._imports.update(imports)
        parts = [self._import_block()]
        for name in modules:
            module, seen = _read(name), set()
            chosen = [(node.lineno, key) for key, node in self._nodes(name)]
            texts = []
            for _, key in sorted(chosen):
                node = module.definitions[key[1]]
                if id(node) in seen:
                    continue
                seen.add(id(node))
                texts.append(self._rename(name, self._text(module, key, node)))
            parts.append(f"# -- {name} " + "-" * max(2, 100 - len(name)) + "\n\n" + _joined(texts))
        return "\n\n\n".join(parts) + "\n"

    # -- what is needed ------------------------------------------------------------------------------

    def _collect(self) -> None:
        while self._queue or self._wake_methods():
            module_name, name = self._queue.pop()
            module = _read(module_name)
            if name in module.ours and name not in module.definitions:
                self._queue.append(module.ours[name])
                continue
            key = (module_name, name)
            if key in self._taken:
                continue
            if name not in module.definitions:
                raise PruneSearchError(f"{module_name} has no definition '{name}': it cannot go into one file")
            self._taken[key] = None
            self._visit(module, key, module.definitions[name])

    def _visit(self, module: _Module, key: Key, node: ast.stmt) -> None:
        if key in self.replaced:
            self._names(module, ast.parse(self.replaced[key]))
            if isinstance(node, ast.AnnAssign):
                self._names(module, node.annotation)
        elif isinstance(node, ast.ClassDef):
            later = [item for item in node.body if isinstance(item, _FUNCTIONS) and not item.name.startswith("__")]
            self._methods[key] = list(later)
            for part in (*node.bases, *node.decorator_list, *(i for i in node.body if i not in later)):
                self._names(module, part)
        else:
            self._names(module, node)

    def _wake_methods(self) -> bool:
        """Take the methods whose names have come into use; says whether there is more to collect."""
        for key, waiting in self._methods.items():
            for method in [m for m in waiting if isinstance(m, _FUNCTIONS) and m.name in self._attributes]:
                waiting.remove(method)
                self._names(_read(key[0]), method)
        return bool(self._queue)

    def _names(self, module: _Module, tree: ast.AST) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                self._attributes.add(node.attr)
            elif isinstance(node, ast.Name):
                self._need(module, node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                self._need(module, node.value)  # an annotation in quotes

    def _need(self, module: _Module, name: str) -> None:
        if name in module.definitions:
            self._queue.append((module.name, name))
        elif name in module.ours:
            self._queue.append(module.ours[name])
        elif name in module.others and not hasattr(builtins, name):
            self._imports.add(module.others[name])

    # -- how it is written ---------------------------------------------------------------------------

    def _nodes(self, module: str) -> Iterator[tuple[Key, ast.stmt]]:
        for key in self._taken:
            if key[0] == module:
                yield key, _read(module).definitions[key[1]]

    def _ordered_modules(self) -> list[str]:
        needed, ordered = {key[0] for key in self._taken}, []

        def visit(name: str) -> None:
            if name in needed and name not in ordered:
                needed.discard(name)  # an import for annotations alone may lead back here
                for other, _ in _read(name).ours.values():
                    visit(other)
                ordered.append(name)

        for name in sorted(needed):
            visit(name)
        return ordered

    def _text(self, module: _Module, key: Key, node: ast.stmt) -> str:
        first, last = _span(module, node)
        if key in self.replaced:
            annotation = f": {ast.unparse(node.annotation)}" if isinstance(node, ast.AnnAssign) else ""
            return f"{key[1]}{annotation} = {self.replaced[key]}"
        gone: set[int] = set()
        for method in self._methods.get(key, []):
            begin, end = _span(module, method)
            while not module.lines[begin - 2].strip():
                begin -= 1
            gone |= set(range(begin, end + 1))
        gone |= {
            line
            for item in ast.walk(node)
            if isinstance(item, ast.ImportFrom) and (item.module or "").startswith(module.package)
            for line in range(item.lineno, (item.end_lineno or item.lineno) + 1)
        }
        return "\n".join(module.lines[i - 1] for i in range(first, last + 1) if i not in gone).rstrip()

    def _collisions(self) -> dict[Key, str]:
        """New names of private definitions whose names another module has too."""
        owners: dict[str, list[Key]] = {}
        for key in self._taken:
            owners.setdefault(key[1], []).append(key)
        renamed: dict[Key, str] = {}
        for name, keys in owners.items():
            if len(keys) > 1 and not name.startswith("_"):
                raise PruneSearchError(f"'{name}' means two things: {', '.join(k[0] for k in keys)}: rename one")
            for key in keys[1:]:
                short = f"{name}_of_{key[0].rpartition('.')[2]}"
                renamed[key] = f"{name}_of_{key[0].replace('.', '_')}" if short in renamed.values() else short
        return renamed

    def _rename(self, module: str, text: str) -> str:
        sources = _read(module).ours
        for (home, name), new in self._renamed.items():
            if home == module or sources.get(name) == (home, name):
                text = re.sub(rf"(?<![\w.\"']){name}(?![\w\"'])", new, text)
        return text

    def _import_block(self) -> str:
        whole = sorted(line for line in self._imports if line.startswith("import "))
        parts: dict[str, set[str]] = {}
        for line in self._imports - set(whole):
            source, _, names = line.removeprefix("from ").partition(" import ")
            parts.setdefault(source, set()).add(names)
        lines = [f"from {source} import {', '.join(sorted(names))}" for source, names in sorted(parts.items())]
        return "\n".join([*whole, *lines])


def _span(module: _Module, node: ast.stmt) -> tuple[int, int]:
    """First and last line, decorators and the comment right above included."""
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)])
    while first > 1 and module.lines[first - 2].lstrip().startswith("#") and "# --" not in module.lines[first - 2]:
        first -= 1
    return first, node.end_lineno or node.lineno


def _joined(texts: list[str]) -> str:
    """Definitions with two empty lines around functions and classes, constants close together."""
    out = texts[0]
    for before, text in itertools.pairwise(texts):
        short = "\n" not in before and "\n" not in text
        out += ("\n" if short else "\n\n\n") + text
    return out
