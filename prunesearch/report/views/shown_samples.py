"""`samples.json`: what a study's schedules do to a few rows of data; read back without model or data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prunesearch.core.errors import CorruptFileError
from prunesearch.core.files import parse_json, write_text_atomic

MOST_BYTES = 16 * 2**20  # of the file; what is larger is not read
_WAY_OUT = "run the study again to rewrite it"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShownRow(_Record):
    """A row of the calibration split, as the model sees it.

    Either `picture` (a PNG or JPEG as a data URI: an image, or the spectrogram of a sound) with the `grid` of its
    tokens, rows and columns, or `words`, the tokens of a text. `leading` and `trailing` tokens are no part of the
    grid, or the text's special ones; they are never reduced.
    """

    index: int
    label: str
    picture: str | None = None
    grid: tuple[int, int] | None = None
    words: list[str] | None = None
    leading: int = Field(default=0, ge=0)
    trailing: int = Field(default=0, ge=0)

    @field_validator("picture")
    @classmethod
    def _inert(cls, value: str | None) -> str | None:
        """A picture and nothing that a browser would run or fetch."""
        if value is not None and not value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")):
            raise ValueError("a picture must be a PNG or JPEG as a data URI")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.words is None) == (self.picture is None) or (self.picture is None) != (self.grid is None):
            raise ValueError("a row has a picture with its grid, or words")
        return self

    @property
    def tokens(self) -> int:
        """Tokens at the start, those outside the grid included."""
        if self.words is not None:
            return len(self.words)
        rows, columns = self.grid or (0, 0)
        return self.leading + rows * columns + self.trailing


class ShownStage(_Record):
    """What a stage left: `owner` says for every token of the start which surviving token holds it (-1: dropped)."""

    layer: int
    at_input: bool = False  # before the first block
    tokens: int
    method: str
    owner: list[int]


class ShownTrace(_Record):
    """One row (by its `index`) under one point, with what the model answered unpruned and pruned."""

    point: str
    row: int
    unpruned: str
    pruned: str
    stages: list[ShownStage]

    @property
    def disagrees(self) -> bool:
        """Whether pruning changed the answer."""
        return self.unpruned != self.pruned


class ShownSamples(_Record):
    """The rows, and what each point made of which."""

    format: Literal["prunesearch.samples"] = "prunesearch.samples"
    version: Literal[1] = 1
    rows: list[ShownRow] = []
    traces: list[ShownTrace] = []

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        tokens = {row.index: row.tokens for row in self.rows}
        for trace in self.traces:
            if trace.row not in tokens:
                raise ValueError(f"point {trace.point} has a trace of row {trace.row}, which is not there")
            if any(len(stage.owner) != tokens[trace.row] for stage in trace.stages):
                raise ValueError(f"`owner` has one number for each of {tokens[trace.row]} tokens of row {trace.row}")
        return self

    def row(self, index: int) -> ShownRow:
        """The row of that index."""
        return next(row for row in self.rows if row.index == index)

    def of(self, point: str) -> list[ShownTrace]:
        """The traces of one point: agreements first, then where pruning changed the answer."""
        return sorted((t for t in self.traces if t.point == point), key=lambda t: t.disagrees)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically."""
        write_text_atomic(path, self.model_dump_json(exclude_defaults=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str], most_bytes: int = MOST_BYTES) -> ShownSamples | None:
        """Read the file; None if there is none (a study of before, or one that is not finished).

        Raises:
            CorruptFileError: in one line, if it is too large or says something else.
        """
        file = Path(path)
        try:
            if file.stat().st_size > most_bytes:
                raise CorruptFileError(f"{file} is larger than {most_bytes // 2**20} MiB: {_WAY_OUT}")
            data: Any = parse_json(file.read_text(encoding="utf-8"))
            return cls.model_validate(data)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CorruptFileError(f"{file} cannot be read ({error.strerror}): {_WAY_OUT}") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            message = first["msg"].removeprefix("Value error, ")
            raise CorruptFileError(f"{file}, field `{where}`: {message}: {_WAY_OUT}") from None
        except ValueError as error:
            raise CorruptFileError(f"{file} is not JSON ({error}): {_WAY_OUT}") from None
