"""The study folder: where a run keeps its configuration, trials, cost table, front and report."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from prunesearch.core.errors import CorruptFileError, PruneSearchError, did_you_mean, printable
from prunesearch.core.files import check_writable, write_text_atomic

if TYPE_CHECKING:
    from prunesearch.study.front import Front

DEFAULT_ROOT = Path("studies")
_MARKERS = ("config.yaml", "study.journal", "study.db", "front.json")
_NAME_RULE = "use letters, digits, '-', '_' and '.', as in vit-cpu-10ms"
_MAX_NAME = 100
_LONGEST = 300  # characters of what is wrong with a YAML text
_DEEPEST = 200  # brackets within each other


def check_name(name: str) -> str:
    """Return `name`, or raise: a study name is one folder name, visible, and never a path or an option."""
    if not name or name != name.strip() or len(name) > _MAX_NAME:
        raise PruneSearchError(
            f"a study name has 1 to {_MAX_NAME} characters and no blanks at its ends, but got {name!r}: {_NAME_RULE}"
        )
    if "/" in name or "\\" in name or not name.isprintable():
        raise PruneSearchError(
            f"a study name must have no path separator or control character, but got {name!r}: {_NAME_RULE}"
        )
    if name[0] in ".-":
        raise PruneSearchError(f"a study name must not begin with '{name[0]}', but got {name!r}: {_NAME_RULE}")
    return name


@dataclass(frozen=True)
class StudyFolder:
    """The folder `root/name`. Nothing is touched on disk before `create`."""

    root: Path
    name: str

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.root / self.name

    @property
    def config(self) -> Path:
        """`config.yaml`: the configuration of the run."""
        return self.path / "config.yaml"

    @property
    def journal(self) -> Path:
        """`study.journal`: the Optuna study."""
        return self.path / "study.journal"

    @property
    def trials(self) -> Path | None:
        """The file that the trials are in: the journal, or `study.db` of before there were journals; None: neither."""
        old = self.path / "study.db"
        return self.journal if self.journal.exists() else old if old.exists() else None

    @property
    def cost_table(self) -> Path:
        """`cost_table.json`: the measured latencies."""
        return self.path / "cost_table.json"

    @property
    def front(self) -> Path:
        """`front.json`: the result."""
        return self.path / "front.json"

    @property
    def report(self) -> Path:
        """`report.html`: the result, to look at."""
        return self.path / "report.html"

    @property
    def samples(self) -> Path:
        """`samples.json`: what the front's schedules do to a few rows of data."""
        return self.path / "samples.json"

    @property
    def weights(self) -> Path:
        """`weights/`: those of tuned points, by digest."""
        return self.path / "weights"

    @property
    def exists(self) -> bool:
        """Whether a run has written anything here."""
        return any((self.path / marker).exists() for marker in _MARKERS)

    @classmethod
    def create(cls, name: str, root: str | os.PathLike[str] = DEFAULT_ROOT) -> StudyFolder:
        """Make the folder, or take the one that is there (a run of the same name resumes it)."""
        folder = cls(Path(root), check_name(name))
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PruneSearchError(
                f"study folder {folder.path} cannot be made ({error.strerror}): choose another --study"
            ) from None
        return folder

    @classmethod
    def open(cls, name: str, root: str | os.PathLike[str] = DEFAULT_ROOT) -> StudyFolder:
        """Take a study that exists.

        Raises:
            PruneSearchError: naming the nearest study and all that are there.
        """
        folder = cls(Path(root), check_name(name))
        if not folder.exists:
            known = list_studies(root)
            hint = did_you_mean(name, known) if known else "there is none yet: start with `prunesearch run`"
            raise PruneSearchError(f"no study '{name}' in {Path(root)}{os.sep}: {hint}")
        return folder

    def save_config(self, config: dict[str, Any]) -> None:
        """Write plain data (str, numbers, bool, None, lists, dicts) as YAML, keys in the order given."""
        write_text_atomic(self.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def load_config(self) -> dict[str, Any]:
        """Read `config.yaml` with the safe loader.

        Raises:
            PruneSearchError: if it is missing.
            CorruptFileError: if it is no YAML mapping.
        """
        way_out = "correct it, or delete it and give the options of `prunesearch run` again"
        try:
            data = parse_yaml(self.config.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise PruneSearchError(
                f"{self.config} does not exist: give the options of `prunesearch run` again"
            ) from None
        except OSError as error:
            raise PruneSearchError(f"{self.config} cannot be read ({error.strerror}): {way_out}") from None
        except ValueError as error:
            raise CorruptFileError(f"{self.config} is not plain YAML ({error}): {way_out}") from None
        if not isinstance(data, dict):
            raise CorruptFileError(
                f"{self.config} must hold a mapping of options, but holds a {type(data).__name__}: {way_out}"
            )
        if odd := [key for key in data if not isinstance(key, str)]:
            raise CorruptFileError(f"options in {self.config} have names, but one is {odd[0]!r}: {way_out}")
        return data


def list_studies(root: str | os.PathLike[str] = DEFAULT_ROOT) -> list[str]:
    """Names of the studies under `root`, sorted; empty if the folder is not there."""
    base = Path(root)
    if not base.is_dir():
        return []
    return sorted(p.name for p in base.iterdir() if any((p / marker).exists() for marker in _MARKERS))


def resolve_study(name_or_path: str, root: str | os.PathLike[str] = DEFAULT_ROOT) -> StudyFolder:
    """Find a study by name, by the path of its folder, or by the path of a file in it (`.../front.json`).

    A name under `root` wins over a folder of the same name in the working directory.
    """
    path = Path(name_or_path)
    is_path = len(path.parts) > 1 or name_or_path.startswith((".", os.sep))
    if not is_path and (StudyFolder(Path(root), name_or_path).exists or not path.is_dir()):
        return StudyFolder.open(name_or_path, root)
    folder = (path.parent if path.name in _MARKERS else path).resolve()
    study = StudyFolder(folder.parent, folder.name)
    if not study.exists:
        raise PruneSearchError(
            f"{name_or_path} is no study folder (it has none of {', '.join(_MARKERS)}): "
            "give a study's name, or the folder that a run wrote"
        )
    return study


def load_front(study: str, root: str | os.PathLike[str] = DEFAULT_ROOT) -> tuple[StudyFolder, Front]:
    """The folder and the front of a study, given as `resolve_study` takes it.

    Raises:
        PruneSearchError: if there is no such study, or it has no front yet.
    """
    from prunesearch.study.front import Front

    folder = resolve_study(study, root)
    if not folder.front.exists():
        raise PruneSearchError(f"study '{folder.name}' has no front yet: run it to the end with the same command")
    return folder, Front.load(folder.front)


class _Loader(yaml.SafeLoader):
    """The safe loader without merge keys (`<<`), which a small file can make exponentially large."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse what the parent would expand."""
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "merge keys (<<) are not read", key.start_mark)


def _brackets_open(text: str) -> int:
    """The most brackets that stand open at a place of a text."""
    steps = ((character in "[{") - (character in "]}") for character in text)
    return max(itertools.accumulate(steps), default=0)


def parse_yaml(text: str) -> Any:
    """What a YAML text says, by the safe loader and without merge keys.

    Raises:
        ValueError: for whatever is wrong with it: its form, a date that is none, nesting too deep.
    """
    check_writable(text)
    if _brackets_open(text) > _DEEPEST:  # the time that PyYAML takes grows with the square of them
        raise ValueError("it is nested too deeply")
    try:
        return yaml.load(text, _Loader)  # derived from SafeLoader: plain data, no objects are made and no code is run
    except yaml.YAMLError as error:
        raise ValueError(printable(str(error))[:_LONGEST]) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # PyYAML's constructors take for sound what a text says: !!float x, 2020-13-45
        raise ValueError(printable(f"{type(error).__name__}: {error}")[:_LONGEST]) from None
