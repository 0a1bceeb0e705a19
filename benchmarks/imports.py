"""What imports what in the package: circles, and rooms (its folders) that import each other.

    python benchmarks/imports.py [CHECKOUT]    # this one by default; any older one too

An import counts wherever it stands: within a function, and for types alone too. That imports go down only, in the order
of the rooms, is a test's (`tests/core/test_imports.py`).
"""

from __future__ import annotations

import ast
import itertools
import sys
from pathlib import Path

PACKAGE = "prunesearch"


def modules_of(root: Path) -> dict[str, Path]:
    """Every module of the package at `root`, as `prunesearch.core.tables.names`, and its file."""

    def name(path: Path) -> str:
        return ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")

    return {name(path): path for path in sorted(root.rglob("*.py"))}


def graph_of(root: Path) -> dict[str, set[str]]:
    """The modules of the package that each of its modules imports, itself apart."""
    modules = modules_of(root)
    return {module: _imported(path, root, modules) - {module} for module, path in modules.items()}


def _imported(path: Path, root: Path, modules: dict[str, Path]) -> set[str]:
    package = [PACKAGE, *path.relative_to(root).parts[:-1]]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            full = {f"{start}.{alias.name}": start for alias in node.names}
            names |= {name if name in modules else origin for name, origin in full.items()}
    return names & modules.keys()


def room_of(module: str) -> str:
    """`core` of `prunesearch.core.errors`."""
    return [*module.split("."), "__init__"][1]


def both_ways(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Pairs of rooms that import each other, so that one of the two goes up in any order."""
    ways = {(room_of(module), room_of(other)) for module, others in graph.items() for other in others}
    rooms = sorted({room for way in ways for room in way})
    return [pair for pair in itertools.combinations(rooms, 2) if {pair, pair[::-1]} <= ways]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that reach each other (Tarjan's strongly connected components)."""
    found: list[list[str]] = []
    place: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(module: str) -> None:
        place[module] = low[module] = len(place)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in place:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], place[other])
        if low[module] == place[module]:
            circle = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(circle) > 1 or module in graph[module]:
                found.append(sorted(circle))

    for module in sorted(graph):
        if module not in place:
            visit(module)
    return found


def main() -> None:
    checkout = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    graph = graph_of(checkout / PACKAGE)
    found, pairs = circles(graph), both_ways(graph)
    print(f"{len(graph)} modules, {len(found)} circles with {sum(map(len, found))} modules in them")
    for circle in found:
        print("  circle: " + ", ".join(module.removeprefix(f"{PACKAGE}.") for module in circle))
    print(f"{len(pairs)} pairs of rooms that import each other" + "".join(f"\n  {a} and {b}" for a, b in pairs))


if __name__ == "__main__":
    main()
