"""Dash components as HTML without Dash: what `report.html` is made of."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from dash.development.base_component import Component

_NAMES = {"className": "class", "tabIndex": "tabindex", "htmlFor": "for"}
_VOID = {"img", "br", "hr"}
_LONG = 200  # characters of a picture that are worth telling once instead of at every place


class Frozen:
    """Collects the figures and pictures of the components it turns into HTML, each of them once.

    `figures` are drawn by the page's script into elements that name them as `data-figure`; `pictures` likewise, as
    `data-picture`.
    """

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.pictures: list[str] = []
        self._known: dict[str, int] = {}

    def html(self, node: Any) -> str:
        """HTML of a component, a text, a number, None, or a list of them. All texts are escaped."""
        if node is None:
            return ""
        if isinstance(node, list | tuple):
            return "".join(map(self.html, node))
        if not isinstance(node, Component):
            return html.escape(str(node))
        plain = node.to_plotly_json()  # type: ignore[no-untyped-call]
        kind, props = plain["type"], plain["props"]
        if kind == "Store":
            self.figures[props["id"]["name"]] = props.get("data")
            return ""
        if kind == "Graph":
            name = html.escape(props["id"]["name"])
            return f'<div class="drawn" data-figure="{name}"></div>'
        if kind == "Link":
            return self._link(props)
        tag = kind.lower()
        opened = f"<{tag}{self._attributes(props)}>"
        return opened if tag in _VOID else f"{opened}{self.html(props.get('children'))}</{tag}>"

    def _link(self, props: Mapping[str, Any]) -> str:
        """A link to a point leads to its place on this page; there is no other page to go to."""
        point = parse_qs(urlsplit(props["href"]).query).get("point")
        text = self.html(props["children"])
        if point is None:
            return text
        return f'<a href="#{quote(point[0])}" class="point" data-point="{html.escape(point[0])}">{text}</a>'

    def _attributes(self, props: Mapping[str, Any]) -> str:
        found = ""
        for name, value in props.items():
            if name == "children" or value is None or (isinstance(value, dict) and name == "id"):
                continue  # what Dash alone goes by
            if name == "src" and len(value) > _LONG:
                name, value = "data-picture", self._picture(value)
            elif name == "style":
                value = ";".join(f"{key}:{setting}" for key, setting in value.items())
                if not value:
                    continue
            found += f' {_NAMES.get(name, name)}="{html.escape(str(value))}"'
        return found

    def _picture(self, uri: str) -> str:
        place = self._known.setdefault(uri, len(self.pictures))
        if place == len(self.pictures):
            self.pictures.append(uri)
        return str(place)
