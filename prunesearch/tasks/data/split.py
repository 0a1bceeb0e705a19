"""Calibration, holdout and training rows: disjoint, seeded, each class in its share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from datasets.arrow_dataset import Dataset
from datasets.features import ClassLabel
from numpy.typing import NDArray

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.columns import Columns, check_columns, digests
from prunesearch.tasks.data.labels import UNLABELLED, LabelMap, Raw, clean, is_unlabelled
from prunesearch.tasks.data.readers.file_rows import skipped
from prunesearch.tasks.data.sources import DataSource
from prunesearch.tasks.data.usable import damaged, without_gaps

CAPS = {"calibration": 2000, "holdout": 4000, "train": 2000}  # rows, unless the user says otherwise
ALIASES = {
    "validation": ("validation", "valid", "val", "dev", "validation_matched"),
    "test": ("test", "test_matched"),
    "train": ("train", "training"),
}
Labeller = Callable[[set[Raw], list[str] | None], LabelMap]


@dataclass(frozen=True)
class Sizes:
    """How many rows each split shall have; None: the default (at most `caps`, and what there is)."""

    calibration: int | None = None
    holdout: int | None = None
    train: int | None = None
    caps: Mapping[str, int] = field(default_factory=lambda: CAPS)

    @classmethod
    def whole(cls, calibration: int) -> Sizes:
        """So many calibration rows, and all others for the holdout split."""
        return cls(calibration, caps=dict.fromkeys(CAPS, sys.maxsize))


def few(sizes: Sizes, calibration: int, holdout: int) -> Sizes:
    """`sizes` that take fewer rows unless the user says otherwise, for rows that take long."""
    return (
        sizes
        if sizes.caps is not CAPS
        else replace(sizes, caps={**CAPS, "calibration": calibration, "holdout": holdout})
    )


@dataclass(frozen=True)
class SplitPart:
    """The rows of one split, in a class-stratified random order, and their class ids `[n]`.

    `numbers` `[n]` are the rows' places in the data as its file has them, from 0; `source` says which data.
    """

    rows: Dataset
    labels: NDArray[np.int64]
    numbers: NDArray[np.int64]
    source: str

    def select(self, keep: NDArray[np.int64]) -> SplitPart:
        """The rows at the places `keep`, int64 `[k]`."""
        return replace(self, rows=self.rows.select(keep), labels=self.labels[keep], numbers=self.numbers[keep])

    def name_of(self, place: int) -> str:
        """What a user finds a row by: its number from 1, and the data it is in."""
        return f"row {self.numbers[place] + 1} of '{self.source}'"


@dataclass(frozen=True)
class Splits:
    """The parts by role ("calibration", "holdout" and perhaps "train"), disjoint in content."""

    parts: dict[str, SplitPart]
    label_names: list[str]
    notes: list[str] = field(default_factory=list)


def make_splits(
    source: DataSource,
    columns: Columns,
    labeller: Labeller,
    sizes: Sizes,
    *,
    seed: int,
    train: bool = False,
    needed: Sequence[str] = (),
) -> Splits:
    """Draw the splits from `source`; a row in two of them stays in holdout only (then calibration).

    `labeller` maps raw labels to class ids; `train` asks for a third split to fit a head on. Where `columns` has no
    label, all rows are one class. Rows without a cell in a column of `columns`, or in one that is `needed` besides
    (references), are left out, and counted in a note; so are those that cannot be read, if the source says so.
    Raises `PruneSearchError` when there are too few rows or a label does not fit.
    """
    raw = _raw_labels(source, columns)
    labelled = {name: _labelled(values) for name, values in raw.items()}
    pools, notes = _choose_pools(source, labelled, train)
    used = list(dict.fromkeys(pools.values()))
    for pool in used:
        check_columns(source, source.splits[pool], columns)
        gone = len(raw[pool]) - len(labelled[pool])
        notes += [f"{gone} rows of '{pool}' without a label were left out"] if gone else []
        labelled[pool], more = _whole_rows(source, pool, labelled[pool], columns, needed)
        notes += more
    label_map = labeller(
        {clean(raw[pool][i]) for pool in used for i in labelled[pool]},
        None if columns.label is None else _class_names(source, used, columns.label),
    )
    _check_minus_one(source, [raw[pool] for pool in used], label_map)
    parts: dict[str, SplitPart] = {}
    for pool in used:
        ids = label_map.ids([raw[pool][i] for i in labelled[pool]])
        order = stratified_order(ids, seed)
        roles = [role for role in CAPS if pools.get(role) == pool]
        start = 0
        granted = _allocate(len(ids), roles, sizes, source.name)
        notes += _unused(len(ids), granted, sizes, pool, len(source.splits) > 1)
        for role, size in granted.items():
            chosen = order[start : start + size]
            start += size
            numbers = labelled[pool][chosen]
            said = source.name if len(source.splits) == 1 else f"{source.name}:{pool}"
            places = source.numbers[pool][numbers] if pool in source.numbers else numbers
            parts[role] = SplitPart(source.splits[pool].select(numbers), ids[chosen], places, said)
    parts, bad_notes = _drop_bad(parts, columns, source) if source.skip_bad else (parts, [])
    parts, duplicate_notes = _drop_duplicates(parts, columns, source)
    if source.grouping is not None:
        source.grouping.read({role: part.rows for role, part in parts.items()}, source.name)
    notes += _one_class(parts, label_map.names)
    parts |= _in_views(parts, columns, source)
    return Splits(parts, label_map.names, [*notes, *label_map.notes, *bad_notes, *duplicate_notes])


def view_of_split(role: str, view: str) -> str:
    """What the rows of a split are called in a view: `holdout@fog`."""
    return f"{role}@{view}"


def _in_views(parts: dict[str, SplitPart], columns: Columns, source: DataSource) -> dict[str, SplitPart]:
    """The first rows of the splits that judge, in every view of the source."""
    found: dict[str, SplitPart] = {}
    views = source.views
    if views is None:
        return found
    for role in ("calibration", "holdout"):
        few = parts[role].select(np.arange(min(views.rows, len(parts[role].labels))))
        for view, rows in views(few.rows, columns, source.base):
            found[view_of_split(role, view)] = replace(few, rows=rows)
    return found


def _one_class(parts: dict[str, SplitPart], names: list[str]) -> list[str]:
    """Say which splits have rows of one class alone: whatever answers that class for every row is right there."""
    alone = {role: np.unique(part.labels) for role, part in parts.items()} if len(names) > 1 else {}
    return [
        f"all {len(parts[role].labels)} {role} rows are of the class '{names[ids[0]]}': a model that always answers it "
        "is right on all of them"
        for role, ids in alone.items()
        if len(ids) == 1
    ]


def split_rows(source: DataSource, columns: Columns, sizes: Sizes, *, seed: int, needed: Sequence[str] = ()) -> Splits:
    """Draw the splits where rows have no classes, at random; `columns` has no label. Otherwise as `make_splits`."""
    return make_splits(source, columns, lambda raw, names: LabelMap(["row"], {0: 0}), sizes, seed=seed, needed=needed)


def stratified_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return a random order `[n]` in which every run of rows has the classes in their shares.

    The rows of a class of size c are shuffled and placed at (0, 1, .., c - 1) / c of the way, plus a random
    part of one step; so a slice of the order is a stratified sample, off by about one row a class.
    """
    random = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks = random.permutation(len(members))
        place[members] = (ranks + random.random(len(members))) / len(members)
    return np.argsort(place, kind="stable").astype(np.int64)


