"""The pages on files, written from the models that read them, so that they cannot go stale.

    python -m prunesearch.report.schema_pages        # writes docs/front-schema.md and docs/profile-schema.md

What a page says of a part stands in its docstring, and of a field in its description; here are only the words around.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from prunesearch.core.costs import COSTS
from prunesearch.core.files import write_text_atomic
from prunesearch.cost.tables.device_profile import Profile
from prunesearch.cost.tables.table_records import Cells
from prunesearch.study.front import Front

_NAMES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}

_FRONT = """\
# `front.json`, version {version}

What `prunesearch run` leaves in `studies/<name>/front.json`: the unpruned reference, the Pareto-optimal
schedules with what was measured of them, and the conditions under which that holds. UTF-8 JSON, written
atomically. In Python: `from prunesearch.study.front import Front; front = Front.load(path)`.
This page is written by `python -m prunesearch.report.schema_pages` from the models themselves.

Rules for the whole file:

- No key is optional unless a default is named here; an unknown key is an error (`device` alone takes further
  facts). Numbers are finite.
- Times in the search are seconds. Costs are in the units below. Qualities, differences and relative errors are
  fractions (0.8 is 80 %).
- A reader refuses a newer `version`. A field may be added with a default without a new version; a field that
  changes its meaning, or goes, raises it. Versions 2 and 3 are rewritten when they are read; nothing of them is lost.
- A *load* is a batch size with a number of tokens. A study of several loads has one cost table for each; the latency
  of a point is then what they come to together (`across`): the weighted mean, or the worst, of their shares of the
  unpruned model's latency, times what the unpruned model takes under the first load. Other costs, `conditions` and
  `tokens` are those of the first load, which has the most tokens.

## Costs

One row each; what a package registers comes on top.

{costs}
"""

_PROFILE = """\
# `profile.json`, version {version}, and its tables

What `prunesearch profile` leaves in a folder `<profile>/`: `profile.json`, and one file a cost table in `tables/`.
Shipped profiles lie in `hw_profiles/`, a user's own in `~/.prunesearch/hw_profiles` (or `$PRUNESEARCH_PROFILES`), where
they shadow shipped ones of the same name. In Python:
`from prunesearch.cost.tables.device_profile import find_profile; find_profile("h200")`.
This page is written by `python -m prunesearch.report.schema_pages` from the models themselves.

Rules for the whole profile:

- An unknown key is an error; a reader refuses a newer `version`. Numbers are finite, times and energies not negative.
- Times are milliseconds **per batch**, energies gross millijoules **per input**; the file says so in `units`, and other
  units are refused. Relative errors are fractions.
- A table holds for blocks of one *key*: kind, width, heads, MLP width and activation, under its `conditions`. A model
  of other depth or fewer tokens is served by the same table, which is then noted; another dtype, batch size, attention
  or mode is refused.

## `tables/*.json`

A list of flat rows, one a cell; `pandas.read_json(path)` makes a data frame of it. `piece` is `stem` (before the first
block), `attention`, `mlp` (halves of one block), `reduce` (a stage) or `head` (after the last block); each has what
its class below has.
"""


@dataclass(frozen=True)
class Page:
    """A page on a file.

    Attributes:
        file: its name in `docs/`.
        head: what it begins with; `{version}` and `{costs}` are filled in.
        model: the whole of the file.
        more: of other files that belong to it.
    """

    file: str
    head: str
    model: type[BaseModel]
    more: tuple[type[BaseModel], ...] = ()

    def text(self) -> str:
        """The page in Markdown."""
        version = self.model.model_fields["version"].default
        parts = [self.head.format(version=version, costs=_costs()).rstrip()]
        for model, title in [*_parts(self.model), *(pair for other in self.more for pair in _parts(other, top=False))]:
            parts += ["", f"## {title}", "", *_said(model), *_table(model)]
        return "\n".join(parts) + "\n"


def _costs() -> str:
    rows = ["| name | unit | of | what it is |", "|---|---|---|---|"]
    for row in COSTS.entries().values():
        known = "" if row.known == "before" else "; known only after an evaluation"
        rows.append(f"| `{row.name}` | {row.unit} | one {row.per} | {row.noun}{known} |")
    return "\n".join(rows)


def _parts(model: type[BaseModel], *, top: bool = True) -> Iterator[tuple[type[BaseModel], str]]:
    """The model and every model in it, once each, with what its heading is: the top level, or its class."""
    seen: list[type[BaseModel]] = []
    waiting = [model]
    while waiting:
        found = waiting.pop(0)
        if found in seen:
            continue
        seen.append(found)
        yield found, "Top level" if top and found is model else f"`{found.__name__}`"
        waiting += [part for field in found.model_fields.values() for part in _models(field.annotation)]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models(part)]


def _said(model: type[BaseModel]) -> list[str]:
    text = re.split(r"\n\n    (?:Attributes|Args):", model.__doc__ or "")[0]
    text = re.sub(r"\s*\n\s*", " ", text.strip())
    return [text, ""] if text else []


def _table(model: type[BaseModel]) -> list[str]:
    rows = ["| field | type | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        meaning = (field.description or _attribute(model, name)).replace("|", "\\|")
        default = "" if "null" in meaning and field.default is None else _default(field)
        shown = f"{meaning}; {default}" if meaning and default else meaning or default
        rows.append(f"| `{field.alias or name}` | {_type(field.annotation)} | {shown} |")
    return rows


def _attribute(model: type[BaseModel], name: str) -> str:
    """What a docstring's list of attributes says of a field that has no description."""
    found = re.search(rf"^ {{8}}(?:\w+, )*{name}(?:, \w+)*: (.*(?:\n {{12}}.*)*)", model.__doc__ or "", re.MULTILINE)
    return re.sub(r"\s*\n\s*", " ", found[1]).rstrip(".") if found else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "default null"
    if isinstance(value, BaseModel):
        return f"default {_values(value)}"
    if isinstance(value, (list, dict, tuple, str)) and not value:
        return "default empty"
    return f"default `{str(value).lower() if isinstance(value, bool) else value}`"


def _values(value: BaseModel) -> str:
    return ", ".join(f"`{name}` `{inside}`" for name, inside in value.model_dump().items())


def _type(annotation: Any) -> str:
    """`list of numbers`, `string or null`, or the part's own heading."""
    if annotation in _NAMES:
        return _NAMES[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inside[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in inside))
    if origin in (list, tuple):
        return f"list of {_type(inside[0])}" if inside else "list"
    if origin is dict or annotation is dict:
        return f"object of {_type(inside[1])}" if inside and inside[1] is not Any else "object"
    return "any" if annotation is Any else getattr(annotation, "__name__", str(annotation))


PAGES = [Page("front-schema.md", _FRONT, Front), Page("profile-schema.md", _PROFILE, Profile, (Cells,))]


def main(folder: str = "docs") -> None:
    """Write all pages."""
    for page in PAGES:
        write_text_atomic(Path(folder) / page.file, page.text())


if __name__ == "__main__":
    main(*sys.argv[1:])
