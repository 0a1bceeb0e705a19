"""One reduction site of a schedule: where it is, how much it keeps, scored by what, dropped or merged how."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from prunesearch.core.errors import CorruptFileError, PruneSearchError, did_you_mean
from prunesearch.core.plans.amount import AMOUNTS, Amount, Keep
from prunesearch.core.tables.params import Param, Params, all_params, checked_params, params_text, parse_params
from prunesearch.core.tables.token_tables import MERGES, SCORERS, SELECTIONS

TOWER, INPUT, ENCODER, DECODER = "tower", "input", "encoder", "decoder"
BEFORE = -1  # number of the site before the first block
IN_TOWER = -1000  # number of the site in the first block of a tower, which is far in front of that
# where a stage may be, in the order in which tokens pass; `input`: what a decoder is given, before its first block
PARTS = (TOWER, INPUT, ENCODER, DECODER)
TOP_K = "top_k"


class Place(NamedTuple):
    """Where a stage is: between the attention and the MLP of block `block` (from 0) of a part, one of `PARTS`.

    The part `input` has no blocks: a stage there, at `input/0`, is before the first block of the decoder. A `tower`
    makes the tokens of a decoder's pictures, one of each of its own: what leaves in it never enters the decoder.
    """

    part: str
    block: int

    def __str__(self) -> str:
        return str(self.block) if self.part == ENCODER else f"{self.part}/{self.block}"

    @property
    def order(self) -> tuple[int, int]:
        """Sorts places as tokens pass them."""
        return PARTS.index(self.part), self.block

    @property
    def site(self) -> int:
        """Number of the block, `BEFORE` for the input; those of a tower count from `IN_TOWER`."""
        if self.part == TOWER:
            return IN_TOWER + self.block
        return BEFORE if self.part == INPUT else self.block

    @classmethod
    def of_site(cls, site: int, part: str) -> Place:
        """The place that a number is of; `part` has the model's blocks."""
        if site < BEFORE:
            return cls(TOWER, site - IN_TOWER)
        return cls(INPUT, 0) if site == BEFORE else cls(part, site)

    @property
    def tokens_of(self) -> str:
        """The part whose tokens at the start are those that a stage here counts: a decoder is given its input's, and
        those of its tower."""
        return DECODER if self.part in (TOWER, INPUT) else self.part


