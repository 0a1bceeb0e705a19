"""The schedules that a candidate is raced against: the calibration front, with what each row of it lost.

Their rows are written beside the trial, so that a resumed run and other processes race against the same: divergences in
half precision, and what the metric is computed from, as text.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass

import numpy as np
import torch

from prunesearch.core.errors import CorruptFileError
from prunesearch.search.trials.evaluate import Evaluation, Rival

# MySQL's TEXT, in which Optuna keeps an attribute, ends at 65,535 bytes
_LONGEST_TEXT = 60_000


def pack_rows(evaluation: Evaluation) -> str | None:
    """Write `kl` (float16) and `statistics` of an evaluation as text; None if it is too long for a database.

    Statistics that are one bit a row, as those of accuracy, go as bits in base64. Others are compressed float32, and
    the number of columns and a colon stand before. Where they are too long (EER of many classes), they are left out,
    and that number is 0: races and convergence go by `kl`.
    """
    kl = evaluation.kl.to(torch.float16).numpy().astype("<f2").tobytes()
    rows = evaluation.statistics.reshape(len(evaluation.kl), -1).numpy()
    if rows.shape[1] == 1 and np.isin(rows, (0, 1)).all():
        head, data = "", kl + np.packbits(rows.astype(bool)).tobytes()
    else:
        head, data = f"{rows.shape[1]}:", zlib.compress(kl + rows.astype("<f4").tobytes(), 9)
    text = head + base64.b64encode(data).decode("ascii")
    if len(text) > _LONGEST_TEXT:
        text = "0:" + base64.b64encode(zlib.compress(kl, 9)).decode("ascii")
    return text if len(text) <= _LONGEST_TEXT else None


def unpack_rows(text: str) -> Rival:
    """Read what `pack_rows` wrote.

    Raises:
        CorruptFileError: if the text is cut or altered.
    """
    head, colon, body = text.rpartition(":")
    try:
        data = base64.b64decode(body, validate=True)
        if colon:
            data = zlib.decompress(data)
    except (binascii.Error, ValueError, zlib.error):
        raise CorruptFileError("rows of an evaluation in the study cannot be read: use another --study") from None
    columns = int(head) if head.isdecimal() else -1
    if (columns >= 0) != bool(colon):
        raise CorruptFileError(
            f"rows of an evaluation in the study have no columns ('{head:.20}'): use another --study"
        )
    # n rows take 2 n bytes and, of bits, ceil(n / 8)
    n = len(data) // (2 + 4 * columns) if colon else len(data) * 8 // 17
    if 2 * n + (4 * n * columns if colon else -(-n // 8)) != len(data):
        raise CorruptFileError(f"rows of an evaluation in the study are cut ({len(data)} bytes): use another --study")
    kl = np.frombuffer(data[: 2 * n], dtype="<f2").astype(np.float32)
    if colon:
        rows = np.frombuffer(data[2 * n :], dtype="<f4").reshape(n, columns).astype(np.float32)
    else:
        rows = np.unpackbits(np.frombuffer(data[2 * n :], dtype=np.uint8), count=n).astype(np.float32)[:, None]
    return Rival(torch.from_numpy(rows), torch.from_numpy(kl))


@dataclass(frozen=True)
class Incumbent:
    """A schedule of the front: its costs and, last, its loss; and its rows as `pack_rows` writes them."""

    point: tuple[float, ...]
    text: str


class Incumbents:
    """The non-dominated among the schedules told so far; memory is that of the front alone."""

    def __init__(self) -> None:
        self._front: list[Incumbent] = []

    def __len__(self) -> int:
        return len(self._front)

    @property
    def front(self) -> tuple[Incumbent, ...]:
        """The front as it is now."""
        return tuple(self._front)

    def is_new(self, values: tuple[float, ...], loss: float) -> bool:
        """Whether a schedule would be on the front; `values` are what is minimised beside the loss."""
        point = (*values, loss)
        return not any(_no_worse(other.point, point) for other in self._front)

    def add(self, values: tuple[float, ...], loss: float, text: str) -> None:
        """Take in a schedule with its packed rows, if it is on the front, and let go of those that it dominates."""
        if self.is_new(values, loss):
            point = (*values, loss)
            self._front = [other for other in self._front if not _no_worse(point, other.point)]
            self._front.append(Incumbent(point, text))

    def rival(self, values: tuple[float, ...]) -> str | None:
        """The packed rows of the schedule that costs no more in any of `values` and loses least; None if none does."""
        cheaper = [other for other in self._front if _no_worse(other.point[:-1], values)]
        return min(cheaper, key=lambda other: other.point[-1]).text if cheaper else None


def _no_worse(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))
