"""Pictures of small shapes and printed words, with questions of looks, place, count and reading that need a picture.

    python examples/shapes_and_words.py --out DIR --count 2000 --seed 1     # DIR/questions.parquet, for a look
    python examples/shapes_and_words.py --text-alone                         # what one gets right without the pictures

A picture has 224 x 224 pixels: 4 to 9 things in a grid of 4 x 4 cells, shapes of about 30 pixels and words of three
letters 10 pixels high. "left of" means the nearest thing in the same row on that side, and so on. A question has one
answer: a colour, a shape, a digit or a word. Pictures with the same seed are the same. `FEW` has less to draw than
`ALL`, for models that are trained for minutes.
"""

from __future__ import annotations

import argparse
import io
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

SIDE, CELLS, FEWEST, MOST = 224, 4, 4, 9
COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 150, 60),
    "blue": (38, 84, 200),
    "yellow": (240, 200, 20),
    "purple": (136, 60, 170),
    "orange": (250, 128, 20),
    "brown": (120, 74, 46),
    "pink": (244, 130, 190),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
WORDS = (  # noqa: SIM905
    "ANT BAT BEE BOX BUS CAP CAR CAT COW CUP DOG EAR EGG ELK FAN FIG FLY FOX GEM HAT HEN ICE INK JAM JAR KEY KIT LEG "
    "LIP MAP MUG NET NUT OAK OIL OWL PAN PEN PIG PIN PIT POT RAT RUG SUN TEA TIN TOY VAN VET WAX WEB YAK ZIP"
).split()
SIDES = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
KINDS = ("looks", "place", "count", "reading")
_INK = (30, 30, 30)
# shares of the questions with these answers that are asked: most counts are small, and would be guessed
_ASKED = {"0": 0.08, "1": 0.25, "2": 0.7}


Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Repertoire:
    """What there is to draw, and the kinds of questions that are asked."""

    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    words: tuple[str, ...]
    kinds: tuple[str, ...] = KINDS


ALL = Repertoire(SHAPES, tuple(COLOURS), tuple(WORDS))
FEW = Repertoire(
    ("circle", "star", "cross"), ("red", "green", "blue", "yellow"), ("BUS", "FOX", "MAP", "WEB"), KINDS[:3]
)


@dataclass(frozen=True)
class Thing:
    """A shape or a word in a cell; `colour` is empty of a word, whose `name` it is."""

    name: str
    colour: str
    row: int
    column: int

    @property
    def said(self) -> str:
        """How a question speaks of it."""
        return f"the {self.colour} {self.name}" if self.colour else f"the word {self.name}"


@dataclass(frozen=True)
class Question:
    """A question of a picture: `kind` is one of `KINDS`, `form` what it asks, whatever it asks it of.

    `about` are the things of the picture, by their number, that it names or counts.
    """

    text: str
    answer: str
    kind: str
    form: str
    about: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sample:
    """A picture, what is in it, where that is in pixels, and some questions of it."""

    picture: Image.Image
    things: list[Thing]
    boxes: list[Box]
    questions: list[Question]


