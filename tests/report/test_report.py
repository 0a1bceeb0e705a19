"""report.html: whole, self-contained, inert to names, and working in a browser where one is installed."""

from __future__ import annotations

import html
import json
import re
import subprocess
from html.parser import HTMLParser

import prunesearch as ps
from prunesearch.report.report import report_html, write_report
from prunesearch.report.views.parts import python_lines
from prunesearch.report.views.shown_samples import ShownSamples
from tests.support.curve_tables import smooth
from tests.support.curve_tables import table as curve_table
from tests.support.paths import CHROMIUM, needs_browser
from tests.support.some import some
from tests.support.studies import PNG, plain_trials, samples

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}


class Page(HTMLParser):
    """Collects tags, texts of scripts, and checks that elements nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.open, self.texts = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data)


TRIALS = [
    {"number": 0, "predicted_ms": 11.0, "kl": 0.1, "quality": 0.7},
    {"number": 1, "predicted_ms": 9.0, "kl": float("nan"), "quality": None},
]
WHOLE = [
    {
        "number": t.number,
        "predicted_ms": t.attrs["latency"],
        "kl": 0.1,
        "quality": t.attrs["quality"],
        "schedule": t.attrs["schedule"],
    }
    for t in plain_trials(12)
]


def evil_front(make_front):
    """A front with markup in every name that a user can choose."""
    data = make_front().to_dict()
    data["model"]["id"] = data["device"]["name"] = data["task"]["metric"] = EVIL
    data["points"][1]["id"] = data["verdict"]["point"] = data["verdict"]["text"] = EVIL
    return make_front(**{**data, "study": EVIL, "config": {EVIL: EVIL}})


def embedded(page):
    """The data block of a parsed report."""
    place = [a for t, a in page.tags if t == "script"].index({"type": "application/json", "id": "data"})
    return json.loads(page.scripts[place])


def test_whole_and_self_contained(make_front, tmp_path):
    found = samples()
    write_report(tmp_path / "report.html", make_front(), WHOLE, found.rows, found.traces)
    assert ShownSamples.load(tmp_path / "samples.json") == found
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len(page.scripts) == 3
    assert "{{" not in text.replace(page.scripts[1], "")
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in {"src", "href", "srcset", "action"} & set(attributes):
            assert attributes[name].startswith(("#", "data:")), (tag, attributes)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in page.scripts[0].replace("http://www.w3.org", "") + page.scripts[2] + style
    assert text.count("plotly.js (basic - minified) v") == 1
    assert len(text) < 2_000_000


def test_policy_forbids_every_load(make_front):
    policy = next(a["content"] for t, a in Page(report_html(make_front())).tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_data_is_all_there(make_front):
    front = make_front()
    page = Page(report_html(front, WHOLE, samples()))
    data = embedded(page)
    assert data["front"] == front.to_dict()
    assert all(uri.startswith("data:image/") for uri in data["pictures"])
    assert PNG in {a.get("src") for _, a in page.tags}
    assert data["chosen"] == "p2"
    figures = data["figures"]
    assert {"front latency", "front macs", "hypervolume", "stages", "methods", "predicted"} <= figures.keys()
    assert {f"tokens {p.id}" for p in front.points} <= figures.keys()
    panels = [a["data-panel"] for _, a in page.tags if "data-panel" in a]
    assert panels == [p.id for p in front.points] * 2
    text = " ".join(page.texts)
    for point in some(front.points):
        assert f"prunesearch export demo --pick {point.id} --to json" in text
    assert "unpruned says frog, pruned says toad" in text


def test_trials_without_schedules_or_quality(make_front):
    figures = embedded(Page(report_html(make_front(), TRIALS)))["figures"]
    assert figures["front latency"]["data"][0]["x"] == [11.0]
    assert "hypervolume" not in figures


def test_trials_that_break_a_constraint_are_crosses(make_front):
    trials = [{**WHOLE[0], "constraints": {"agreement >= 0.9": 0.2}}, {**WHOLE[1], "constraints": {"x": -1.0}}]
    page = Page(report_html(make_front(), trials))
    drawn = embedded(page)["figures"]["front latency"]["data"][0]
    assert drawn["marker"]["symbol"] == ["x-thin-open", "circle"]
    assert drawn["text"][0].endswith("breaks agreement &gt;= 0.9")
    assert "Crosses: the 1 that break a constraint." in " ".join(page.texts)


def test_no_point_on_the_front(make_front):
    text = report_html(make_front(points=[], verdict={"text": "unpruned is best here", "point": None}))
    assert "keep the model as it is" in text
    assert Page(text).open == []


def test_where_the_time_goes_needs_the_table(make_front):
    table = curve_table(smooth, error=0.02)
    front = make_front(points=[], verdict={"text": "none", "point": None})
    assert "Where the time goes" not in report_html(front, (), None, table)
    with_points = report_html(make_front(), (), None, table)  # a table without stages cannot price them
    assert "Where the time goes" not in with_points


def test_title_and_verdict_need_no_script(make_front):
    front = make_front()
    texts = Page(report_html(front)).texts
    assert front.verdict.text in texts
    assert "demo" in texts


def test_names_stay_text(make_front):
    front = evil_front(make_front)
    text = report_html(front, WHOLE, samples(EVIL, EVIL))
    page = Page(text)
    assert page.open == []
    assert len(page.scripts) == 3
    assert not [a for _, a in page.tags if "onerror" in a]
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert embedded(page)["front"]["study"] == EVIL


def test_the_page_script_never_writes_markup(make_front):
    script = Page(report_html(make_front())).scripts[2]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


def test_python_lines_run(make_front):
    for point in some(make_front().points):
        lines = python_lines(point.to_schedule()).splitlines()
        end = lines.index("])")
        names: dict[str, object] = {"ps": ps}
        exec("\n".join(lines[1 : end + 1]), names)
        assert names["schedule"] == point.to_schedule()


def dom(text, script, tmp_path):
    """The page as a browser leaves it after running `script` at its end; and what it logged."""
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync --enable-logging=stderr "
        "--disable-background-networking --disable-component-update --virtual-time-budget=3000 --dump-dom"
    )
    done = subprocess.run(
        [str(CHROMIUM), *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, console


@needs_browser
def test_choosing_points_in_a_browser(make_front, tmp_path):
    script = """
      const seen = [];
      const shown = () => [...document.querySelectorAll("[data-panel]")].filter((p) => !p.hidden);
      const bars = () => shown()[0].querySelector('[data-figure^="tokens"]').data[1].y.join();
      const scorer = "cls_attention_value".replaceAll("_", "_\u200b");
      const current = () => document.querySelectorAll('[aria-current="true"]').length;
      const note = () => seen.push([shown()[0].dataset.panel, shown()[0].textContent.includes(scorer), bars(),
        shown()[1].querySelectorAll("img").length, current()].join(" "));
      const front = document.querySelector('[data-figure="front"]');
      note();
      [...document.querySelectorAll("a.point")].find((a) => a.textContent === "p3").click(); note();
      front.emit("plotly_click", { points: [{ customdata: ["study", "p4"] }] }); note();
      const axis = document.getElementById("axis");
      axis.value = "macs"; axis.dispatchEvent(new Event("change"));
      seen.push(front.layout.xaxis.title.text);
      const pre = document.createElement("pre");
      pre.id = "seen"; pre.textContent = seen.join("|"); document.body.append(pre);
    """
    out, console = dom(report_html(make_front(), WHOLE, samples()), script, tmp_path)
    seen = re.search(r'<pre id="seen">(.*?)</pre>', out, re.S)
    assert seen is not None, console
    tokens = {p.id: ",".join(map(str, p.tokens)) for p in make_front().points}
    assert html.unescape(seen[1]).split("|") == [
        f"p2 false {tokens['p2']} 3 1",
        f"p3 true {tokens['p3']} 0 1",
        f"p4 false {tokens['p4']} 0 1",
        "multiply-adds of an input, GMACs",
    ]
    assert not re.search("Error|Refused", console), console


@needs_browser
def test_names_are_inert_in_a_browser(make_front, tmp_path):
    script = """
      const pre = document.createElement("pre"); pre.id = "seen";
      pre.textContent = [window.hit === undefined, document.querySelectorAll("img[onerror]").length,
        document.body.textContent.includes("apply_"),
        document.querySelector("h1").textContent.startsWith("\\u003c/script>")].join();
      document.body.append(pre);
    """
    text = report_html(evil_front(make_front), WHOLE, samples(EVIL, EVIL)).replace("alert(", "hit=(")
    out, console = dom(text, script, tmp_path)
    assert '<pre id="seen">true,0,true,true</pre>' in out, console
    assert "Error" not in console, console
