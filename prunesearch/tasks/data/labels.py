"""From labels as written in the data to class ids of the model's head."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.tasks.data.readers.delimited import NUMBER

UNLABELLED = -1
_MISSING = ("", "nan", "<na>")  # how pandas writes a missing cell into a file
GENERIC = re.compile(r"label_?(\d+)", re.IGNORECASE)
Raw = int | str
_BLANKS = re.compile(r"[\s_-]+")
_TRUTHS = {"false": 0, "true": 1}


@dataclass(frozen=True)
class LabelMap:
    """Class ids by raw label (`lookup`), the classes' names by id, and what to tell the user."""

    names: list[str]
    lookup: dict[Raw, int]
    notes: list[str] = field(default_factory=list)

    def ids(self, raw: list[Any]) -> NDArray[np.int64]:
        """Return the class ids `[n]` of raw labels."""
        return np.array([self.lookup[clean(value)] for value in raw], dtype=np.int64)


def clean(value: Any) -> Raw:
    """Return a raw label as a plain int or a stripped string; a whole number in a string is an int, `3.0` too.

    True and false are strings: they may be names of the head's, in whichever order.
    """
    if value is None or value != value:  # NaN is how tables with gaps write None
        return UNLABELLED
    if isinstance(value, str):
        text = value.strip()
        if text.casefold() in _MISSING:
            return UNLABELLED
        number = re.fullmatch(r"(-?\d{1,9})(\.0*)?", text)
        return int(number[1]) if number else text
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, int | float | np.integer | np.floating) and value % 1 == 0:
        return int(value)
    raise PruneSearchError(f"a label must be a whole number or a name, but got {value!r:.60}")


def is_unlabelled(value: Any) -> bool:
    """Say whether a raw label stands for "none": missing, empty, or -1 (hidden test labels)."""
    return clean(value) == UNLABELLED


def head_labels(raw: set[Raw], names: list[str] | None, id2label: dict[int, str]) -> LabelMap:
    """Map raw labels onto a trained head.

    `names` are the data set's own class names (integer labels index them), `id2label` the head's.
    Raises `PruneSearchError` when a label does not fit the head.
    """
    classes = [id2label[i] for i in sorted(id2label)]
    if len(classes) < 2:
        raise PruneSearchError(
            f"the head must have two classes or more, but has {len(classes)}: regression is not supported"
        )
    by_name = _by_name(classes)
    generic = all(GENERIC.fullmatch(name) for name in classes)
    numbers = {label for label in raw if isinstance(label, int)}
    if numbers == raw:
        return _from_numbers(numbers, names, classes, by_name, generic)
    lookup = {label: _called(str(label), by_name) for label in raw}
    if UNLABELLED not in lookup.values():
        return LabelMap(classes, lookup)
    truths = {label: _TRUTHS.get(str(label).casefold()) for label in raw}
    if len(classes) == 2 and None not in truths.values():
        found = {label: int(value) for label, value in truths.items() if value is not None}
        return LabelMap(classes, found, [f"labels: false is {classes[0]}, true is {classes[1]}"])
    matches = {label: GENERIC.fullmatch(str(label)) for label in raw}
    if all(matches.values()):
        lookup = {label: int(match.group(1)) for label, match in matches.items() if match}
        _check_range(set(lookup.values()), classes)
        return LabelMap(classes, lookup)
    if not generic:
        unknown = sorted(str(label) for label, i in lookup.items() if i == UNLABELLED)
        raise PruneSearchError(_not_a_class(unknown, classes))
    return _alphabetical(raw, classes)


def _plain(name: str) -> str:
    """A name as it is compared: in small letters, with a blank for each `_`, `-` and run of blanks."""
    return _BLANKS.sub(" ", name.strip().casefold())


def _by_name(classes: list[str]) -> dict[str, int]:
    """Class ids by name, by `_plain` name, and by the first of several ("tench, Tinca tinca"), where one has it."""
    exact = {name.casefold(): i for i, name in enumerate(classes)}
    plain, first = [_plain(name) for name in classes], [_plain(name.partition(",")[0]) for name in classes]
    others = {name: i for names in (first, plain) for i, name in enumerate(names) if names.count(name) == 1}
    return others | exact


def _called(name: str, by_name: dict[str, int]) -> int:
    """The id of the class that is called so, or `UNLABELLED`."""
    return by_name.get(name.casefold(), by_name.get(_plain(name), UNLABELLED))


