"""Valid documents made invalid: nodes of their trees and pieces of their texts, changed by hypothesis."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import strategies as st

# in place of a node: other types, ends of ranges, what looks like a number, and what breaks writers
_NODES: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.5, 1e308, -0.0, 1.0, 3.0),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "a", "1", "0.5", "nan", "1e999", "null", "-", "\0", "\ud800"),
    *("\u202e", "é" * 50, "x" * 5000, "../../etc/passwd", "<script>alert(1)</script>", "2020-13-45", "12:30:45", "%s"),
    *("latency", "cls_attention", "fuse", "encoder", "all", "worst", "auto", "cuda:99", "int8", "a\nb", "{}", "[]"),
    *([], {}, [[]], [None], {"": ""}, {"a": None}, [1, "a", None], ["a"] * 200, [0.5] * 200, list(range(64))),
]
# in a text
_PIECES = [
    *("\0", '"', "'", "\\", "\n", "\r", "\t", " ", ",", ":", ";", "=", "-", "+", ".", "(", ")", "[", "]", "{", "}"),
    *("NaN", "-Infinity", "1e999", "null", "true", "0x10", "1_000", "９", "²", "١", "∞", "1" * 400, "1" * 5000),
    *("[" * 3000, '{"a":' * 3000, "(" * 3000, "-" * 3000, "9e9999999", "1e-999999", "\ufeff", "\u2028", "\ud800"),
    *(
        "&a [*a]",
        "*a",
        "<<: {a: 1}",
        "!!python/object:os.system",
        "!!binary x",
        "!!int x",
        "!!float x",
        "!!timestamp x",
    ),
    *("2020-13-45", "---\n", "? [a]: b", "? {a: b}\n: c", "@", "%", "#", "|", ">", "<", "*", "&", "!", "~", "`", "$"),
    *("ms", "mJ", "%", "x", "unpruned", "quality", ">=", "1:0.5", "cls_attention", "bipartite", "@top_k", "encoder/"),
]
_WORDS = st.text(alphabet=st.characters(codec=None), max_size=8)
_TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3),
    max_leaves=4,
)
_KINDS = ("replace", "replace", "replace", "delete", "rename", "double", "move")
_SITES = st.integers(0, 2**16)
_NODE_CHANGES = st.tuples(st.sampled_from(_KINDS), _SITES, _SITES, st.sampled_from(_NODES) | _TREES)
_TEXT_CHANGES = st.tuples(
    st.sampled_from(("insert", "insert", "cut", "delete", "repeat")),
    _SITES,
    st.integers(1, 12),
    st.sampled_from(_PIECES) | _WORDS,
)
# a document's number, changes of its tree, and of its text
MUTATIONS = st.tuples(_SITES, st.lists(_NODE_CHANGES, max_size=3), st.lists(_TEXT_CHANGES, max_size=2))


def mutated(documents: list[str], mutation: Any, form: str) -> str:
    """One of the documents after a drawn mutation; `form` is `json`, `yaml`, or `text` for what has no tree."""
    which, nodes, pieces = mutation
    text = documents[which % len(documents)]
    if form == "text":
        pieces = pieces + [("insert", a, 1, value) for _, a, _, value in nodes if isinstance(value, str)]
    elif nodes:
        tree = {"": json.loads(text) if form == "json" else yaml.safe_load(text)}
        for change in nodes:
            _change_node(tree, *change)
        text = _written(tree.get(""), form)
    for piece in pieces:
        text = _change_text(text, *piece)
    return text


def _written(tree: Any, form: str) -> str:
    if form == "json":
        return json.dumps(tree)
    try:
        return str(yaml.safe_dump(tree, allow_unicode=True))
    except (yaml.YAMLError, ValueError):  # what YAML cannot say
        return json.dumps(tree, default=str)


def _sites(tree: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree; a container that stands in itself is not gone into."""
    stack = [tree]
    while stack:
        node = stack.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            found.append((node, key))
            if isinstance(node[key], dict | list):
                stack.append(node[key])
    return found


def _change_node(tree: dict[str, Any], kind: str, site: int, other: int, value: Any) -> None:
    sites = _sites(tree, [])
    if not sites:
        return
    node, key = sites[site % len(sites)]
    value = json.loads(json.dumps(value))  # not the list that other mutations take too
    if kind == "delete":
        del node[key]
    elif kind == "rename" and isinstance(node, dict):
        node[str(value)[:60]] = node.pop(key)
    elif kind == "double" and isinstance(node, list):
        node.insert(key, json.loads(json.dumps(node[key], default=str)))
    elif kind == "move":
        source, name = sites[other % len(sites)]
        node[key] = json.loads(json.dumps(source[name], default=str))
    else:
        node[key] = value


def _change_text(text: str, kind: str, site: int, length: int, piece: str) -> str:
    at = site % (len(text) + 1)
    if kind == "cut":
        return text[:at]
    if kind == "delete":
        return text[:at] + text[at + length :]
    if kind == "repeat":
        return text[:at] + text[at : at + length] * 20 + text[at + length :]
    return text[:at] + piece + text[at:]
