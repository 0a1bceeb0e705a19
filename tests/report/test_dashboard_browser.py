"""The dashboard in a real browser: load, click, download, live update; no error, and nothing from elsewhere."""

from __future__ import annotations

import json
import logging
import threading
from itertools import pairwise

import pytest

from prunesearch.core.plans.schedule import Schedule
from tests.support.paths import CHROMIUM, DEV, needs_browser
from tests.support.studies import add_trials, load_study, new_study, plain_trials, samples, write_folder

sync_api = pytest.importorskip("playwright.sync_api", reason=DEV)
pytestmark = needs_browser
EVIL = "<script>window.hit=1</script><img src=x onerror='window.hit=1'>"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def root(tmp_path, make_front):
    """Two finished studies, one with markup in every name, and one that runs."""
    write_folder(tmp_path / "done", make_front(study="done"), plain_trials(12), samples())
    data = make_front().to_dict()
    data["model"]["id"] = data["device"]["name"] = data["task"]["metric"] = EVIL
    data["points"][1]["id"] = data["verdict"]["point"] = data["verdict"]["text"] = EVIL
    write_folder(tmp_path / "evil", make_front(**{**data, "study": EVIL}), rows=samples(EVIL, EVIL))
    write_folder(tmp_path / "going", config={"trials": 40})
    add_trials(new_study(tmp_path / "going" / "study.journal"), plain_trials(3))
    return tmp_path


@pytest.fixture
def page(browser, root):
    """A page on a server over the studies; at its end: no error in the console, no request but to the server."""
    from werkzeug.serving import make_server

    from prunesearch.report.dashboard.app import make_app
    from prunesearch.report.dashboard.library import Library

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, make_app(Library([str(root)])).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    found = context.new_page()
    errors, requests = [], []
    found.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.on("request", lambda request: requests.append(request.url))
    yield found
    context.close()
    server.shutdown()
    assert not errors
    assert not [url for url in requests if not url.startswith((address, "data:", "blob:"))]


def drawn(page):
    """Wait until the front is drawn."""
    page.wait_for_selector('[id*=\'"name":"front"\'] path.point')


def test_from_the_overview_to_a_point_and_its_export(page, make_front):
    page.goto("/")
    page.click("text=done")
    drawn(page)
    assert page.inner_text("#panel h2") == "Schedule p2"
    page.click("#points >> text=p3")
    page.wait_for_selector("#panel h2:has-text('p3')")
    assert "cls_attention_value" in page.inner_text("#panel").replace("\u200b", "")
    with page.expect_download() as download:
        page.click("#panel a.button >> text=json")
    assert download.value.suggested_filename == "done-p3.json"
    exported = json.loads(download.value.path().read_text())
    point = make_front().point("p3")
    assert Schedule.from_dict({k: exported[k] for k in ("format", "version", "stages")}) == point.to_schedule()
    page.go_back()
    page.wait_for_selector("#panel h2:has-text('p2')")


def test_a_point_is_chosen_before_what_is_below_is_there(page):
    held = []

    def asks_below(request):
        return '"below.children"' in (request.post_data or "")

    page.route(
        "**/_dash-update-component**",
        lambda route: held.append(route) if asks_below(route.request) else route.continue_(),
    )
    with page.expect_request(asks_below):
        page.goto("/study/done?point=p2")
    page.click("#points >> text=p3")
    page.wait_for_selector("#panel h2:has-text('p3')")
    assert not page.locator("#trust").count()
    for route in held:
        route.continue_()
    page.wait_for_selector("#trust h2")


def test_a_click_in_the_plot(page):
    page.goto("/study/done?point=p2")
    drawn(page)
    page.wait_for_selector("#below .js-plotly-plot")
    dot = page.locator('[id*=\'"name":"front"\'] .scatterlayer .trace:last-child path.point').nth(3)
    told = page.locator(".hoverlayer .hovertext")
    for _ in range(60):  # what is drawn above it later moves it
        box = dot.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x - 2, y)
        page.mouse.move(x, y)
        page.wait_for_timeout(500)
        if told.count():
            break
    page.mouse.down()
    page.mouse.up()
    page.wait_for_selector("#panel h2:has-text('p4')")
    assert page.url.endswith("/study/done?point=p4")


def test_by_keyboard_alone(page):
    page.goto("/study/done?point=p2")
    drawn(page)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "p4":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel h2:has-text('p4')")


