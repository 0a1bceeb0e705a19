"""Device profiles: one folder a device, with conditions, provenance and cost tables (docs/profile-schema.md).

A user's own profiles live in her folder and shadow the shipped ones of the same name.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError

from prunesearch.core.errors import CorruptFileError, PruneSearchError, did_you_mean
from prunesearch.core.files import data_folder, load_json, parse_json, write_text_atomic
from prunesearch.core.tables.registry import ATTENTIONS, DEVICE_KINDS
from prunesearch.cost.devices.device import kind_called
from prunesearch.cost.shape import Record, Shape
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.specs import DeviceSpec
from prunesearch.cost.tables.table_records import Cells, TableFacts, Validation, first_error

PROFILE_VERSION = 1
_FORMAT = "prunesearch.profile"
_FILE = "profile.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# A table serves a query only if it agrees in these; `tokens` may be fewer.
_EXACT = ("device", "batch_size", "dtype", "attention", "mode", "concurrency", "threads", "cores")
# What the way out names, by condition; only texts have a `length`, which is 128 where nobody says.
_OPTIONS = {
    "batch_size": "--batch-size",
    "dtype": "--dtype",
    "attention": "--attn",
    "mode": "--mode",
    "length": "--length",
}


class TableEntry(TableFacts):
    """A cost table of a profile; its cells are in `file`, a list of flat rows (`pandas.read_json` reads it)."""

    id: str = Field(description="name of the table")
    file: str = Field(description="its cells, below")
    validation: Validation = Field(description="its error on schedules that it has not seen")


class OutOfMemory(Record):
    """A model and conditions that did not fit the device's memory."""

    model: str = Field(description="what did not fit")
    shape: Shape = Field(description="its shape")
    conditions: dict[str, Any] = Field(description="under which it did not fit")


class Energy(Record):
    """Whether energy can be measured on the device, by what, or why not."""

    status: Literal["measured", "unavailable"] = Field(description="whether a counter was found")
    source: str | None = Field(default=None, description="the counter, and what it covers")
    reason: str | None = Field(default=None, description="why there is none")


class Units(Record):
    """The units of every number in the profile; there are no others."""

    time: Literal["ms"] = Field(default="ms", description="of a batch")
    energy: Literal["mJ"] = Field(default="mJ", description="of an input, gross")


