"""The house stays one in which a newcomer finds her way: short folders, one name for one thing, facts in their rows."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from pathlib import Path

import prunesearch
from prunesearch.core.tables.registry import TABLES, find_table
from tests.support.some import some

ROOT = Path(prunesearch.__file__).parent
FILES = [path for path in sorted(ROOT.rglob("*.py")) if "demo" not in path.parts]
TREES = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in FILES}

# -- one name for one thing ------------------------------------------------------------------------------------------

# a command's file is called as what it calls
SAME_FILE = {
    "app.py": "the command line, the dashboard",
    "export.py": "the command; its verb",
    "verify.py": "the command; its verb",
    "devices.py": "the command; its verb",
    "dashboard.py": "the command; its verb",
    "tune.py": "the command; its verb",
    "compare.py": "the command; its verb",
    "costs.py": "core: a row each; cost: what prices schedules",
    "base.py": "what the files of its folder build on",
}
# records of a file that a study writes are called as what they record
SAME_CLASS = {"Energy", "Memory", "Fidelity"}


def test_a_file_name_stands_once() -> None:
    found = Counter(path.name for path in FILES if not path.name.startswith("__"))
    assert {name for name, count in found.items() if count > 1} <= set(SAME_FILE)


def test_a_class_name_stands_once() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for place, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(place)
    assert {name: places for name, places in found.items() if len(places) > 1 and name not in SAME_CLASS} == {}


# -- a folder's first screen -----------------------------------------------------------------------------------------

MOST = 12
# rows of a table may be more
LONG = {"tasks/kinds": 30, "export/schedules": 13, "tasks": 13, "pruning/families": 19, "": 16}


def test_a_folder_has_one_screen_of_names() -> None:
    long = {}
    for folder in [ROOT, *(path for path in ROOT.rglob("*") if path.is_dir())]:
        place = str(folder.relative_to(ROOT)).removeprefix(".")
        names = [p.name for p in folder.iterdir() if not p.name.startswith(("__", "."))]
        if any(n.endswith(".py") for n in names) and len(names) > LONG.get(place, MOST):
            long[place] = len(names)
    assert long == {}


# -- no fact about a name outside its row ----------------------------------------------------------------------------

# file: the names that it may compare with, because that is what the file is about
ABOUT = {
    "cost/devices/gpu_state.py": {"cuda"},  # NVML
    "cost/energy/nvml.py": {"cuda"},
    "cost/energy/rapl.py": {"cpu"},
    "cost/energy/zeus.py": {"cuda"},
    "cost/tables/specs.py": {"float32"},  # a datasheet
    "cost/estimate/roofline.py": {"float32", "memory"},  # and what bounds an operation
    "cost/estimate/estimate.py": {"sdpa"},  # what was compared with public measurements
    "export/schedules/diffrate.py": {"drop"},  # what another tool's words come to
    "export/schedules/evit.py": {"drop"},
    "export/schedules/lightcompress.py": {"bipartite"},
    "pruning/driver.py": {"eager"},  # transformers' implementations
    "pruning/interface.py": {"eager"},
    "tasks/kinds/seq2seq_data.py": {"translation"},  # a column
    "tasks/data/readers/beir.py": {".jsonl", ".tsv"},  # the files of BEIR
    "tasks/data/readers/delimited.py": {".tsv"},
    "tasks/kinds/sentence_modules.py": {"mean", "cosine"},  # words of sentence-transformers
    "pruning/families/pooling.py": {"mean"},  # and of ModernBERT
    "tasks/kinds/video.py": {"vivit"},  # whose automatic class asks for a package that it does not need
    "pruning/families/timm.py": {"gate"},  # a part of its attention
    "tasks/loading.py": {"timm_wrapper"},  # another library's models
    # a speed-up is one of latency
    "search/costs/costing.py": {"latency"},
    "export/models/card.py": {"latency"},
    "report/tables/show.py": {"latency"},
    "report/views/figures_search.py": {"latency"},
    "report/views/parts.py": {"latency"},
    "report/views/study_view.py": {"latency"},
}


def test_nothing_is_checked_by_assert() -> None:
    """`python -O` takes asserts out: what must hold is said by a type, or refused in words."""
    benchmarks = {f"benchmarks/{path.name}": path for path in (ROOT.parent / "benchmarks").rglob("*.py")}
    trees = {**TREES, **{place: ast.parse(path.read_text()) for place, path in some(benchmarks.items())}}
    asserted = [place for place, tree in trees.items() if any(isinstance(n, ast.Assert) for n in ast.walk(tree))]
    assert asserted == []


def test_nobody_asks_what_a_row_is_called() -> None:
    names = {name for table in TABLES for name in find_table(table)}
    wrong = []
    for place, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Compare):
                continue
            texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            asked = {text for text in texts if isinstance(text, str) and text in names} - ABOUT.get(place, set())
            wrong += [f"{place}:{node.lineno} asks for '{name}'" for name in sorted(asked)]
    assert not wrong, "make it a fact of the row, or, if the word means something else there, add the file to ABOUT"


def test_nobody_asks_whose_instance_a_row_is() -> None:
    """By the names of the classes that rows name, and of those in their files that they are derived from."""
    targets = {find_table(table).entry(name).target for table in TABLES for name in find_table(table)}
    classes = {target.partition(":")[2] for target in targets if isinstance(target, str) and ":" in target}
    bases = {base.id: node.name for tree in TREES.values() for node in ast.walk(tree)
             if isinstance(node, ast.ClassDef) and node.name in classes
             for base in node.bases if isinstance(base, ast.Name)}  # fmt: skip
    classes |= {"ListedSpace"} | (set(bases) - {"BaseModel", "Protocol"})
    wrong = []
    for place, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)} & classes
                wrong += [f"{place}:{node.lineno} asks for {name}" for name in sorted(asked)]
    assert not wrong, "make it a fact or a method of the row"


def test_cuda_is_asked_for_where_it_is_at_home() -> None:
    """A kind of device is one class: `torch.cuda` stands in it, in the mode of its graphs, and with its meters.

    What is kept for all forwards has to know of streams and of captures.
    """
    home = {"cost/devices/cuda.py", "cost/devices/gpu_state.py", "cost/timing/modes.py", "cost/energy/zeus.py"}
    home |= {"pruning/forward/constants.py"}
    asking = {
        place
        for place, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("cuda", "is_cuda", "mps", "xpu")
    }
    assert asking <= home


def test_every_skip_says_what_would_run_it() -> None:
    """A test that needs a package names the command that brings it: pytest's own reason does not."""
    calls = [
        (path.name, node)
        for path in Path(__file__).parents[1].rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    asked = [(name, node) for name, node in calls if node.func.attr in ("importorskip", "skipif")]
    silent = [f"{name}:{node.lineno}" for name, node in some(asked) if not {"reason"} & {k.arg for k in node.keywords}]
    assert not silent
