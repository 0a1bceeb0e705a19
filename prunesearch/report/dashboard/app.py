"""The Dash application: routes, live updates, and the server behind `prunesearch dashboard`."""

from __future__ import annotations

import logging
from importlib import resources
from typing import Any
from urllib.parse import unquote

from dash import ALL, MATCH, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.development.base_component import Component

from prunesearch.core.errors import PruneSearchError
from prunesearch.report.dashboard import compare_page as compare
from prunesearch.report.dashboard import devices_page as devices
from prunesearch.report.dashboard import study_page as page
from prunesearch.report.dashboard.library import Library
from prunesearch.report.dashboard.overview import overview
from prunesearch.report.dashboard.security import protect
from prunesearch.report.views import pages
from prunesearch.report.views.figures_search import contributions
from prunesearch.report.views.parts import named

_EVERY_MS = 2000  # between two looks at what has changed
_STUDY = "/study/"


def make_app(library: Library, host: str = "127.0.0.1") -> Dash:
    """Build the application over the studies of `library`, for a server that listens on `host`."""
    app = Dash(
        "prunesearch",
        assets_folder=str(resources.files("prunesearch.report").joinpath("assets")),
        serve_locally=True,
        suppress_callback_exceptions=True,  # the pages bring their own controls
        title="prunesearch",
        update_title="",
        add_log_handler=False,
    )
    app.index_string = _INDEX
    app.layout = _layout()
    _route(app, library)
    _live(app, library)
    _choices(app, library)
    _in_the_browser(app)
    protect(app.server, host, list(app.csp_hashes()))
    return app


_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>{%metas%}<meta name="color-scheme" content="light dark"><title>{%title%}</title>{%favicon%}{%css%}</head>
<body>{%app_entry%}<noscript>The dashboard needs JavaScript.</noscript>
<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""


def _layout() -> Component:
    links = [
        dcc.Link(text, href=path)
        for text, path in (("Overview", "/"), ("Compare", "/compare"), ("Devices", "/devices"))
    ]
    return html.Div(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id="scheme"),
            dcc.Interval(id="tick", interval=_EVERY_MS),
            html.A("To the content", href="#page", className="skip"),
            html.Nav(links, **named("pages")),
            html.Main(id="page", tabIndex=-1),
        ]
    )


def _key(path: str | None) -> str | None:
    """The study that a path names."""
    return unquote(path.removeprefix(_STUDY)) if path and path.startswith(_STUDY) else None


def _version(library: Library, path: str | None) -> str:
    """What the page at a path was made from: it differs as soon as a study on it has changed."""
    source = library.find(_key(path))
    watched = [source] if source is not None else list(library.sources().values()) if path == "/" else []
    for one in watched:
        one.view()
    return f"{path}:" + ",".join(f"{one.key}={one.version}" for one in watched)


def _route(app: Dash, library: Library) -> None:
    @app.callback(Output("page", "children"), Input("url", "pathname"), State("url", "search"))
    def show_page(path: str | None, search: str | None) -> Any:
        # the page brings the version that it was made from: only a later one redraws it
        return [dcc.Store(id="version", data=_version(library, path)), *content(path, search)]

    def content(path: str | None, search: str | None) -> list[Any]:
        if path in (None, "", "/"):
            return [html.Header(html.H1("Studies")), html.Div(overview(library.views()), id="overview")]
        if path == "/compare":
            return compare.compare_page(library.views(), search)
        if path == "/devices":
            return devices.devices_page(library.views())
        source = library.find(_key(path))
        if source is None:
            return [html.Header(html.H1("Not here")), html.P("There is no such page, or no such study.")]
        return page.study_page(source.view(), library.views(), search)


def _live(app: Dash, library: Library) -> None:
    @app.callback(
        Output("version", "data"),
        Input("tick", "n_intervals"),
        State("version", "data"),
        State("url", "pathname"),
        prevent_initial_call=True,
    )
    def look(_ticks: int | None, before: str | None, path: str | None) -> Any:
        now = _version(library, path)
        return no_update if now == before else now

    @app.callback(Output("overview", "children"), Input("version", "data"), prevent_initial_call=True)
    def refresh_overview(_version: str) -> Any:
        return overview(library.views())

    @app.callback(
        Output("study-head", "children"),
        Output("front-remark", "children"),
        Output("points", "children"),
        Output("axis", "options"),
        Input("version", "data"),
        Input("url", "search"),
        State("study-key", "data"),
        prevent_initial_call=True,
    )
    def refresh_study(_version: str, search: str | None, key: str) -> Any:
        source = library.find(key)
        if source is None:
            return [no_update] * 4
        study = source.view()
        points = page.points(study, page.chosen_item(study, search))
        if ctx.triggered_id == "url":
            return no_update, no_update, points, no_update
        return pages.head(study), pages.front_remark(study), points, page.axis_options(study)

    # by itself, since it comes later: a callback of which some outputs are there and some are not is an error
    @app.callback(
        Output("trust", "children"),
        Input("version", "data"),
        State("study-key", "data"),
        prevent_initial_call=True,
    )
    def refresh_trust(_version: str, key: str) -> Any:
        source = library.find(key)
        return no_update if source is None else pages.trust_section(source.view())