def make_scene(rng: np.random.Generator, repertoire: Repertoire = ALL) -> list[Thing]:
    """Draw what is in a picture; no two words are the same."""
    shapes, colours, printed = repertoire.shapes, repertoire.colours, repertoire.words
    count = int(rng.integers(FEWEST, MOST + 1))
    words = int(rng.integers(1, count // 2 + 1))
    cells = rng.permutation(CELLS * CELLS)[:count]
    names = rng.permutation(len(printed))[:words]
    things = []
    for i, cell in enumerate(cells.tolist()):
        row, column = divmod(cell, CELLS)
        if i < words:
            things.append(Thing(printed[names[i]], "", row, column))
        else:
            colour = colours[rng.integers(len(colours))]
            things.append(Thing(shapes[rng.integers(len(shapes))], colour, row, column))
    return things


def draw_scene(things: list[Thing], rng: np.random.Generator) -> tuple[Image.Image, list[Box]]:
    """The picture, on a light ground, and where each thing is: a few pixels out of the middle of its cell."""
    ground = tuple(int(c) for c in rng.integers(225, 256, 3))
    picture = Image.new("RGB", (SIDE, SIDE), ground)
    pen, cell = ImageDraw.Draw(picture), SIDE // CELLS
    font, boxes = ImageFont.load_default(size=14), []
    for thing in things:
        x = (thing.column + 0.5) * cell + float(rng.uniform(-6, 6))
        y = (thing.row + 0.5) * cell + float(rng.uniform(-6, 6))
        if not thing.colour:
            pen.text((x, y), thing.name, fill=_INK, font=font, anchor="mm")
            boxes.append(pen.textbbox((x, y), thing.name, font=font, anchor="mm"))
            continue
        r = float(rng.uniform(12, 17))
        _draw_shape(pen, thing, x, y, r)
        boxes.append((x - r, y - r, x + r, y + r))
    return picture, boxes


def _draw_shape(pen: ImageDraw.ImageDraw, thing: Thing, x: float, y: float, r: float) -> None:
    colour = COLOURS[thing.colour]
    if thing.name == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif thing.name == "cross":
        pen.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=colour)
        pen.rectangle((x - r / 3, y - r, x + r / 3, y + r), fill=colour)
    else:
        pen.polygon(_corners(thing.name, x, y, r), fill=colour)


def _corners(name: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    count, turn, inner = {"square": (4, 0.25, 1.0), "diamond": (4, 0.0, 1.0), "triangle": (3, 0.0, 1.0)}.get(
        name, (10, 0.0, 0.45)
    )
    points = []
    for i in range(count):
        angle = 2 * np.pi * ((i + turn * 2) / count) - np.pi / 2
        length = r * (inner if i % 2 and name == "star" else 1.0)
        points.append((x + length * float(np.cos(angle)), y + length * float(np.sin(angle))))
    return points


def all_questions(things: list[Thing], repertoire: Repertoire = ALL) -> list[Question]:
    """Every question that has one answer."""
    found = _of_looks(things)
    for thing in things:
        if sum((t.name, t.colour) == (thing.name, thing.colour) for t in things) > 1:
            continue
        for side, (down, right) in SIDES.items():
            near = nearest(things, thing, down, right)
            if near is not None:
                asked = _of_neighbour(near, f"{side} {thing.said}", f"{side} {'shape' if thing.colour else 'word'}")
                found += [replace(question, about=(things.index(thing),)) for question in asked]
    for name in (*repertoire.shapes, *repertoire.colours, "word"):
        about = tuple(
            number for number, t in enumerate(things) if name in (t.name, t.colour) or (name == "word" and not t.colour)
        )
        what = f"{name} things" if name in COLOURS else f"{name}s" if name != "cross" else "crosses"
        found.append(Question(f"how many {what} are there ?", str(len(about)), "count", f"count {name}", about))
    return [question for question in found if question.kind in repertoire.kinds]


def _of_looks(things: list[Thing]) -> list[Question]:
    """Of shapes that are the only ones of their name, or of their colour."""
    found, shapes = [], [thing for thing in things if thing.colour]
    for thing in shapes:
        about = (things.index(thing),)
        if sum(other.name == thing.name for other in shapes) == 1:
            found.append(
                Question(f"which colour is the {thing.name} ?", thing.colour, "looks", f"colour {thing.name}", about)
            )
        if sum(other.colour == thing.colour for other in shapes) == 1:
            found.append(
                Question(f"which shape is {thing.colour} ?", thing.name, "looks", f"shape {thing.colour}", about)
            )
    return found


def nearest(things: list[Thing], thing: Thing, down: int, right: int) -> Thing | None:
    """The nearest thing in the same row or column, so many rows down and columns right a step."""

    def steps(other: Thing) -> int:
        rows, columns = (other.row - thing.row) * down, (other.column - thing.column) * right
        aside = (other.column != thing.column) if down else (other.row != thing.row)
        return 0 if aside else rows + columns

    near = [other for other in things if steps(other) > 0]
    return min(near, key=steps, default=None)


def _of_neighbour(near: Thing, where: str, form: str) -> list[Question]:
    if not near.colour:
        return [Question(f"which word is {where} ?", near.name, "reading", f"word {form}")]
    return [
        Question(f"which colour is {where} ?", near.colour, "place", f"colour {form}"),
        Question(f"which shape is {where} ?", near.name, "place", f"shape {form}"),
    ]


def ask(things: list[Thing], rng: np.random.Generator, count: int, repertoire: Repertoire = ALL) -> list[Question]:
    """Draw questions of a picture: the kinds in turn, as far as it has them."""
    asked: list[Question] = []
    by_kind: dict[str, list[Question]] = defaultdict(list)
    for question in all_questions(things, repertoire):
        if rng.random() < _ASKED.get(question.answer, 1.0):
            by_kind[question.kind].append(question)
    for questions in by_kind.values():
        rng.shuffle(questions)  # type: ignore[arg-type]
    kinds = repertoire.kinds
    start = int(rng.integers(len(kinds)))
    while len(asked) < count and any(by_kind.values()):
        questions = by_kind[kinds[(start + len(asked)) % len(kinds)]] or max(by_kind.values(), key=len)
        asked.append(questions.pop())
    return asked


def samples(seed: int, questions: int = 1, first: int = 0, repertoire: Repertoire = ALL) -> Iterator[Sample]:
    """Pictures without end, from the one numbered `first` on."""
    for number in itertools.count(first):
        rng = np.random.default_rng([seed, number])
        things = make_scene(rng, repertoire)
        picture, boxes = draw_scene(things, rng)
        yield Sample(picture, things, boxes, ask(things, rng, questions, repertoire))


def text_alone(fitted: int = 20_000, judged: int = 5_000, repertoire: Repertoire = ALL) -> dict[str, float]:
    """Shares that are right without a look: for each form of a question the answer that is most frequent elsewhere."""
    best: dict[str, Counter[str]] = defaultdict(Counter)
    for question in _questions(1, fitted, repertoire):
        best[question.form][question.answer] += 1
    right: dict[str, list[bool]] = defaultdict(list)
    for question in _questions(2, judged, repertoire):
        known = best[question.form].most_common(1)
        hit = bool(known) and known[0][0] == question.answer
        right["all"].append(hit)
        right[question.kind].append(hit)
    return {kind: float(np.mean(hits)) for kind, hits in right.items()}


def _questions(seed: int, count: int, repertoire: Repertoire) -> Iterator[Question]:
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        yield from ask(make_scene(rng, repertoire), rng, 1, repertoire)


def write(out: Path, count: int, seed: int, repertoire: Repertoire = ALL) -> None:
    """Write `count` pictures with a question each: columns image, question, answer, kind."""
    rows: dict[str, list[object]] = {"image": [], "question": [], "answer": [], "kind": []}
    for sample in itertools.islice(samples(seed, repertoire=repertoire), count):
        data, question = io.BytesIO(), sample.questions[0]
        sample.picture.save(data, "PNG")
        rows["image"].append({"bytes": data.getvalue(), "path": None})
        for name in ("answer", "kind"):
            rows[name].append(getattr(question, name))
        rows["question"].append(question.text)
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), out / "questions.parquet")
    print(f"{out / 'questions.parquet'}: {count} pictures")


def main() -> None:
    """Write pictures, or say what text alone gets right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--text-alone", action="store_true")
    parser.add_argument("--few", action="store_true", help="fewer shapes, colours and words")
    given = parser.parse_args()
    repertoire = FEW if given.few else ALL
    if given.out is not None:
        write(given.out, given.count, given.seed, repertoire)
    if given.text_alone or given.out is None:
        for kind, share in text_alone(repertoire=repertoire).items():
            print(f"text alone, {kind}: {share:.1%} right")


if __name__ == "__main__":
    main()
