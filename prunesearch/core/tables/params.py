"""Parameters of scorers, merges and selections: numbers that a stage may set and a search may vary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prunesearch.core.errors import PruneSearchError, did_you_mean

# what a stage sets, by name; only what is not the default
Params = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Param:
    """A number that a row of a table of names takes.

    Attributes:
        default: what holds where a stage says nothing.
        low, high: the least and the greatest that may be asked for.
        help: one line for people.
        log: whether it varies by factors rather than by steps, for a search.
    """

    default: float
    low: float
    high: float
    help: str
    log: bool = False


def checked_params(given: Mapping[str, float] | Iterable[tuple[str, float]], known: Mapping[str, Param]) -> Params:
    """What of `given` is not the default, in the order of names.

    Raises:
        PruneSearchError: for a name that is not `known`, naming the nearest, or a value out of its range.
    """
    found = []
    for name, value in sorted(dict(given).items()):
        if name not in known:
            hint = did_you_mean(str(name), known) if known else "this method has none"
            raise PruneSearchError(f"unknown parameter '{name}': {hint}")
        param = known[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not param.low <= value <= param.high:
            raise PruneSearchError(f"`{param.low:g} <= {name} <= {param.high:g}` must hold, but got {value!r}")
        if value != param.default:
            found.append((name, float(value)))
    return tuple(found)


def all_params(known: Mapping[str, Param], given: Params = ()) -> dict[str, float]:
    """The value of every known parameter: as given, or its default; what is given for others is left out."""
    chosen = dict(given)
    return {name: chosen.get(name, param.default) for name, param in known.items()}


def params_text(known: Mapping[str, Param], given: Params) -> str:
    """`(margin=0.5)` of what is given and known; empty if nothing is.

    >>> params_text({"margin": Param(0.9, 0, 1, "")}, (("margin", 0.5),))
    '(margin=0.5)'
    """
    said = [f"{name}={value!r}" for name, value in given if name in known]
    return f"({', '.join(said)})" if said else ""


def parse_params(text: str) -> dict[str, float]:
    """Read the inside of what `params_text` writes.

    Raises:
        PruneSearchError: naming the part that is not NAME=NUMBER.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        try:
            number = float(value)
        except ValueError:
            number = None
        if not (name and equals) or number is None or name in found:
            raise PruneSearchError(
                f"parameters are NAME=NUMBER with commas between, each once, but got '{text.strip()}'"
            )
        found[name] = number
    return found
