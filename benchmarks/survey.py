"""A survey's first table, measured: methods at equal latency on trained models, and docs/survey.md that is made of it.

    python benchmarks/survey.py measure STUDY ... [--budget 2x] [--rows N] [--seconds S] [--methods NAME ...]
    python benchmarks/survey.py write [FOLDER]        # docs/survey.md, of benchmarks/results/survey/*.json

`measure` runs `compare` on finished studies, as `prunesearch compare STUDY` does, and keeps what it finds, one file a
study. A study may be of a model of `models.py` (KWT-1, whose family is registered first). Scorers that are to take part
are trained before: `prunesearch learn-scorers STUDY --method gate --method saliency --method policy`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import models
from pydantic import BaseModel

import prunesearch as ps
from prunesearch.core.costs import digits
from prunesearch.core.files import write_text_atomic
from prunesearch.core.tables.rival_table import RIVALS
from prunesearch.report.tables.compared_table import compared_head, compared_rows_of
from prunesearch.search.rivals.agreement import COLUMNS
from prunesearch.study.front import Front
from prunesearch.study.front_compared import Compared, ComparedMethod

RESULTS = Path(__file__).resolve().parent / "results" / "survey"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "survey.md"
_NAMES = {"cost": "computational cost", "adaptability": "adaptability", "complexity": "implementation complexity"}
_HEAD = """\
# A survey's first table, measured

`prunesearch compare STUDY` (or `--model M --data D`) brings every method in the house to one latency, measured on
your device, on your model and rows. This page is what it found on {models}; `python benchmarks/survey.py write` makes
it of the files in `benchmarks/results/survey/`, and no figure of it is typed by hand.

A method is one row of `RIVALS` (`prunesearch names rivals`). One number sets each of them: how many tokens a stage
keeps, a rate, ToMe's r. It is bisected on the study's cost table, corrected by what was measured, and the plan that
takes as much of the latency as it may is chosen, by time alone. Scorers are compared at one block, a quarter of the
depth (earlier where the latency asks for it); what they do not keep is dropped. All plans are then timed interleaved
in one run, and judged on the same holdout rows. Methods whose time hangs on the row (score-threshold, score-share,
inverse-cdf, cascade, router) are brought to that latency on average over batches of calibration rows, a number by the
cost table at the counts that rows have, and timed beside the unpruned model on batches of holdout rows.

| column | what it is |
|---|---|
| change | quality minus the unpruned model's, points, paired by row, 95 % interval |
| speed | the unpruned model's median latency over the method's, both of that run |
| MACs | share of the unpruned model's multiply-adds |
| min, rows | to find or to train it, beyond the cost table that all need; rows in forwards of the unpruned model |
| kernels | operations that a stage adds to a forward of one row: launches, on a GPU |
| varies | how unlike the fate of tokens is in two inputs of one length: 0 the same tokens in all, 1 none in common |
| spread | 95th percentile of latency over its mean, over batches of unlike rows; a static plan has none |
| survey | of the pairs of methods that the survey ranks in its three columns, how many our figures have in its order |

What stands for the survey's words: cost is the minutes to find or train a method, adaptability is `varies`,
complexity is `kernels`. Its cells are words, so that only orders can be held against figures: a cell agrees with
every method that it ranks higher or lower and that our figures do too. Two methods that cost nothing to find are no
pair in order.
"""


class Result(BaseModel):
    """A study's comparison, with what a reader has to know of it; `note` is added by hand, and is no figure."""

    study: str
    model: str
    metric: str
    device: str
    conditions: dict[str, Any]
    cost_table_error: float
    compared: Compared
    note: str = ""


def measure(studies: Sequence[str], folder: Path, **wanted: Any) -> None:
    """Compare on every study, and keep what is found."""
    models._examples("kwt1_task")
    for study in studies:
        found = ps.load_study(study).compare(**wanted)
        result = result_of(found.front)
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(folder / f"{result.study}.json", result.model_dump_json(indent=1) + "\n")


def result_of(front: Front) -> Result:
    """What is kept of a front that was compared."""
    if front.compared is None:
        raise ps.PruneSearchError(f"study '{front.study}' was not compared: prunesearch compare {front.study}")
    threads = front.conditions.threads
    return Result(
        study=front.study,
        model=Path(front.model.id).name,
        metric=front.task.metric,
        device=f"{front.device.name}, {threads} thread{'' if threads == 1 else 's'}",
        conditions=front.conditions.model_dump(),
        cost_table_error=front.cost_table.mape,
        compared=front.compared,
    )


