"""Tables of names that a person can read: `name -> Entry("module:attribute")`.

A new scorer, merge, sampler or exporter is one row here and one function there. Nothing is imported
until it is used, so that listing names (for `--help`, for a search space) costs no torch import.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from prunesearch.core.errors import PruneSearchError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """One row: where the thing lives, one line of help, and plain facts that others need without importing it."""

    target: str | Callable[..., Any]
    help: str
    uses_scores: bool = True  # merges: False if the scorer is ignored (matching by similarity alone)
    makes_sizes: bool = False  # merges: True if kept tokens may come to stand for several inputs


class Registry:
    """A named table of entries with "did you mean" on a miss."""

    def __init__(self, kind: str, entries: dict[str, Entry]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entry(self, name: str) -> Entry:
        """Return the row called `name`; raise `PruneSearchError` naming the nearest one on a miss."""
        if not isinstance(name, str):  # from a file that somebody edited
            raise PruneSearchError(f"a {self.kind} must be a name, but got {name!r}")
        try:
            return self._entries[name]
        except KeyError:
            raise PruneSearchError(f"unknown {self.kind} '{name}': {did_you_mean(name, self._entries)}") from None

    def load(self, name: str) -> Callable[..., Any]:
        """Import (once) and return the function behind `name`."""
        target = self.entry(name).target
        if callable(target):
            return target
        module, _, attribute = target.partition(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return loaded

    def register(self, name: str, entry: Entry) -> None:
        """Add a row; a name already taken is refused, so that no study changes its meaning silently."""
        if name in self._entries:
            raise PruneSearchError(f"{self.kind} '{name}' is already registered: choose another name")
        self._entries[name] = entry


_SCORERS = "prunesearch.pruning.scorers"
_MERGES = "prunesearch.pruning.merges"

SCORERS = Registry(
    "scorer",
    {
        "cls_attention": Entry(f"{_SCORERS}:cls_attention", "attention of the CLS query (EViT)"),
        "attention_received": Entry(f"{_SCORERS}:attention_received", "mean attention a token receives (PoWER-BERT)"),
        "attention_entropy": Entry(f"{_SCORERS}:attention_entropy", "how focused a token's own attention is"),
        "value_norm": Entry(f"{_SCORERS}:value_norm", "length of the value vector"),
        "cls_attention_value": Entry(f"{_SCORERS}:cls_attention_value", "CLS attention x value norm (ATS)"),
        "key_redundancy": Entry(f"{_SCORERS}:key_redundancy", "1 - energy of similarity to all keys (PiToMe)"),
        "position": Entry(f"{_SCORERS}:position", "fixed length: keep the first n"),
        "position_stride": Entry(f"{_SCORERS}:position_stride", "fixed length: keep every k-th"),
        "random": Entry(f"{_SCORERS}:random", "seeded random order, the floor to beat"),
    },
)

MERGES = Registry(
    "merge",
    {
        "drop": Entry(f"{_MERGES}:drop", "tokens that are not kept disappear"),
        "fuse": Entry(f"{_MERGES}:fuse", "they become one weighted token (EViT)", makes_sizes=True),
        "nearest": Entry(
            f"{_MERGES}:nearest",
            "each is averaged into the most similar kept token",
            makes_sizes=True,
        ),
        "soft": Entry(f"{_MERGES}:soft", "each is spread over the kept tokens by similarity", makes_sizes=True),
        "bipartite": Entry(
            f"{_MERGES}:bipartite",
            "bipartite soft matching (ToMe); ignores the scorer",
            uses_scores=False,
            makes_sizes=True,
        ),
    },
)

_SAMPLERS = "prunesearch.search.samplers.build"

SAMPLERS = Registry(
    "sampler",
    {
        "guided": Entry(f"{_SAMPLERS}:guided", "expected front growth by the cost table and the one-stage losses"),
        "tpe": Entry(f"{_SAMPLERS}:tpe", "multi-objective tree-structured Parzen estimator"),
        "nsga2": Entry(f"{_SAMPLERS}:nsga2", "NSGA-II"),
        "nsga3": Entry(f"{_SAMPLERS}:nsga3", "NSGA-III, for three objectives and more"),
        "gp": Entry(f"{_SAMPLERS}:gp", "Gaussian processes and expected hypervolume; takes seconds a trial"),
        "evolution": Entry(f"{_SAMPLERS}:evolution", "evolutionary search of the Length-Adaptive Transformer"),
        "qmc": Entry(f"{_SAMPLERS}:qmc", "quasi-random draws (Sobol); learns nothing"),
        "random": Entry(f"{_SAMPLERS}:random", "independent uniform draws; learns nothing"),
    },
)

ENGINES = Registry(
    "engine",
    {
        "local": Entry("prunesearch.search.engines.local:make_local_engine", "in this process, one after another"),
        "ray": Entry("prunesearch.search.engines.ray:make_ray_engine", "Ray Tune, on this machine or a cluster"),
    },
)
