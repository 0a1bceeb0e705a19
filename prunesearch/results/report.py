"""`report.html`: the front in one file that needs no network, no server and nothing installed."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from prunesearch.core.files import write_text_atomic
from prunesearch.results.front import Front, Point
from prunesearch.results.page import fill_template, inert_json, plotly_js, resource
from prunesearch.results.show import export_command, short_schedule


def write_report(
    path: str | os.PathLike[str],
    front: Front,
    trials: Sequence[Mapping[str, Any]] = (),
    pictures: Sequence[Mapping[str, Any]] = (),
    texts: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the report, about 5 MB with plotly.js inside; the file is replaced atomically.

    Args:
        path: of the HTML file.
        front: the front of the study.
        trials: all finished trials, drawn faintly: `{"number", "predicted_ms", "kl", "quality"}` (quality as
            a fraction, on the calibration split; None or NaN where it is not known).
        pictures: `{"point": id, "title", "stages": [{"caption", "png": data-URI}]}`.
        texts: `{"point": id, "title", "stages": [{"caption", "spans": token_spans(...)}]}`.
    """
    write_text_atomic(path, report_html(front, trials, pictures, texts))


def report_html(
    front: Front,
    trials: Sequence[Mapping[str, Any]] = (),
    pictures: Sequence[Mapping[str, Any]] = (),
    texts: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the text of the report; arguments as in `write_report`."""
    data = {
        "front": front.to_dict(),
        "trials": [{key: _finite(trial.get(key)) for key in _TRIAL_FIELDS} for trial in trials],
        "pictures": list(pictures),
        "texts": list(texts),
        "python": {p.id: python_lines(p) for p in front.points},
        "schedules": {p.id: short_schedule(p) for p in front.points},
        "commands": {p.id: export_command(front, p.id) for p in front.points},
    }
    parts = {
        "title": html.escape(front.study),
        "verdict": html.escape(front.verdict.text),
        "style": resource("report.css"),
        "data": inert_json(data),
        "plotly": plotly_js(),
        "script": resource("report.js"),
    }
    return fill_template("report_template.html", parts)


def python_lines(point: Point) -> str:
    """Return the lines that put this schedule on a model in Python."""
    stages = "".join(
        f"    ps.Stage(layer={s.layer}, keep={s.keep!r},\n"
        f'             scorer="{s.scorer}",\n             merge="{s.merge}"),\n'
        for s in point.to_schedule()
    )
    return (
        f"import prunesearch as ps\n\nschedule = ps.Schedule([\n{stages}])\n"
        "handle = ps.apply_(model, schedule)\noutputs = model(**batch)\n"
        "handle.remove()  # exactly as before"
    )


_TRIAL_FIELDS = ("number", "predicted_ms", "kl", "quality")


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
