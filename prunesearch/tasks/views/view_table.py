"""The table of views: what may happen to a row before a model sees it. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.tables.names import Row, make_table

SEVERITIES = 5
CLEAN = "clean"  # the rows as they are, which are always among the views
_ALL = "corruptions"


@dataclass(frozen=True)
class ViewRow(Row):
    """A view; `target` is `(content, amount, random) -> content` of one row, an amount being one of `amounts`.

    Attributes:
        reads: the content that it alters: image (float64 `[height, width, 3]`, 0 to 1), text, or audio (samples `[n]`).
        groups: words that stand for several views.
        amounts: by severity, 1 to 5.
        small: the same for pictures of less than 64 pixels; None: as of large ones.
        seconds: amounts are in seconds, which the target is given in samples.
    """

    reads: str = "image"
    groups: tuple[str, ...] = ()
    amounts: Sequence[Any] = ()
    small: Sequence[Any] | None = None
    seconds: bool = False


_PIXELS, _BLURS, _WEATHER = (f"prunesearch.tasks.views.{name}" for name in ("pixel_views", "blurs", "weather"))
_TEXTS, _SOUNDS = "prunesearch.tasks.views.text_views", "prunesearch.tasks.views.sound_views"
_NOISE, _BLUR, _SKY, _DIGITAL, _EDITS = (("noise",), ("blur",), ("weather",), ("digital",), ("edits",))


def _steps(*ends: float) -> tuple[tuple[float, float, float], ...]:
    """First, last and step of zooms, by severity."""
    return tuple((1.0, end, step) for end, step in zip(ends[::2], ends[1::2], strict=True))


# The fifteen corruptions with the constants of ImageNet-C, and of CIFAR-10-C for small pictures (Hendrycks and
# Dietterich 2019, github.com/hendrycks/robustness: make_imagenet_c.py, make_cifar_c.py).
_PICTURES = {
    "gaussian_noise": ViewRow(
        f"{_PIXELS}:gaussian_noise",
        "Gaussian noise",
        groups=_NOISE,
        amounts=(0.08, 0.12, 0.18, 0.26, 0.38),
        small=(0.04, 0.06, 0.08, 0.09, 0.10),
    ),
    "shot_noise": ViewRow(
        f"{_PIXELS}:shot_noise",
        "Poisson noise of few photons",
        groups=_NOISE,
        amounts=(60, 25, 12, 5, 3),
        small=(500, 250, 100, 75, 50),
    ),
    "impulse_noise": ViewRow(
        f"{_PIXELS}:impulse_noise",
        "salt and pepper",
        groups=_NOISE,
        amounts=(0.03, 0.06, 0.09, 0.17, 0.27),
        small=(0.01, 0.02, 0.03, 0.05, 0.07),
    ),
    "defocus_blur": ViewRow(
        f"{_BLURS}:defocus_blur",
        "out of focus",
        groups=_BLUR,
        amounts=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        small=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    ),
    "glass_blur": ViewRow(
        f"{_BLURS}:glass_blur",
        "behind frosted glass",
        groups=_BLUR,
        amounts=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        small=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    ),
    "motion_blur": ViewRow(
        f"{_BLURS}:motion_blur",
        "camera or object moving",
        groups=_BLUR,
        amounts=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        small=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    ),
    "zoom_blur": ViewRow(
        f"{_BLURS}:zoom_blur",
        "zoomed while exposed",
        groups=_BLUR,
        amounts=_steps(1.11, 0.01, 1.16, 0.01, 1.21, 0.02, 1.26, 0.02, 1.31, 0.03),
        small=_steps(1.06, 0.01, 1.11, 0.01, 1.16, 0.01, 1.21, 0.01, 1.26, 0.01),
    ),
    "snow": ViewRow(
        f"{_WEATHER}:snow",
        "falling snow",
        groups=_SKY,
        amounts=(
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        small=(
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": ViewRow(
        f"{_WEATHER}:frost",
        "a lens with frost on it",
        groups=_SKY,
        amounts=((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        small=((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    ),
    "fog": ViewRow(
        f"{_WEATHER}:fog",
        "fog",
        groups=_SKY,
        amounts=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        small=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    ),
    "brightness": ViewRow(
        f"{_PIXELS}:brightness",
        "too bright",
        groups=_SKY,
        amounts=(0.1, 0.2, 0.3, 0.4, 0.5),
        small=(0.05, 0.1, 0.15, 0.2, 0.3),
    ),
    "contrast": ViewRow(
        f"{_PIXELS}:contrast",
        "little contrast",
        groups=_DIGITAL,
        amounts=(0.4, 0.3, 0.2, 0.1, 0.05),
        small=(0.75, 0.5, 0.4, 0.3, 0.15),
    ),
    "elastic_transform": ViewRow(
        f"{_BLURS}:elastic_transform",
        "stretched here and there",
        groups=_DIGITAL,
        amounts=((488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88)),
        small=((0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)),
    ),
    "pixelate": ViewRow(
        f"{_PIXELS}:pixelate",
        "of few pixels",
        groups=_DIGITAL,
        amounts=(0.6, 0.5, 0.4, 0.3, 0.25),
        small=(0.95, 0.9, 0.85, 0.75, 0.65),
    ),
    "jpeg_compression": ViewRow(
        f"{_PIXELS}:jpeg_compression",
        "a JPEG of low quality",
        groups=_DIGITAL,
        amounts=(25, 18, 15, 10, 7),
        small=(80, 65, 58, 50, 40),
    ),
}

# words are shares of a text's; decibels of the sound over the noise; factors of the speed
_OTHERS = {
    "typos": ViewRow(
        f"{_TEXTS}:typos",
        "swapped, missing, doubled and neighbouring letters",
        reads="text",
        groups=_EDITS,
        amounts=(0.05, 0.1, 0.2, 0.3, 0.4),
    ),
    "case": ViewRow(
        f"{_TEXTS}:capitals",
        "words in capitals",
        reads="text",
        groups=_EDITS,
        amounts=(0.1, 0.25, 0.5, 0.75, 1.0),
    ),
    "dropped_words": ViewRow(
        f"{_TEXTS}:dropped_words",
        "words left out",
        reads="text",
        groups=_EDITS,
        amounts=(0.05, 0.1, 0.2, 0.3, 0.4),
    ),
    "white_noise": ViewRow(
        f"{_SOUNDS}:white_noise",
        "white noise",
        reads="audio",
        groups=_NOISE,
        amounts=(20.0, 15.0, 10.0, 5.0, 0.0),
    ),
    "faster": ViewRow(
        f"{_SOUNDS}:at_speed",
        "played faster, and higher",
        reads="audio",
        groups=("speed",),
        amounts=(1.05, 1.1, 1.15, 1.2, 1.3),
    ),
    "slower": ViewRow(
        f"{_SOUNDS}:at_speed",
        "played slower, and lower",
        reads="audio",
        groups=("speed",),
        amounts=(0.95, 0.9, 0.87, 0.83, 0.77),
    ),
    "reverberation": ViewRow(
        f"{_SOUNDS}:reverberated",
        "in a room that echoes",
        reads="audio",
        groups=("rooms",),
        amounts=(0.2, 0.4, 0.6, 0.8, 1.2),
        seconds=True,
    ),
}

VIEWS = make_table("view", {**_PICTURES, **_OTHERS}, ViewRow)


def groups() -> list[str]:
    """Words that stand for several views."""
    return [_ALL, *dict.fromkeys(word for row in VIEWS.entries().values() for word in row.groups)]


def check_views(names: Sequence[str]) -> None:
    """Refuse a name that is neither a view nor a group of them.

    Raises:
        PruneSearchError: naming the nearest.
    """
    known = [*groups(), *VIEWS]
    for name in names:
        if name not in known:
            raise PruneSearchError(f"unknown view '{name}': {did_you_mean(name, known)}")


def views_of(names: Sequence[str], reads: str) -> list[str]:
    """The views that names and groups come to for what a model reads, each once.

    Raises:
        PruneSearchError: for one that alters something else, or nothing to alter.
    """
    check_views(names)
    mine = {name: row for name, row in VIEWS.entries().items() if row.reads == reads}
    found: list[str] = []
    for name in names:
        some = [name] if name in VIEWS else [n for n, row in mine.items() if name == _ALL or name in row.groups]
        if not some or not set(some) <= set(mine):
            able = f"use {', '.join(dict.fromkeys(w for r in mine.values() for w in r.groups))}, or {', '.join(mine)}"
            raise PruneSearchError(
                f"view '{name}' does not alter what this model reads ({reads}): "
                f"{able if mine else 'leave --robust out'}"
            )
        found += some
    return list(dict.fromkeys(found))
