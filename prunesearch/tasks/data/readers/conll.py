"""CoNLL files: a token and its tag a line, a blank line between sentences."""

from __future__ import annotations

import re
from pathlib import Path

from datasets.arrow_dataset import Dataset

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.readers.delimited import TextTable
from prunesearch.tasks.data.readers.file_rows import FileRows

_PREFIX = re.compile(r"[a-z]{2,3}(-[a-z]+)?:")
_START = "-DOCSTART-"


def read_conll(path: Path, reading: TextTable) -> FileRows:
    """Read sentences as rows of `tokens` and `tags`: the first and the last column of every line.

    Columns are set apart by tabs or blanks. The language that WikiANN writes before every token ("en:") is cut off.

    Raises:
        PruneSearchError: for a line without a tag.
    """
    sentences: list[list[tuple[str, str]]] = [[]]
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        fields = line.split("\t") if "\t" in line else line.split()
        if not line.strip():
            sentences.append([])
        elif fields[0].startswith(_START):
            continue
        elif len(fields) < 2:
            raise PruneSearchError(
                f"every line of a CoNLL file has a token and a tag, but line {number} of '{path}' is '{line:.40}'"
            )
        else:
            sentences[-1].append((fields[0], fields[-1].strip()))
    full = [sentence for sentence in sentences if sentence]
    prefixes = {match[0] if (match := _PREFIX.match(token)) else "" for sentence in full for token, _ in sentence}
    cut = len(min(prefixes)) if len(prefixes) == 1 else 0
    rows = {
        "tokens": [[token[cut:] for token, _ in sentence] for sentence in full],
        "tags": [[tag for _, tag in sentence] for sentence in full],
    }
    notes = [f"{path.name}: '{min(prefixes)}' was cut off every token"] if cut else []
    return FileRows(Dataset.from_dict(rows), notes)
