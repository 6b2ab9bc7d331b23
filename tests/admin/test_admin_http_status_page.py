"""The status page: which files there are, what they may do, and that its logic works; a browser is driven by hand
(``python -m browser.status_page``)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from http import HTTPStatus
from pathlib import Path
from typing import Final

import pytest
from real.programs import Need, require

import cxfr_proxy
from cxfr_proxy.admin.http.status_page import UI, StatusPage

FOLDER: Final = Path(cxfr_proxy.__file__).parent / "admin" / "http" / "page"
FILES: Final = sorted(path.name for path in FOLDER.iterdir())
SCRIPTS: Final = [name for name in FILES if name.endswith(".js")]
LOGIC: Final = Path(__file__).resolve().parents[1] / "js" / "page" / "page.test.mjs"


def source(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_served_as_what_it_is_and_may_do_little(name: str) -> None:
    answer = StatusPage().answer(UI + name)
    assert answer is not None
    assert (answer.status, answer.body) == (HTTPStatus.OK, (FOLDER / name).read_bytes())
    kinds = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
    assert answer.content_type.partition(";")[0] == kinds[name.rpartition(".")[2]]
    headers = dict(answer.headers)
    policy = dict(each.partition(" ")[::2] for each in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"


def test_the_page_is_found() -> None:
    page = StatusPage()
    for path in (UI, f"{UI}index.html"):
        answer = page.answer(path)
        assert answer is not None
        assert answer.body == source("index.html").encode()
    there = page.answer("/ui")
    assert there is not None
    assert (there.status, dict(there.headers)) == (HTTPStatus.TEMPORARY_REDIRECT, {"Location": "ui/"})


@pytest.mark.parametrize(
    "path", ["/ui/..", "/ui/../page/index.html", "/ui/nothing.js", "/ui/page/index.html", "/ui//", ""]
)
def test_there_is_nothing_else(path: str) -> None:
    assert StatusPage().answer(path) is None


def test_nothing_comes_from_elsewhere_and_no_script_stands_in_the_page() -> None:
    html = source("index.html")
    assert sorted(re.findall(r'(?:href|src)="([^"#]+)"', html)) == ["icon.svg", "icon.svg", "main.js", "style.css"]
    assert not re.search(r"<script(?! type=\"module\" src=)|<style|\son\w+=|\sstyle=", html)
    assert not re.search(r"url\(|@import", source("style.css"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_text_becomes_markup_or_a_script(name: str) -> None:
    """What would do that is not even named; and what a module imports is among the files."""
    text = source(name)
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|\beval\b|new Function|localStorage"
    )
    assert not re.search(forbidden, text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg|html\.spec\.whatwg\.org)", text)
    assert set(re.findall(r'^import .* from "\./(.*)";$', text, re.MULTILINE)) <= set(FILES)
    assert len(text.splitlines()) < 400


def test_scripts_know_the_page() -> None:
    asked = set(re.findall(r'\bby\("([\w-]+)"\)', source("app.js")))
    assert asked
    assert asked <= set(re.findall(r' id="([\w-]+)"', source("index.html")))


def test_the_logic(tmp_path: Path) -> None:
    """In Node, with a document of its own: some dozen tests, of which a failure is printed whole."""
    require(Need.NODE)
    folder = tmp_path / "page"
    shutil.copytree(FOLDER, folder)
    (folder / "package.json").write_text('{"type": "module"}')  # a browser knows that from the page
    done = subprocess.run(
        ["node", str(LOGIC)],
        env={**os.environ, "CXFR_STATUS_PAGE": f"{folder.as_uri()}/"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"^# pass (\d+)$", done.stdout, re.MULTILINE)[0]) > 20


# --- colours: https://www.w3.org/TR/WCAG22/#contrast-minimum and #non-text-contrast


def colours(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", source("style.css"), re.DOTALL)
    found = dict(re.findall(r"--([\w-]+): (#\w+);", light))
    return found if scheme == "light" else found | dict(re.findall(r"--([\w-]+): (#\w+);", dark))


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) > 4 else "".join(each * 2 for each in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_counted_as_it_should() -> None:
    assert contrast("#fff", "#000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(scheme: str) -> None:
    found = colours(scheme)
    pairs = [(text, page) for text in ("text", "under", "link") for page in ("page", "panel", "sunk")]
    pairs += [(tone, page) for tone in ("good", "busy", "warn", "bad", "idle") for page in ("page", "panel")]
    pairs += [("text", "warn-page"), ("on-link", "link"), ("on-bad", "bad-fill"), ("bad", "sunk")]
    low = {pair: round(contrast(found[pair[0]], found[pair[1]]), 2) for pair in pairs}
    assert not {pair: ratio for pair, ratio in low.items() if ratio < 4.5}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_bars_can_be_seen(scheme: str) -> None:
    found = colours(scheme)
    low = {
        name: round(contrast(found[name], found["panel"]), 2)
        for name in ("moved", "refused", "silent", "failed", "link")
    }
    assert not {name: ratio for name, ratio in low.items() if ratio < 3}