def _choices(app: Dash, library: Library) -> None:
    @app.callback(
        Output({"kind": "figure", "name": "front"}, "data"),
        Input("version", "data"),
        Input("axis", "value"),
        Input("colour", "value"),
        Input("others", "value"),
        Input("url", "search"),
        State("study-key", "data"),
        prevent_initial_call=True,
    )
    def draw_front(
        _version: str, axis: str, colour: str | None, others: list[str] | None, search: str | None, key: str
    ) -> Any:
        source = library.find(key)
        if source is None:
            return no_update
        study = source.view()
        views = {view.key: view for view in library.views()} if others else {}
        return page.front(
            study, axis, colour, page.overlaid(study, views, others or []), page.chosen_item(study, search)
        )

    @app.callback(
        Output("panel", "children"),
        Output("samples", "children"),
        Output("shown", "data"),
        Input("version", "data"),
        Input("url", "search"),
        State("study-key", "data"),
        State("shown", "data"),
        prevent_initial_call=True,
    )
    def show_point(_version: str, search: str | None, key: str, shown: str) -> Any:
        source = library.find(key)
        if source is None:
            return no_update, no_update, no_update
        study = source.view()
        item = page.chosen_item(study, search)
        stamp = page.shown_stamp(study, item)
        if stamp == shown:
            return no_update, no_update, no_update
        return page.panel(study, item), page.data(study, item), stamp

    @app.callback(
        Output({"kind": "figure", "name": "hypervolume"}, "data"),
        Output({"kind": "figure", "name": "stages"}, "data"),
        Output({"kind": "figure", "name": "methods"}, "data"),
        Output("methods-table", "children"),
        Input("version", "data"),
        Input("axis", "value"),
        State("study-key", "data"),
        prevent_initial_call=True,
    )
    def draw_search(_version: str, axis: str, key: str) -> Any:
        source = library.find(key)
        if source is None:
            return [no_update] * 4
        study = source.view()
        found = contributions(study, axis)
        figures = pages.search_figures(study, axis, found)
        return figures["hypervolume"], figures["stages"], figures["methods"], pages.methods_table(found)

    @app.callback(
        Output("below", "children"),
        Input("later", "data"),
        State("axis", "value"),
        State("study-key", "data"),
        prevent_initial_call=True,
    )
    def fill_below(_drawn: bool, axis: str, key: str) -> Any:
        source = library.find(key)
        return no_update if source is None else page.below(source.view(), axis)

    @app.callback(
        Output("compared", "children"),
        Input("compare-a", "value"),
        Input("compare-b", "value"),
        prevent_initial_call=True,
    )
    def compare_points(first: str, second: str) -> Any:
        studies = library.views()
        return compare.compared(compare.find_pair(studies, first), compare.find_pair(studies, second))

    @app.callback(Output("curves", "children"), Input("device", "value"), prevent_initial_call=True)
    def show_curves(value: str) -> Any:
        return devices.curves(library.views(), value)


def _in_the_browser(app: Dash) -> None:
    """Colours of figures, and clicks on points; the functions are in `assets/dash.js`."""
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("prunesearch", "themed"),
        Output({"kind": "graph", "name": MATCH}, "figure"),
        Output({"kind": "plot", "name": MATCH}, "style"),
        Input({"kind": "figure", "name": MATCH}, "data"),
        Input("scheme", "data"),
    )
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("prunesearch", "afterFront"), Output("later", "data"), Input("later", "id")
    )
    app.clientside_callback(  # type: ignore[no-untyped-call]
        ClientsideFunction("prunesearch", "walk"),
        Output("url", "href"),
        Input({"kind": "graph", "name": ALL}, "clickData"),
        prevent_initial_call=True,
    )


def serve(library: Library, host: str, port: int) -> None:
    """Serve until interrupted.

    Raises:
        PruneSearchError: if host and port cannot be listened on.
    """
    from werkzeug.serving import make_server

    app = make_app(library, host)
    overview(library.views())  # all that is read and counted, before the first page is asked for
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    try:
        server = make_server(host, port, app.server, threaded=True)
    except (OSError, SystemExit) as error:
        reason = getattr(error, "strerror", None) or "it is taken"
        raise PruneSearchError(f"{host}:{port} cannot be listened on ({reason}): choose another --port") from None
    with server:
        server.serve_forever()