class Profile(Record):
    """What is known of a device: `measured` tables, or a `spec` from which tables are `estimated`."""

    format: Literal["prunesearch.profile"] = Field(
        default="prunesearch.profile", description="always `prunesearch.profile`"
    )
    version: Literal[1] = Field(default=1, description="version of this schema")
    name: str = Field(description="name of the folder")
    aliases: list[str] = Field(default_factory=list, description="other names for `--device`")
    status: Literal["measured", "estimated"] = Field(
        description="`measured`: tables were measured on the device; `estimated`: they are made from `spec`"
    )
    device: dict[str, Any] = Field(
        description="`kind` (`cpu`, `cuda`), `name`; measured: cores, threads, memory, ISA or driver, clocks, power "
        "limit, temperature, reasons for throttling, library versions, date"
    )
    spec: DeviceSpec | None = Field(
        default=None,
        description="datasheet of a device that estimates can be made for; `hw_profiles/estimator.json` holds the "
        "efficiency curves fitted to public measurements, and the cross-validated errors that every "
        "estimate carries",
    )
    units: Units = Field(default=Units(), description="of every number")
    energy: Energy = Field(description="whether energy can be measured")
    tables: list[TableEntry] = Field(default_factory=list, description="one entry a table")
    out_of_memory: list[OutOfMemory] = Field(default_factory=list, description="what did not fit the device's memory")
    folder: Path = Field(default=Path(), exclude=True)

    # -- tables ----------------------------------------------------------------------------------------

    def find(self, shape: Shape, conditions: Mapping[str, Any], model: str) -> CostTable | None:
        """The measured table that serves a model under these conditions, fitted to its depth and length.

        Args:
            shape: of the model.
            conditions: as `conditions_of` states them; what is named, but `tokens`, must be what was measured under.
                `length`, of a text, goes into the way out.
            model: how the user calls it, for the way out.

        Returns:
            None if the profile has no table of such blocks at all; the caller may estimate, or refuse.

        Raises:
            PruneSearchError: if there are tables of such blocks, but under other conditions or for fewer tokens.
        """
        same = [t for t in self.tables if t.shape.serves(shape)]
        self._check_memory(shape, conditions)
        if not same:
            return None
        fitting = [t for t in same if not _differences(t.conditions, conditions)]
        if not fitting:
            self._refuse(same, conditions, model)
        long_enough = [t for t in fitting if t.shape.tokens >= shape.tokens]
        if not long_enough:
            longest = max(t.shape.tokens for t in fitting)
            raise PruneSearchError(
                f"profile '{self.name}' has {shape.describe()} up to {longest} tokens, but {shape.tokens} are asked "
                f"for: measure it there: {self.command(model, conditions)}"
            )
        best = min(long_enough, key=lambda t: (t.shape.tokens, t.shape.family != shape.family, t.shape != shape))
        return self.read(best).for_shape(shape)

    def _check_memory(self, shape: Shape, conditions: Mapping[str, Any]) -> None:
        for record in self.out_of_memory:
            if record.shape == shape and not _differences(record.conditions, conditions):
                raise PruneSearchError(
                    f"on '{self.name}' this model ran out of memory at batch {conditions['batch_size']}: "
                    "use a smaller --batch-size"
                )

    def _refuse(self, tables: list[TableEntry], conditions: Mapping[str, Any], model: str) -> None:
        differences = min((_differences(t.conditions, conditions) for t in tables), key=len)
        name = differences[0]
        nearest = [t for t in tables if _differences(t.conditions, conditions) == differences]
        stated = {str(value): value for value in (_stated(t.conditions, name) for t in nearest)}
        known = sorted(stated, key=lambda text: (stated[text] if isinstance(stated[text], int) else 0, text))
        raise PruneSearchError(
            f"profile '{self.name}' has this model's blocks with {name}={', '.join(known)}, but "
            f"{name}={conditions.get(name)} is asked for: measure it there: {self.command(model, conditions)}"
        )

    def command(self, model: str, conditions: Mapping[str, Any]) -> str:
        """The line that measures what is missing."""
        device = kind_called(self.device.get("kind", "cpu")).first
        typed = {row.target: name for name, row in ATTENTIONS.entries().items()}  # of transformers' names
        asked = {flag: conditions[name] for name, flag in _OPTIONS.items() if name in conditions}
        if conditions.get("concurrency", 1) > 1:
            asked["--concurrency"] = conditions["concurrency"]
        options = " ".join(f"{flag} {typed.get(value, value)}" for flag, value in asked.items())
        return f"prunesearch profile --model {shlex.quote(model)} --device {device} --name {self.name} {options}"

    def read(self, entry: TableEntry) -> CostTable:
        """Read the cells of a table.

        Raises:
            CorruptFileError: if they are missing or broken.
        """
        path = self.folder / entry.file
        way_out = "measure it again (prunesearch profile --redo), or restore the file"
        try:
            rows = parse_json(path.read_text(encoding="utf-8"))
            cells = Cells.from_rows(rows)
            facts = {name: getattr(entry, name) for name in TableFacts.model_fields}
            return CostTable(**facts, cells=cells)
        except OSError as error:
            raise CorruptFileError(f"table {path} of the profile cannot be read: {error.strerror}: {way_out}") from None
        except ValidationError as error:
            raise CorruptFileError(f"table {path}: {first_error(error)}: {way_out}") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptFileError(f"table {path} is no list of cells ({one_line(error)}): {way_out}") from None

    def has(self, shape: Shape, conditions: Mapping[str, Any], *, energy: bool = False) -> bool:
        """Whether exactly this model under exactly these conditions was measured, or found too large, before.

        Args:
            energy: a table counts only if it has energy.
        """
        known: list[TableEntry | OutOfMemory] = [t for t in self.tables if t.energy is not None or not energy]
        return any(_same_key(record, shape, conditions) for record in [*known, *self.out_of_memory])

    def put(self, table: CostTable) -> TableEntry:
        """Take a measured table in, in place of what was known of the same key, and write both files.

        Each file is whole at any moment.

        Raises:
            PruneSearchError: if the table does not know its error.
        """
        if table.validation is None:
            raise PruneSearchError(
                "a table of a profile must hold its error on unseen schedules, but this one was not validated: "
                "measure it with `measure_table`"
            )
        facts = {name: getattr(table, name) for name in TableFacts.model_fields}
        # the timings of single forwards stay out: they are what makes a table large
        facts["validation"] = table.validation.model_copy(update={"samples_us": [], "pace": []})
        others = [t for t in self.tables if not _same_key(t, table.shape, table.conditions)]
        name = _free_name(table_id(table), {t.id for t in others})
        entry = TableEntry(**facts, id=name, file=f"tables/{name}.json")
        rows = ",\n".join(json.dumps(_rounded(row)) for row in table.cells.rows())
        write_text_atomic(self.folder / entry.file, f"[\n{rows}\n]\n")
        self.tables = sorted([*others, entry], key=lambda t: t.id)
        self._forget_memory(table.shape, table.conditions)
        self.status = "measured"
        self.save()
        return entry

    def put_out_of_memory(self, record: OutOfMemory) -> None:
        """Note that a model did not fit, and write the file."""
        self._forget_memory(record.shape, record.conditions)
        self.out_of_memory.append(record)
        self.save()

    def _forget_memory(self, shape: Shape, conditions: Mapping[str, Any]) -> None:
        self.out_of_memory = [m for m in self.out_of_memory if not _same_key(m, shape, conditions)]

    # -- files -----------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write `profile.json`, atomically."""
        write_text_atomic(self.folder / _FILE, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Profile:
        """Read a profile's folder; the cells of its tables are read when they are asked for.

        Raises:
            PruneSearchError: if there is no profile.
            CorruptFileError: one line that names file, field and way out.
        """
        path = folder / _FILE
        way_out = "correct it, or delete the folder and measure again (prunesearch profile)"
        data = load_json(path, "profile", way_out)
        if data.get("format") != _FORMAT:
            raise CorruptFileError(f'profile {path} must have "format": "{_FORMAT}": {way_out}')
        version = data.get("version")
        if isinstance(version, int) and version > PROFILE_VERSION:
            raise CorruptFileError(
                f"profile {path} has version {version}, newer than {PROFILE_VERSION}, the newest that this prunesearch "
                "reads: upgrade prunesearch"
            )
        try:
            return cls.model_validate({**data, "folder": folder})
        except ValidationError as error:
            raise CorruptFileError(f"profile {path}: {first_error(error)}: {way_out}") from None


def table_id(table: CostTable) -> str:
    """Its file name: model, tokens, batch and conditions, and the threads of a CPU."""
    c = table.conditions
    threads = f"-t{c['threads']}" if c.get("threads") else ""
    others = f"-c{c['concurrency']}" if c.get("concurrency", 1) > 1 else ""
    model = re.sub(r"[^a-z0-9.]+", "-", table.model.lower()).strip("-.") or table.shape.kind
    return f"{model}-n{c['tokens']}-b{c['batch_size']}-{c['dtype']}-{c['attention']}-{c['mode']}{others}{threads}"


def user_root() -> Path:
    """Where a user's own profiles are: `$PRUNESEARCH_PROFILES`, else `~/.prunesearch/hw_profiles`."""
    named = os.environ.get("PRUNESEARCH_PROFILES")
    return Path(named) if named else Path.home() / ".prunesearch" / "hw_profiles"


def profile_folders() -> dict[str, Path]:
    """Folders of all profiles by name; a user's shadows a shipped one."""
    found: dict[str, Path] = {}
    for root in (data_folder("hw_profiles"), user_root()):
        if root.is_dir():
            found.update({p.parent.name: p.parent for p in sorted(root.glob(f"*/{_FILE}"))})
    return dict(sorted(found.items()))


def find_profile(name: str) -> Profile:
    """The profile of a name or alias.

    Raises:
        PruneSearchError: naming the nearest.
    """
    folders, name = profile_folders(), name.lower()
    if name in folders:
        return Profile.load(folders[name])
    aliases = aliases_of(folders)
    if name in aliases:
        return Profile.load(folders[aliases[name]])
    raise PruneSearchError(f"no device or profile '{name}': {did_you_mean(name, [*DEVICE_KINDS, *aliases, *folders])}")


def specs() -> dict[str, DeviceSpec]:
    """The datasheets of all profiles that have one, by the profile's name; unreadable files are passed over."""
    found = {}
    for name, folder in profile_folders().items():
        try:
            spec = Profile.load(folder).spec
        except PruneSearchError:
            continue
        if spec is not None:
            found[name] = spec
    return found


def spec_called(cuda_name: str, sm_count: int | None = None) -> DeviceSpec | None:
    """The datasheet of the device that CUDA calls so; None if there is none."""
    return next((spec for spec in specs().values() if spec.is_called(cuda_name, sm_count)), None)


def aliases_of(folders: Mapping[str, Path]) -> dict[str, str]:
    """Profile names by alias, a user's before a shipped one's.

    Files that cannot be read are passed over here, and said by `prunesearch devices`.
    """
    found: dict[str, str] = {}
    for name, folder in sorted(folders.items(), key=lambda item: item[1].parent == user_root()):
        try:
            found.update(dict.fromkeys(Profile.load(folder).aliases, name))
        except PruneSearchError:
            continue
    return found


def check_profile_name(name: str) -> str:
    """Return `name`, or raise: it is a folder's name, and none of torch's devices."""
    if not _NAME.fullmatch(name) or _is_torch_device(name):
        raise PruneSearchError(
            f"a profile's name has small letters, digits, '-', '_' and '.', and is no torch device, but got '{name}': "
            "write for example --name my-box"
        )
    return name


def _is_torch_device(name: str) -> bool:
    """Whether torch takes `name` for a device, of a kind that prunesearch knows or not."""
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


def one_line(error: Exception) -> str:
    """An error's kind and text without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]


def _differences(mine: Mapping[str, Any], asked: Mapping[str, Any], tokens: bool = False) -> list[str]:
    names = (*_EXACT, "tokens") if tokens else _EXACT
    return [n for n in names if n in asked and _stated(mine, n) != asked[n]]


def _stated(conditions: Mapping[str, Any], name: str) -> Any:
    """A condition of a table; one that says nothing of other requests was measured alone."""
    return conditions.get(name, 1 if name == "concurrency" else None)


def _same_key(record: TableEntry | OutOfMemory, shape: Shape, conditions: Mapping[str, Any]) -> bool:
    return record.shape == shape and not _differences(record.conditions, conditions, tokens=True)


def _free_name(name: str, taken: set[str]) -> str:
    """`name`, or with a number: folders of one name may hold models of other shapes."""
    numbered = (f"{name}-{i}" for i in itertools.count(2))
    return next(n for n in itertools.chain([name], numbered) if n not in taken)


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Six significant digits: a hundred times finer than any timing, a third of the text."""
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}
