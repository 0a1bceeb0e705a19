"""Which columns of a table are the sound and its transcript."""

from __future__ import annotations

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.columns import Columns, find_columns
from prunesearch.tasks.request import TaskRequest

_TRANSCRIPTS = ("text", "sentence", "transcription", "transcript", "normalized_text", "label")


def find_transcripts(request: TaskRequest) -> tuple[Columns, str]:
    """The audio column, and the name of that of the transcripts: `given` as text (or label), else by its usual names.

    Raises:
        PruneSearchError: if either is missing.
    """
    given, rows = request.columns, next(iter(request.source.splits.values()))
    columns = find_columns(request.source, rows, "audio", given, labelled=False)
    usual = next((name for name in _TRANSCRIPTS if name in rows.column_names), None)
    texts = given.get("text") or given.get("label") or usual
    if texts is None:
        raise PruneSearchError(
            f"speech recognition needs a column of transcripts, but '{request.source.name}' has "
            f"{', '.join(rows.column_names)}: name it with columns text=NAME"
        )
    return columns, texts
