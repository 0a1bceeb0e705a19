"""Make the screenshots in docs/images from study folders: python scripts/screenshots.py STUDIES [--vision vit-demo]

Needs playwright and a Chromium; reads nothing from the network. STUDIES is a folder that `prunesearch run` wrote into.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import threading
from pathlib import Path

from werkzeug.serving import make_server

from prunesearch.report.dashboard.app import make_app
from prunesearch.report.dashboard.library import Library

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)


def main() -> None:
    """Serve the studies, and photograph each view; the data of a point in a picture of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", help="folder of studies")
    parser.add_argument("--vision", default="vit-demo", help="a study of images in it")
    parser.add_argument("--text", help="a study of texts in it")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, make_app(Library([args.studies])).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    shots = [
        ("overview", "/", 1280, "light", None),
        ("front", f"/study/{args.vision}", 1280, "light", None),
        ("front-dark", f"/study/{args.vision}", 1280, "dark", None),
        ("phone", f"/study/{args.vision}", 390, "light", None),
        ("point-data", f"/study/{args.vision}", 1280, "light", "#samples"),
        ("compare", "/compare", 1280, "light", None),
        ("devices", "/devices", 1280, "light", None),
    ]
    if args.text:
        shots.append(("point-text", f"/study/{args.text}", 1280, "light", "#samples"))
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, path, width, scheme, part in shots:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.goto(f"http://127.0.0.1:{server.server_port}{path}")
            page.wait_for_selector("#page h1")
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(1500)  # figures draw after the last answer
            shown = page.locator(part) if part else page
            shown.screenshot(path=IMAGES / f"{name}.png")
            page.close()
            print(IMAGES / f"{name}.png")
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main()
