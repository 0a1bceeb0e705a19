"""The curve page: what is drawn is what the tables hold, names are inert, and a browser shows it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.report.curves import block_curve_of, curves_html, write_curves
from tests.support.curve_tables import COUNTS, EDGES, smooth, stairs, table
from tests.support.paths import CHROMIUM, needs_browser
from tests.support.some import some

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Scripts(HTMLParser):
    """The texts of a page's scripts, and its tags."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.inside = [], [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


def data_of(text):
    return json.loads(Scripts(text).scripts[0])


def trace(panel, name):
    return next(t for t in panel["data"] if t.get("name") == name)


ESTIMATE = table(stairs, "estimated", error=0.14, device="NVIDIA A100", batch_size=1)


def test_a_panel_holds_the_block_its_halves_and_its_band():
    (panel,) = data_of(curves_html([table(stairs)], "t"))["panels"]
    assert trace(panel, "block")["x"] == COUNTS
    assert trace(panel, "block")["y"] == pytest.approx([stairs(n) for n in COUNTS])
    assert trace(panel, "attention half")["y"] == pytest.approx([0.4 * stairs(n) for n in COUNTS])
    assert trace(panel, "MLP half")["y"] == pytest.approx([0.6 * stairs(n) for n in COUNTS])
    sized = trace(panel, "block, with token sizes")
    assert (sized["x"], sized["y"]) == (COUNTS[:-1], pytest.approx([1.04 * stairs(n) for n in COUNTS[:-1]]))
    # the halves' p90 are 4 % above their medians; independent halves add in quadrature: sqrt(.4^2 + .6^2) of it
    widest = 0.04 * (0.4**2 + 0.6**2) ** 0.5
    assert trace(panel, "p10 to p90")["y"] == pytest.approx([stairs(n) * (1 + widest) for n in COUNTS])


def test_plateaus_end_at_the_full_points():
    (panel,) = data_of(curves_html([table(stairs)], "t"))["panels"]
    assert trace(panel, "right edge")["x"] == EDGES
    assert trace(panel, "on a plateau")["x"] == [n for n in COUNTS if n not in EDGES]
    assert trace(panel, "plateau")["x"] == [16, 32, None, 40, 64, None, 72, 96, None]
    (panel,) = data_of(curves_html([table(smooth)], "t"))["panels"]
    assert trace(panel, "right edge")["x"] == COUNTS
    assert trace(panel, "plateau")["x"] == []


def test_estimates_are_dashed_hatched_and_said_with_their_error():
    data = data_of(curves_html([table(stairs), ESTIMATE], "t"))
    measured, estimated = data["panels"]
    for name in ("block", "attention half", "MLP half"):
        assert trace(measured, name)["line"]["dash"] == "solid"
        assert trace(estimated, name)["line"]["dash"] == "dash"
    band = trace(estimated, "mean error of the estimate")
    assert band["fillpattern"]["shape"] == "/"
    assert band["y"] == pytest.approx([1.14 * stairs(n) for n in COUNTS])
    assert [curve["trust"] for curve in data["curves"]] == [
        "measured", "estimated ±14 %, checked against public images/s",
    ]  # fmt: skip
    assert all("estimated" in text for text in some(trace(estimated, "right edge")["hovertext"]))
    assert [t["line"]["dash"] for t in data["overview"]["data"]] == ["solid", "dash"]
    assert block_curve_of(table(stairs, "estimated")).trust == "estimated, unchecked"
    assert block_curve_of(table(stairs, noisy=True)).trust == "measured on a noisy machine"


def test_tables_are_drawn_together_only_where_there_are_several_and_on_a_log_axis_where_they_differ_much():
    assert data_of(curves_html([table(stairs)], "t"))["overview"] is None
    near = data_of(curves_html([table(stairs), table(lambda n: 1.1 * stairs(n))], "t"))["overview"]
    far = data_of(curves_html([table(stairs), table(lambda n: 50 * stairs(n))], "t"))["overview"]
    assert "type" not in near["layout"]["yaxis"]
    axis = far["layout"]["yaxis"]
    assert axis["type"] == "log"
    assert min(axis["tickvals"]) <= 0.1  # the least and the greatest cost lie between two ticks
    assert max(axis["tickvals"]) >= 50 * 0.7
    assert {"0.1", "0.5", "20"} <= set(axis["ticktext"])


def test_conditions_stand_beside_the_curve():
    curve = block_curve_of(table(stairs, batch_size=32))
    assert curve.name == "deit-small"
    assert curve.details == (
        "vit, width 384, 6 heads, MLP 1536, gelu", "batch 32, float32, sdpa, eager, 2 threads", "a known machine",
    )  # fmt: skip
    assert block_curve_of(table(stairs, model="")).name == "vit, width 384, 6 heads, MLP 1536, gelu"