def page(results: Sequence[Result]) -> str:
    """The page in Markdown."""
    parts = [_HEAD.format(models=", ".join(one.study for one in results)).rstrip(), "", *_cells(results)]
    for one in results:
        parts += ["", f"## {one.study}", "", *_told(one)]
    return "\n".join(parts) + "\n"


def _cells(results: Sequence[Result]) -> list[str]:
    """The survey's table: what it says, and for each model our figure and with how many pairs it agrees."""
    lines = ["## The survey's cells", ""]
    for column in COLUMNS:
        head = [_NAMES[column], "the survey says", *(one.study for one in results)]
        lines += [_row(head), _row(["---"] * len(head))]
        for name, row in RIVALS.entries().items():
            if row.survey is not None:
                shown = [_cell(one.compared, name, column) for one in results]
                lines.append(_row([name, getattr(row.survey, column), *shown]))
        totals = [_agreement(one.compared, column) for one in results]
        lines += [_row(["pairs in its order", "", *totals]), ""]
    return lines[:-1]


def _cell(found: Compared, name: str, column: str) -> str:
    one = next((method for method in found.methods if method.name == name), None)
    cell = None if one is None else next(cell for cell in one.survey if cell.column == column)
    if cell is None or cell.ours is None:
        return "–"
    figure = {"cost": f"{cell.ours / 60:.1f} min", "adaptability": f"{cell.ours:.2f}"}.get(column, f"{cell.ours:.0f}")
    return f"{figure} ({cell.agree}/{cell.pairs})" if cell.pairs else figure


def _agreement(found: Compared, column: str) -> str:
    """Every pair has two cells, so that half of them are told."""
    cells = [cell for method in found.methods for cell in method.survey if cell.column == column]
    return f"{sum(c.agree for c in cells) // 2} of {sum(c.pairs for c in cells) // 2}"


def _told(one: Result) -> list[str]:
    found, at = one.compared, one.conditions
    how = ", ".join([f"batch {at['batch_size']}", at["dtype"], at["attention"], at["mode"], f"{at['tokens']} tokens"])
    where = (
        f"{one.model} on {one.device}, {how}; unpruned {digits(found.unpruned.middle)} ms, {one.metric} "
        f"{100 * _unpruned(found):.1f} % of {found.rows:,} holdout rows; budget {found.budget}; mean error of the cost "
        f"table {one.cost_table_error:.1%}."
    )
    head = compared_head(found, one.metric)
    lines = [where, "", _row(head), _row(["---"] * len(head))]
    lines += [_row(_bold(cells, method)) for cells, method in zip(compared_rows_of(found), found.methods, strict=True)]
    said = [
        *(f"{name} is left out: {why}." for name, why in found.left_out.items()),
        *found.notes,
        *filter(None, [one.note]),
        found.verdict,
    ]
    plans = ["", "| method | plan |", "|---|---|", *(_row([m.name, f"`{m.text}`"]) for m in found.methods)]
    return [*lines, "", "  \n".join(said), *plans]


def _unpruned(found: Compared) -> float:
    """The unpruned model's quality on the rows of the comparison, which every change is from."""
    one = next(method for method in found.methods if method.by_row is None)
    return one.quality.value - (0.0 if one.quality.difference is None else one.quality.difference.value)


def _bold(cells: list[str], method: ComparedMethod) -> list[str]:
    return [f"**{cells[0]}**", *cells[1:]] if RIVALS.entry(method.name).ours else cells


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def read(folder: Path) -> list[Result]:
    """What was kept in a folder, by name."""
    return [Result.model_validate(json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    measuring = verbs.add_parser("measure")
    measuring.add_argument("studies", nargs="+", help="names or folders")
    measuring.add_argument("--budget")
    measuring.add_argument("--rows", type=int)
    measuring.add_argument("--seconds", type=float, default=60.0)
    measuring.add_argument("--methods", nargs="+", default=[])
    measuring.add_argument("--to", type=Path, default=RESULTS, help="folder of the results")
    writing = verbs.add_parser("write")
    writing.add_argument("folder", nargs="?", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    if asked.verb == "write":
        write_text_atomic(PAGE, page(read(asked.folder)))
        return
    wanted = {"budget": asked.budget, "rows": asked.rows, "seconds": asked.seconds, "methods": asked.methods}
    measure(asked.studies, asked.to, **wanted)


if __name__ == "__main__":
    main()