def free_labels(raw: set[Raw], names: list[str] | None) -> LabelMap:
    """Number the classes of data for a head that is yet to be fitted: by `names`, else sorted."""
    numbers = {label for label in raw if isinstance(label, int)}
    if names is not None and numbers == raw:
        _check_range(numbers, names)
        return LabelMap(names, {label: label for label in numbers})
    ordered: list[Raw] = sorted(raw, key=lambda label: (isinstance(label, str), label))
    if len(ordered) < 2:
        raise PruneSearchError(f"two classes or more are needed, but every label is {ordered}: check the label column")
    notes = [f"labels '{a}' and '{b}' are two classes, though they differ in case alone" for a, b in _alike(ordered)]
    return LabelMap([str(label) for label in ordered], {label: i for i, label in enumerate(ordered)}, notes)


def _from_numbers(
    numbers: set[int],
    names: list[str] | None,
    classes: list[str],
    by_name: dict[str, int],
    generic: bool,
) -> LabelMap:
    """Take integers as class ids, unless the data's own names say that the model orders them otherwise."""
    if names is None and not generic and all(str(number) in by_name for number in numbers):
        called: dict[Raw, int] = {number: by_name[str(number)] for number in numbers}
        notes = ["labels are the names of the model's classes, which are numbers; LABEL_N is the class with the id N"]
        return LabelMap(classes, called, notes if any(raw != i for raw, i in called.items()) else [])
    if names is not None and all(_called(name, by_name) != UNLABELLED for name in names):
        _check_range(numbers, names)
        lookup: dict[Raw, int] = {i: _called(names[i], by_name) for i in numbers}
        moved = any(raw != i for raw, i in lookup.items())
        notes = ["labels were matched to the model's classes by name (their order differs)"]
        return LabelMap(classes, lookup, notes if moved else [])
    if names is not None and not generic and len(names) != len(classes):
        raise PruneSearchError(
            f"classes must be the model's, but the data has {_some(names)} and the model {_some(classes)}: use data "
            "that fits the model, or name the classes as it does"
        )
    _check_range(numbers, classes)
    notes = []
    if names is not None and not generic:
        notes = [
            f"class names differ (data: {_some(names)}; model: {_some(classes)}): label numbers are taken as they are"
        ]
    shown = names if names is not None and generic and len(names) == len(classes) else classes
    return LabelMap(shown, {i: i for i in numbers}, notes)


def _alphabetical(raw: set[Raw], classes: list[str]) -> LabelMap:
    """The head's classes have no names: the data's, sorted, must be as many, and differ in more than their case."""
    ordered = sorted(str(label) for label in raw)
    if any(NUMBER.fullmatch(name) for name in ordered):
        raise PruneSearchError(f"a label must be a whole number or a name, but got {_some(ordered)}")
    for one, other in _alike(ordered):
        raise PruneSearchError(
            f"classes must differ in more than case, but got '{one}' and '{other}': write them alike"
        )
    if len(ordered) != len(classes):
        raise PruneSearchError(
            f"the head has {len(classes)} unnamed classes, but the data has {len(ordered)} labels "
            f"({_some(ordered)}): use integer labels or data that fits the model"
        )
    note = f"the model does not name its classes: labels taken in the order {_some(ordered)}"
    by_text = {str(label): label for label in raw}
    return LabelMap(ordered, {by_text[name]: i for i, name in enumerate(ordered)}, [note])


def _alike(labels: Iterable[Raw]) -> list[tuple[str, str]]:
    """Pairs of labels that differ in their case alone."""
    seen: dict[str, str] = {}
    pairs = [(seen.setdefault(str(label).casefold(), str(label)), str(label)) for label in labels]
    return [(one, other) for one, other in pairs if one != other]


def _check_range(numbers: set[int], classes: list[str]) -> None:
    for number in (min(numbers), max(numbers)):
        if not 0 <= number < len(classes):
            raise PruneSearchError(
                f"labels must be 0 to {len(classes) - 1} for the model's {len(classes)} classes, but got "
                f"{number}: use data that fits the model, or another label column"
            )


def _not_a_class(unknown: list[str], classes: list[str]) -> str:
    label = unknown[0]
    folded = {name.casefold(): name for name in classes}
    near = [folded[name] for name in difflib.get_close_matches(label.casefold(), folded, n=8, cutoff=0.5)]
    shown = classes if len(classes) <= 20 else near
    wanted = near[0] if near else label
    return (
        f"label '{label:.40}'{f' (and {_some(unknown[1:])})' if unknown[1:] else ''} is not one of the model's "
        f"{len(classes)} classes: "
        f"{did_you_mean(wanted, shown)}{'' if shown is classes else ', …'}"
    )


def _some(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
