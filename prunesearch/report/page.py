"""What the HTML pages have in common: one file each that needs no network, no server and nothing installed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any


def fill_template(name: str, parts: Mapping[str, str]) -> str:
    """Put `parts` in place of their `{{names}}` in a file of `templates`.

    One pass, so that no part is searched for the names of the others.
    """
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], resource(f"templates/{name}"))


def inert_json(data: Any) -> str:
    """JSON that cannot end its script element, whatever the names in it are."""
    text = json.dumps(data, allow_nan=False)
    for sign, escape in {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}.items():
        text = text.replace(sign, escape)
    return text


def plotly_js() -> str:
    """The bundle `basic` of plotly.js (scatter, bar, pie), a quarter of the whole: it is what a page waits for."""
    return resource("assets/plotly-basic.min.js")


def resource(name: str) -> str:
    """Text of a file that lies beside this module, or in a folder there (`assets/style.css`)."""
    return resources.files("prunesearch.report").joinpath(name).read_text(encoding="utf-8")