def _raw_labels(source: DataSource, columns: Columns) -> dict[str, list[Any]]:
    """Labels as written, by split; a split without the column has none."""
    label = columns.label
    if label is None:
        return {name: [0] * len(rows) for name, rows in source.splits.items()}
    return {name: rows[label][:] for name, rows in source.splits.items() if label in rows.column_names}


def _labelled(values: list[Any]) -> NDArray[np.int64]:
    keep = [i for i, value in enumerate(values) if not is_unlabelled(value)]
    return np.array(keep, dtype=np.int64)


def _whole_rows(
    source: DataSource, pool: str, places: NDArray[np.int64], columns: Columns, needed: Sequence[str]
) -> tuple[NDArray[np.int64], list[str]]:
    """Of the rows at `places`, those with a cell in every column, and a note where some have none.

    Raises:
        PruneSearchError: if no row is left.
    """
    there, _ = without_gaps(source.splits[pool], columns, needed)
    kept = places[there[places]]
    if len(kept) == len(places):
        return places, []
    _, gone = without_gaps(source.splits[pool].select(places), columns, needed)
    said = ", ".join(f"{count} of '{name}'" for name, count in gone.items())
    if len(kept) == 0:
        raise PruneSearchError(f"rows must have cells, but all of '{pool}' in '{source.name}' are empty ({said})")
    lost = len(places) - len(kept)
    return kept, [f"{lost} rows of '{pool}' with an empty cell were left out ({said})"]


def _drop_bad(
    parts: dict[str, SplitPart], columns: Columns, source: DataSource
) -> tuple[dict[str, SplitPart], list[str]]:
    """Leave out rows whose image, sound or video cannot be decoded, and say how many they are."""
    kept, bad = {}, []
    for role, part in parts.items():
        why = list(damaged(part.rows, columns, source.base))
        bad += [f"{part.name_of(place)} ({reason})" for place, reason in enumerate(why) if reason]
        good = np.array([place for place, reason in enumerate(why) if not reason], dtype=np.int64)
        if len(good) == 0:
            raise PruneSearchError(f"rows must be readable, but no {role} row is: {bad[-1]}")
        kept[role] = part.select(good)
    return kept, skipped(bad, "damaged rows were")


