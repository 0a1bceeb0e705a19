"""Imports go down only, and what must be light is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from imports import circles, graph_of, modules_of, room_of

import prunesearch
from tests.support.some import some

ROOT = Path(prunesearch.__file__).parent
HEAVY = ("torch", "transformers", "pandas", "optuna", "plotly", "datasets", "sklearn")
# Imports go down only: a room imports from the rows above its own; rooms in one row do not import each other.
ROOMS = (
    ("core",),
    ("progress",),
    ("pruning", "compress"),
    ("cost", "tasks"),
    ("study",),
    ("training",),
    ("export",),
    ("report",),
    ("search",),
    ("commands",),
    ("api",),
    ("cli",),
    ("__main__",),
)
LEVEL = {room: level for level, row in enumerate(ROOMS) for room in row}


MODULES, GRAPH = modules_of(ROOT), graph_of(ROOT)


def test_every_room_has_a_row() -> None:
    rooms = {room_of(module) for module in MODULES} - {"__init__"}
    assert rooms <= set(LEVEL), f"say in ROOMS where {sorted(rooms - set(LEVEL))} stands"


def test_imports_go_down_only() -> None:
    wrong = []
    for module, others in GRAPH.items():
        room = room_of(module)
        for other in others - {"prunesearch"}:
            if room != room_of(other) and LEVEL[room_of(other)] >= LEVEL.get(room, -1):
                wrong.append(f"{module} imports {other}")
    assert len(GRAPH) > 200
    assert not wrong


# The order of the sub-rooms inside a room, in the same way; a room's own files may stand anywhere between them.
SUB_ROOMS = {
    "cost": (("devices",), ("tables",), ("graphs",), ("counting", "timing"), ("energy", "estimate")),
    "core": (("tables",), ("plans",)),
    "tasks": (("data", "metrics"), ("views", "batching"), ("kinds",)),
    "study": (("settings", "storage"),),
    "export": (("schedules",), ("models",), ("by_row",)),
    "report": (("tables",), ("views",), ("dashboard",)),
    "search": (
        ("space",),
        ("solve",),
        ("costs",),
        ("samplers",),
        ("trials",),
        ("engines", "finish"),
        ("adaptive",),
        ("rivals",),
    ),
    "commands": (("tuning",),),
    "training": (("scorers",),),
    "pruning": (("forward",), ("scorers", "selections"), ("merges",), ("families",)),
}


def sub_room_of(module: str) -> tuple[str, str] | None:
    """`("cost", "timing")` of a module in a folder of a room; None for a room's own file."""
    parts = MODULES[module].relative_to(ROOT).parts
    return (parts[0], parts[1]) if len(parts) > 2 else None


def test_sub_rooms_stand_in_their_order() -> None:
    level = {(room, sub): n for room, rows in SUB_ROOMS.items() for n, row in enumerate(rows) for sub in row}
    placed = {module: sub_room_of(module) for module in MODULES}
    unknown = {sub for sub in placed.values() if sub is not None} - set(level)
    assert not unknown, f"say in SUB_ROOMS where {sorted(unknown)} stand"
    wrong = []
    for module, others in GRAPH.items():
        mine = placed[module]
        for other in others:
            its = placed[other]
            if mine is None or its is None or mine == its or mine[0] != its[0]:
                continue
            if level[its] >= level[mine]:
                wrong.append(f"{module} imports {other}")
    assert not wrong


def test_no_import_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles(GRAPH) == []


def test_core_needs_numpy_and_the_standard_library_only() -> None:
    for path in some((ROOT / "core").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                top = name.split(".")[0]
                assert top in {"numpy", "prunesearch"} or top in sys.stdlib_module_names, f"{path.name}: {name}"


CORE = [
    ".".join(("prunesearch", *p.relative_to(ROOT).with_suffix("").parts))
    for p in sorted((ROOT / "core").rglob("[a-z]*.py"))
]


@pytest.mark.parametrize(
    "statement",
    [
        "import prunesearch; prunesearch.Schedule([prunesearch.Stage(1, 0.5)]); list(prunesearch.SCORERS)",
        f"import {', '.join(CORE)}",
    ],
    ids=["package", "core"],
)
def test_light_imports(statement: str) -> None:
    check = f"{statement}\nimport sys\nprint(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in prunesearch.__all__:
        assert getattr(prunesearch, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'apply'"):
        _ = prunesearch.apply