@dataclass(frozen=True, init=False, repr=False)
class Stage:
    """One reduction site, between the attention and the MLP of a block.

    Args:
        layer: index of the block, from 0; or a `Place` in another part than the encoder.
        keep: fraction in (0, 1] of the INITIAL reducible tokens that leave the stage; or an `Amount`, of which
            `Threshold` and `Cumulative` leave every row a count of its own.
        scorer: a name in `SCORERS`; ignored by merges that match by similarity alone (`bipartite`).
        merge: a name in `MERGES`; what becomes of the tokens that are not kept.
        selection: a name in `SELECTIONS`: how scores become kept tokens.
        params: parameters of the scorer, the merge and the selection, by name; what is left out has its default.

    Raises:
        PruneSearchError: for a name that is in no table, or a number out of its range.
    """

    place: Place
    amount: Amount
    scorer: str = "cls_attention"
    merge: str = "drop"
    selection: str = TOP_K
    params: Params = ()

    def __init__(
        self,
        layer: int | Place,
        keep: float | Amount,
        scorer: str = "cls_attention",
        merge: str = "drop",
        selection: str = TOP_K,
        params: Mapping[str, float] | Iterable[tuple[str, float]] = (),
    ) -> None:
        place = layer if isinstance(layer, Place) else Place(ENCODER, layer)
        if isinstance(place.block, bool) or not isinstance(place.block, int) or place.block < 0:
            raise PruneSearchError(f"`layer` must be an integer >= 0, but got {place.block!r}")
        if place.part not in PARTS:
            raise PruneSearchError(f"unknown part '{place.part}' of a model: {did_you_mean(str(place.part), PARTS)}")
        for table, name in ((SCORERS, scorer), (MERGES, merge), (SELECTIONS, selection)):
            table.entry(name)
        self.__dict__.update(
            place=place,
            amount=keep if isinstance(keep, Amount) else Keep(keep),
            scorer=scorer,
            merge=merge,
            selection=selection,
            params=checked_params(params, known_params(scorer, merge, selection)) if params else (),
        )
        if self.by_row:
            _check_by_row(self)

    def __repr__(self) -> str:
        said = [f"{name}={value!r}" for name, value in self.to_dict().items() if name not in ("layer", "part")]
        where = self.layer if self.place.part == ENCODER else self.place
        return f"Stage(layer={where!r}, {', '.join(said)})"

    @property
    def layer(self) -> int:
        """Number of the block in its part."""
        return self.place.block

    @property
    def keep(self) -> float:
        """The fraction of the initial reducible tokens that leaves the stage, at most."""
        return self.amount.share

    @property
    def by_row(self) -> bool:
        """Whether how many tokens it leaves hangs on what is in a row, and not on the length of the row alone."""
        return bool(self.amount.counts) or not SELECTIONS.entry(self.selection).static

    @property
    def method(self) -> str:
        """How it reduces, as `read_method` reads it: `scorer+merge`, or the merge alone where the scorer is ignored.

        Parameters that are not the default are in it, and so is a selection other than top-k: equal methods reduce
        alike.
        """
        merge = self.merge + params_text(MERGES.entry(self.merge).params, self.params)
        if not MERGES.entry(self.merge).uses_scores:
            return merge
        rows = SCORERS.entry(self.scorer), SELECTIONS.entry(self.selection)
        said, picked = (params_text(row.params, self.params) for row in rows)
        by = f"@{self.selection}{picked}" if self.selection != TOP_K or picked else ""
        return f"{self.scorer}{said}+{merge}{by}"

    @property
    def scoring(self) -> str:
        """What says which tokens stay, as tables name what it costs: the scorer, `@selection` behind it."""
        return self.scorer if self.selection == TOP_K else f"{self.scorer}@{self.selection}"

    @property
    def chosen_by(self) -> str:
        """As `scoring`, for people: the selection alone where the scorer chooses nothing and weighs nothing."""
        if SELECTIONS.entry(self.selection).ranks or not MERGES.entry(self.merge).loses:
            return self.scoring
        return self.selection

    @property
    def reads_attention(self) -> bool:
        """Whether its scorer reads who attends to whom."""
        return MERGES.entry(self.merge).uses_scores and SCORERS.entry(self.scorer).attends

    @property
    def reads_tower(self) -> bool:
        """Whether its scorer reads what the tower in front of a decoder attended to."""
        return MERGES.entry(self.merge).uses_scores and SCORERS.entry(self.scorer).tower

    @property
    def reads_frames(self) -> bool:
        """Whether its selection compares the frames of videos."""
        return MERGES.entry(self.merge).uses_scores and SELECTIONS.entry(self.selection).frames

    @property
    def scorer_params(self) -> dict[str, float]:
        """Every parameter of its scorer, defaults included."""
        return all_params(SCORERS.entry(self.scorer).params, self.params)

    @property
    def merge_params(self) -> dict[str, float]:
        """Every parameter of its merge, defaults included."""
        return all_params(MERGES.entry(self.merge).params, self.params)

    @property
    def selection_params(self) -> dict[str, float]:
        """Every parameter of its selection, defaults included."""
        return all_params(SELECTIONS.entry(self.selection).params, self.params)

    def replace(self, **changes: Any) -> Stage:
        """The same stage with other arguments, by the names that `Stage(...)` takes them by."""
        now = {"layer": self.place, "keep": self.amount, "scorer": self.scorer, "merge": self.merge}
        return Stage(**{**now, "selection": self.selection, "params": self.params, **changes})

    def to_dict(self) -> dict[str, Any]:
        """The plain JSON form; what has its default is left out, but for scorer and merge."""
        said: dict[str, Any] = {"layer": self.layer, **self.amount.to_dict()}
        said |= {"scorer": self.scorer, "merge": self.merge}
        if self.place.part != ENCODER:
            said["part"] = self.place.part
        if self.selection != TOP_K:
            said["selection"] = self.selection
        if self.params:
            said["params"] = dict(self.params)
        return said

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Stage:
        """Read the plain form.

        Raises:
            CorruptFileError: for a key that is missing, or not known.
            PruneSearchError: as `Stage` does.
        """
        needed, optional = {"layer", "scorer", "merge"}, {"part", "selection", "params"}
        amounts = [key for key in data if key in AMOUNTS]
        if len(amounts) != 1 or not needed <= set(data) <= needed | optional | set(AMOUNTS):
            raise CorruptFileError(
                f"a stage has the keys {sorted(needed)}, one of {sorted(AMOUNTS)}, and perhaps {sorted(optional)}, "
                f"but got {sorted(data)}"
            )
        given = data.get("params", {})
        if not isinstance(given, Mapping):
            raise CorruptFileError(f'"params" of a stage must be an object, but got {given!r}')
        amount: Any = AMOUNTS[amounts[0]]
        return cls(
            Place(data.get("part", ENCODER), data["layer"]),
            amount(data[amounts[0]]),
            data["scorer"],
            data["merge"],
            data.get("selection", TOP_K),
            given,
        )