def _check_minus_one(source: DataSource, labels: list[list[Any]], found: LabelMap) -> None:
    """Refuse -1 where it may as well be a class (-1, 0, 1 for three classes) as stand for "no label".

    Raises:
        PruneSearchError: if -1 and the other labels are as many as the classes.
    """
    written = {label for column in labels for label in column if label is not None and label == label}
    others = {clean(label) for label in written} - {UNLABELLED}
    minus = any(str(label).strip().startswith("-1") for label in written if clean(label) == UNLABELLED)
    if minus and len(others) + 1 == len(found.names) and all(isinstance(label, int) for label in others):
        raise PruneSearchError(
            f"labels must be 0 to {len(found.names) - 1}, but those of '{source.name}' are -1, "
            f"{', '.join(map(str, sorted(others, key=str)))}: number the classes from 0, or leave out the rows with -1"
        )


def _class_names(source: DataSource, pools: list[str], label: str) -> list[str] | None:
    """Return the names that the data itself gives its label numbers, the same in every pool."""
    features = [source.splits[pool].features[label] for pool in pools]
    names = [list(f.names) if isinstance(f, ClassLabel) else None for f in features]
    if any(other != names[0] for other in names[1:]):
        raise PruneSearchError(
            f"every split of '{source.name}' must name its classes alike, but the column '{label}' differs "
            f"between {' and '.join(pools)}: save them with the same features"
        )
    return names[0]


def _choose_pools(
    source: DataSource, labelled: dict[str, NDArray[np.int64]], train: bool
) -> tuple[dict[str, str], list[str]]:
    """Say which split of the source each role draws from, and tell the user where it is not plain."""
    usable = {name for name, rows in labelled.items() if len(rows)}
    if not usable:
        raise PruneSearchError(f"data must have labels, but every label in '{source.name}' is missing")
    if {"calibration", "holdout"} <= usable:
        roles = {"calibration": "calibration", "holdout": "holdout"}
        return (roles | {"train": "calibration"} if train else roles), []
    found = {kind: next((a for a in names if a in usable), None) for kind, names in ALIASES.items()}
    notes = []
    main = found["validation"] or found["train"] or found["test"] or next(iter(sorted(usable)))
    holdout = found["test"] or main
    if len(source.splits) > 1:
        notes.append(f"calibration rows come from the split '{main}', holdout rows from '{holdout}'")
    if found["validation"] is None and main == found["train"] and holdout != main:
        notes.append("no validation split: calibration uses training rows, which the model may know")
    roles = {"calibration": main, "holdout": holdout}
    if train:
        roles["train"] = found["train"] or main
    return roles, notes


def _allocate(n: int, roles: list[str], sizes: Sizes, source: str) -> dict[str, int]:
    """Share the `n` rows of a pool among the roles that draw from it.

    What was asked for is granted or refused; of the others, the last gets what is left and the ones before
    it at most a third of the pool, none more than `sizes.caps` says.
    """
    asked = {role: size for role in roles if (size := getattr(sizes, role)) is not None}
    open_roles = [role for role in roles if role not in asked]
    for role, size in asked.items():
        if size < 1:
            raise PruneSearchError(f"`{role} >= 1` must hold, but got {size}: ask for at least one row")
    left = n - sum(asked.values())
    if left < len(open_roles):
        wanted = " + ".join(f"{role} {size}" for role, size in asked.items()) or " and ".join(roles)
        raise PruneSearchError(f"{wanted} rows are too many for the {n} labelled rows of '{source}': ask for fewer")
    granted = dict(asked)
    for i, role in enumerate(open_roles):
        others = len(open_roles) - i - 1
        share = left if others == 0 else max(1, min(n // 3, left - others))
        granted[role] = min(sizes.caps[role], share)
        left -= granted[role]
    return {role: granted[role] for role in roles}


def _unused(n: int, granted: dict[str, int], sizes: Sizes, pool: str, several: bool) -> list[str]:
    """Say it where the user's rows are not all used: how many are, and what takes more."""
    left = n - sum(granted.values())
    if left == 0:
        return []
    where = f" of '{pool}'" if several else ""
    capped = [role for role in granted if getattr(sizes, role) is None]
    more = f"; more with {', '.join(f'{role}=N' for role in capped)}" if capped else ", as asked"
    used = " and ".join(f"{size} for {role}" for role, size in granted.items())
    return [f"of the {n} rows{where} {used} are used{more}"]


def _drop_duplicates(
    parts: dict[str, SplitPart], columns: Columns, source: DataSource
) -> tuple[dict[str, SplitPart], list[str]]:
    """Drop rows from calibration (and train) whose content is also in a split that judges them."""
    seen: set[bytes] = set()
    kept: dict[str, SplitPart] = {}
    notes = []
    for role in ("holdout", "calibration", "train"):
        if role not in parts:
            continue
        part = parts[role]
        hashes = list(digests(part.rows, columns, source.base, part.name_of))
        fresh = np.array([i for i, h in enumerate(hashes) if h not in seen], dtype=np.int64)
        if len(fresh) == 0:
            raise PruneSearchError(f"the splits must differ, but every {role} row is also in another: give other data")
        if len(fresh) < len(hashes):
            notes.append(f"{len(hashes) - len(fresh)} {role} rows were dropped: the same content is in another split")
            part = part.select(fresh)
        kept[role] = part
        seen.update(hashes)
    return {role: kept[role] for role in parts}, notes
