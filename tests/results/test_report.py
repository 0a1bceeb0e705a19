"""report.html: whole, self-contained, inert to names, and working in a browser where one is installed."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

import prunesearch as ps
from prunesearch.results.report import python_lines, report_html, write_report

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
PNG = "data:image/png;base64,iVBORw0KGgo="
VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)


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


def samples(point="p2", title="image 0"):
    """One picture and one text for a point."""
    spans = [
        {"text": "[CLS]", "state": "protected", "group": None},
        {"text": "so", "state": "merged", "group": 0},
        {"text": "##il", "state": "merged", "group": 0},
        {"text": title, "state": "dropped", "group": None},
    ]
    return {
        "pictures": [{"point": point, "title": title, "stages": [{"caption": title, "png": PNG}]}],
        "texts": [{"point": point, "title": title, "stages": [{"caption": title, "spans": spans}]}],
    }


TRIALS = [
    {"number": 0, "predicted_ms": 11.0, "kl": 0.1, "quality": 0.7},
    {"number": 1, "predicted_ms": 9.0, "kl": float("nan"), "quality": None},
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
    write_report(tmp_path / "report.html", make_front(), TRIALS, **samples())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len(page.scripts) == 3
    assert "{{" not in text.replace(page.scripts[1], "")
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        assert not {"src", "href", "srcset", "action"} & set(attributes), (tag, attributes)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in page.scripts[0] + page.scripts[2] + style
    assert text.count("plotly.js v") == 1


def test_policy_forbids_every_load(make_front):
    policy = next(a["content"] for t, a in Page(report_html(make_front())).tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_data_is_all_there(make_front):
    front = make_front()
    data = embedded(Page(report_html(front, TRIALS, **samples())))
    assert data["front"] == front.to_dict()
    assert data["trials"][1] == {"number": 1, "predicted_ms": 9.0, "kl": None, "quality": None}
    assert data["pictures"] == samples()["pictures"]
    assert data["texts"] == samples()["texts"]
    assert data["commands"]["p3"] == "prunesearch export demo --pick p3 --to json"


def test_title_and_verdict_need_no_script(make_front):
    front = make_front()
    texts = Page(report_html(front)).texts
    assert front.verdict.text in texts
    assert "demo" in texts


def test_names_stay_text(make_front):
    front = evil_front(make_front)
    text = report_html(front, TRIALS, **samples(EVIL, EVIL))
    page = Page(text)
    assert page.open == []
    assert len(page.scripts) == 3
    assert not [a for t, a in page.tags if t == "img" or "onerror" in a]
    assert "<script>alert" not in text
    assert "<img" not in text
    assert embedded(page)["front"]["study"] == EVIL


def test_the_page_script_never_writes_markup(make_front):
    script = Page(report_html(make_front())).scripts[2]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


def test_python_lines_run(make_front):
    for point in make_front().points:
        lines = python_lines(point).splitlines()
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


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine to render the report with")
def test_choosing_points_in_a_browser(make_front, tmp_path):
    script = """
      const seen = [];
      const note = () => seen.push([$("choice").value, $("details").textContent.includes("cls_attention_value"),
        $("tokens-plot").data[1].y.join(), $("picture-list").querySelectorAll("img").length].join(" "));
      note();
      $("choice").value = "p3"; $("choice").dispatchEvent(new Event("change")); note();
      $("front-plot").emit("plotly_click", { points: [{ customdata: "p4" }] }); note();
      [...document.querySelectorAll("#table button")].find((b) => b.textContent === "p2").click(); note();
      document.body.append(el("pre", { id: "seen", textContent: seen.join("|") }));
    """
    out, console = dom(report_html(make_front(), TRIALS, **samples()), script, tmp_path)
    seen = re.search(r'<pre id="seen">(.*?)</pre>', out, re.S)
    assert seen is not None, console
    tokens = {p.id: ",".join(map(str, p.tokens)) for p in make_front().points}
    assert html.unescape(seen[1]).split("|") == [
        f"p2 false {tokens['p2']} 1",
        f"p3 true {tokens['p3']} 0",
        f"p4 false {tokens['p4']} 0",
        f"p2 false {tokens['p2']} 1",
    ]
    assert not re.search("Error|Refused", console), console


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine to render the report with")
def test_names_are_inert_in_a_browser(make_front, tmp_path):
    script = """
      document.body.append(el("pre", { id: "seen", textContent: [window.hit === undefined,
        document.querySelectorAll("img[onerror]").length, $("details").textContent.includes("apply_"),
        document.querySelector("h1").textContent.startsWith("\\u003c/script>")].join() }));
    """
    text = report_html(evil_front(make_front), TRIALS, **samples(EVIL, EVIL)).replace("alert(", "hit=(")
    out, console = dom(text, script, tmp_path)
    assert '<pre id="seen">true,0,true,true</pre>' in out, console
    assert "Error" not in console, console