def test_live_while_a_search_runs(page, root, make_front):
    page.goto("/study/going")
    drawn(page)
    assert "running, or was stopped" in page.inner_text("#study-head")
    before = page.inner_text("#front-remark")
    study = load_study(root / "going" / "study.journal")
    best = plain_trials(1, 7)[0]
    add_trials(study, [type(best)(0, "COMPLETE", (0.0, 1.0), {**best.attrs, "quality": 0.99, "latency": 1.0})])
    page.wait_for_selector("#points >> text=t3")
    assert before == page.inner_text("#front-remark")
    make_front(study="going").save(root / "going" / "front.json")
    page.wait_for_selector("#study-head >> text=fastest schedule within 1 %")
    page.wait_for_selector("#panel h2:has-text('p2')")
    page.goto("/")
    page.wait_for_selector(".cards")
    write_folder(root / "new", make_front(study="new"))
    page.wait_for_selector(".cards >> text=new")


def test_names_are_inert(page):
    page.goto("/")
    page.click("text=evil")
    drawn(page)
    page.wait_for_timeout(300)
    assert page.evaluate("window.hit") is None
    assert page.locator("img[onerror]").count() == 0
    assert EVIL in page.inner_text("#panel h2")
    dot = page.locator('[id*=\'"name":"front"\'] .scatterlayer .trace:last-child path.point').nth(1)
    box = dot.bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".hoverlayer .hovertext")
    assert "<script>window.hit=1" in page.locator(".hoverlayer .hovertext").first.text_content()
    assert page.evaluate("window.hit") is None


def choose(page, box, option):
    """Choose an option of one of Dash's boxes."""
    page.click(f"#{box}")
    page.click(f".dash-dropdown-content >> text={option}")
    page.keyboard.press("Escape")


def test_every_view_of_a_study_is_drawn(page):
    page.goto("/study/done?point=p2")
    drawn(page)
    for name, marks in (("hypervolume", "path.js-line"), ("stages", "path.js-line"), ("methods", "g.point path")):
        page.wait_for_selector(f'[id*=\'"name":"{name}"\'] {marks}', state="attached")
    page.wait_for_selector('#trust [id*=\'"name":"predicted"\'] path.point')
    page.wait_for_selector('#panel [id*=\'"name":"tokens p2"\'] g.point path')
    # a picture with what was merged and dropped over it, and the text whose answer changed
    over = page.locator("#samples img.over").first
    assert over.evaluate("(image) => image.complete && image.naturalWidth > 0")
    assert "unpruned says frog, pruned says toad" in page.inner_text("#samples")
    assert page.locator("#samples .token.dropped").count() == 1
    choose(page, "axis", "multiply-adds")
    page.wait_for_selector('[id*=\'"name":"front"\'] .xtitle:has-text("GMACs")')


def test_two_points_and_the_curves_of_a_study(page, root):
    page.goto("/compare")
    page.wait_for_selector("#compared h2 >> text=done p1")
    choose(page, "compare-b", "done · p3")
    page.wait_for_selector("#compared h2 >> text=done p3")
    assert "−37.5%" in page.inner_text("#compared")  # 16 ms against 10
    page.goto("/devices")
    page.wait_for_selector("#page h1 >> text=Devices")


@pytest.mark.parametrize("address", ["/", "/study/done", "/compare", "/devices"])
def test_what_a_screen_reader_needs(page, address):
    page.goto(address)
    page.wait_for_selector("#page h1")
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("h1").count() == 1
    assert page.locator("main, nav").count() == 2
    levels = page.eval_on_selector_all("h1, h2, h3", "(all) => all.map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(later <= before + 1 for before, later in pairwise(levels))
    unnamed = "(all) => all.filter((x) => !(x.getAttribute('aria-label') || x.textContent.trim())).length"
    assert page.eval_on_selector_all("a, button:not(.dash-dropdown-clear)", unnamed) == 0
    assert page.eval_on_selector_all("img", "(all) => all.filter((x) => !x.hasAttribute('alt')).length") == 0
    plots = page.locator(".plot")
    assert all(plots.nth(i).get_attribute("role") == "img" for i in range(plots.count()))
    assert page.eval_on_selector_all(".plot", "(all) => all.filter((x) => !x.getAttribute('aria-label')).length") == 0
    assert page.eval_on_selector_all("th", "(all) => all.filter((x) => !x.hasAttribute('scope')).length") == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"


@pytest.mark.parametrize("address", ["/", "/study/done", "/compare", "/devices"])
def test_a_phone_in_the_dark(page, address):
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(address)
    page.wait_for_selector("#page h1")
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shades = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color].map("
        "(c) => c.match(/[0-9]+/g).map(Number).reduce((a, b) => a + b))"
    )
    assert shades[0] < 100
    assert shades[1] > 600