def test_every_figure_is_one_that_plotly_accepts():
    data = data_of(curves_html([table(stairs), ESTIMATE], "t"))
    for figure in [*data["panels"], data["overview"]]:
        assert go.Figure(figure).data  # validates every property


def test_the_page_is_whole_and_loads_nothing(tmp_path):
    write_curves(tmp_path / "sub" / "c.html", [table(stairs)], "curves")
    text = (tmp_path / "sub" / "c.html").read_text(encoding="utf-8")
    page = Scripts(text)
    assert len(page.scripts) == 3
    assert text.count("plotly.js (basic - minified) v") == 1
    assert "{{" not in text.replace(page.scripts[1], "")
    assert not any({"src", "href", "srcset", "action"} & set(attributes) for _, attributes in page.tags)
    policy = next(a["content"] for _, a in page.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page.scripts[2])


def test_names_cannot_become_markup():
    text = curves_html([table(stairs, model=EVIL, device=EVIL), ESTIMATE], EVIL)
    assert "<script>alert" not in text
    assert "<img" not in text
    data = data_of(text)
    assert data["curves"][0]["name"] == EVIL  # whole, as text
    assert "<img" not in json.dumps(data["panels"] + [data["overview"]])


@pytest.mark.parametrize(
    ("name", "tables", "message"),
    [
        ("c.svg", [table(stairs)], "a plot must be called FILE.html or FILE.png, but got 'c.svg'"),
        ("c.html", [], "needs at least one cost table: measure one with prunesearch profile"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, name, tables, message):
    with pytest.raises(PruneSearchError, match=message):
        write_curves(tmp_path / name, tables, "t")
    assert list(tmp_path.iterdir()) == []


def test_a_table_without_both_halves_is_refused():
    lone = table(stairs)
    lone = lone.model_copy(update={"cells": lone.cells.model_copy(update={"mlp": []})})
    with pytest.raises(PruneSearchError, match="a curve needs a token count with both halves of a block"):
        curves_html([lone], "t")


# -- PNG -----------------------------------------------------------------------------------------------


def test_without_kaleido_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(PruneSearchError, match=r"kaleido: pip install 'prunesearch\[png\]', or write c.html instead"):
        write_curves(tmp_path / "c.png", [table(stairs)], "t")
    assert list(tmp_path.iterdir()) == []


def test_a_png_holds_a_panel_for_each_table(tmp_path):
    drawn = []

    def draw(figure, **options):
        drawn.append((figure, options))
        return b"PNG"

    write_curves(tmp_path / "sub" / "c.PNG", [table(stairs, device=EVIL), table(smooth), ESTIMATE], EVIL, draw)
    assert (tmp_path / "sub" / "c.PNG").read_bytes() == b"PNG"
    ((figure, options),) = drawn
    assert options["format"] == "png"
    assert len({t.xaxis for t in figure.data}) == 3
    shown = [t.name for t in figure.data if t.showlegend]
    assert len(shown) == len(set(shown))
    assert {"block", "attention half", "MLP half", "p10 to p90", "mean error of the estimate", "plateau"} <= set(shown)
    texts = [figure.layout.title.text, *(a.text for a in figure.layout.annotations)]
    assert not any("<script" in text or "<img" in text for text in texts)
    assert "estimated ±14 %" in texts[3]


def test_without_a_browser_the_way_out_is_said(tmp_path):
    def fail(figure, **options):
        raise RuntimeError("Kaleido requires\nGoogle Chrome")

    with pytest.raises(PruneSearchError, match=r"needs Chrome or Chromium.* or write c.html instead") as caught:
        write_curves(tmp_path / "c.png", [table(stairs)], "t", fail)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# -- in a browser --------------------------------------------------------------------------------------


@needs_browser
def test_a_browser_draws_every_panel_and_no_name_runs(tmp_path):
    tables = [table(stairs, model=EVIL, device=EVIL), ESTIMATE]
    script = """
      document.body.append(el("pre", { id: "seen", textContent: [
        document.querySelectorAll(".js-plotly-plot").length, document.querySelectorAll("#panels section").length,
        document.querySelectorAll("#panels tbody tr").length, window.hit === undefined,
        document.querySelectorAll("img[onerror]").length, document.querySelectorAll(".chip.estimated").length,
        document.documentElement.scrollWidth <= innerWidth].join() }));
    """
    text = curves_html(tables, EVIL).replace("alert(", "hit=(")
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync --enable-logging=stderr "
        "--disable-background-networking --disable-component-update --virtual-time-budget=1000 --dump-dom "
        "--window-size=500,900"
    )
    done = subprocess.run(
        [str(CHROMIUM), *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    assert f'<pre id="seen">3,2,{2 * len(COUNTS)},true,0,1,true</pre>' in done.stdout, console
    assert not re.search("Error|Refused", console), console