def _check_by_row(stage: Stage) -> None:
    """Raise for a stage whose rows cannot have counts of their own."""
    said = f"'{stage.amount} {stage.method}'"
    if stage.amount.counts and stage.selection != TOP_K:
        raise PruneSearchError(
            f"a {stage.amount.counts} says itself which tokens stay, so that {said} must have no selection: leave "
            f"@{stage.selection} out"
        )
    if not MERGES.entry(stage.merge).uses_scores:
        raise PruneSearchError(
            f"merge '{stage.merge}' has no scores to count tokens by in {said}: use drop, fuse, nearest or soft"
        )
    if SCORERS.entry(stage.scorer).by_place:
        raise PruneSearchError(
            f"scorer '{stage.scorer}' says the same of all rows of a length, so that {said} has no counts of rows: "
            "give a fraction, as 0.7, or another scorer"
        )


def known_params(scorer: str, merge: str, selection: str = TOP_K) -> dict[str, Param]:
    """The parameters of what is at work in a stage, by name.

    Raises:
        PruneSearchError: for a name that is in no table, or a parameter that two of the three have.
    """
    rows = [MERGES.entry(merge).params]
    others = SCORERS.entry(scorer).params, SELECTIONS.entry(selection).params
    if MERGES.entry(merge).uses_scores:
        rows += others
    known: dict[str, Param] = {}
    for row in rows:
        if twice := known.keys() & row.keys():
            raise PruneSearchError(
                f"parameter '{min(twice)}' belongs to two of scorer '{scorer}', merge '{merge}' and selection "
                f"'{selection}': register one of them with another name for it"
            )
        known |= row
    return known


# -- methods as one types them -------------------------------------------------------------------------------------


class Method(NamedTuple):
    """How a stage reduces: the arguments of `Stage` after layer and keep."""

    scorer: str
    merge: str
    selection: str = TOP_K
    params: Params = ()


_NAMED = r"([\w.-]+)(?:\(([^()]*)\))?"
_METHOD = re.compile(rf"(?:{_NAMED}\+)?{_NAMED}(?:@{_NAMED})?")


def read_method(text: str) -> Method:
    """Read `SCORER(NAME=NUMBER, ...)+MERGE(...)@SELECTION(...)`, of which a merge that needs no scorer may be all.

    >>> read_method("value_norm+fuse")[:2], read_method("key_redundancy(margin=0.5)+drop").params
    (('value_norm', 'fuse'), (('margin', 0.5),))

    Raises:
        PruneSearchError: naming what cannot be read, or is in no table.
    """
    match = _METHOD.fullmatch("".join(text.split()))
    if match is None:
        raise PruneSearchError(f"a method is SCORER+MERGE, or a merge alone, but got '{text}'")
    scorer, of_scorer, merge, of_merge, selection, of_selection = match.groups()
    if scorer is None:
        scorer = Stage.scorer
        if MERGES.entry(merge).uses_scores:
            raise PruneSearchError(
                f"merge '{merge}' needs a scorer: write it as SCORER+{merge}, for example cls_attention+{merge}"
            )
    selection = selection or TOP_K
    given = [parse_params(said) for said in (of_scorer, of_merge, of_selection) if said is not None]
    params = checked_params({k: v for part in given for k, v in part.items()}, known_params(scorer, merge, selection))
    return Method(scorer, merge, selection, params)


def parse_method(method: str) -> tuple[str, str]:
    """What a method selects by, and its merge: what decides its cost (see `Stage.scoring`).

    >>> parse_method("value_norm+fuse"), parse_method("bipartite"), parse_method("random+drop@diversity")
    (('value_norm', 'fuse'), ('cls_attention', 'bipartite'), ('random@diversity', 'drop'))
    """
    scorer, merge, selection, _ = read_method(method)
    return (scorer if selection == TOP_K else f"{scorer}@{selection}"), merge


def method_of(scoring: str, merge: str) -> str:
    """The method that `parse_method` takes apart.

    >>> method_of("random@diversity", "drop"), method_of("value_norm", "fuse")
    ('random+drop@diversity', 'value_norm+fuse')
    """
    scorer, at, selection = scoring.partition("@")
    return f"{scorer}+{merge}{at}{selection}"
