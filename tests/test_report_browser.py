"""The page in a real browser: it draws, overflows nowhere, asks nothing of the network, and its tables sort."""

from __future__ import annotations

import shutil
import struct
import subprocess

import pytest
import sample_result as sample

from actsec.reports import load
from actsec.reports.order import SECTIONS

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
]


def browse(tmp_path, name, *options):
    page = tmp_path / f"{name}.html"
    load.write(sample.report(getattr(sample, name)()), page, "html")
    command = [BROWSER, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


@pytest.mark.parametrize("name", ["normal", "hostile"])
def test_the_browser_builds_the_page_and_runs_nothing(tmp_path, name):
    dom = browse(tmp_path, name, "--dump-dom").stdout.replace("<wbr>", "")  # a place to break a line
    assert dom.count("<section") == len(SECTIONS)
    assert dom.count("<script") == 1
    assert dom.count("aria-sort") > 20  # the page's own script ran
    assert "onerror=" not in dom.replace("onerror=alert(1)&gt;", "")


@pytest.mark.parametrize("options", [(), ("--blink-settings=preferredColorScheme=0",)], ids=["light", "dark"])
def test_light_and_dark_are_different_pictures(tmp_path, options):
    target = tmp_path / "page.png"
    browse(tmp_path, "normal", f"--screenshot={target}", "--window-size=1280,900", *options)
    data = target.read_bytes()
    assert struct.unpack(">II", data[16:24]) == (1280, 900)
    from PIL import Image

    corner = Image.open(target).convert("L").getpixel((3, 3))
    assert (corner < 60) == bool(options)


def test_it_prints(tmp_path):
    target = tmp_path / "page.pdf"
    browse(tmp_path, "normal", f"--print-to-pdf={target}", "--no-pdf-header-footer")
    assert target.read_bytes().startswith(b"%PDF")
    assert target.stat().st_size > 20_000


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(chromium, tmp_path, name, **options):
    page = tmp_path / f"{name}.html"
    load.write(sample.report(getattr(sample, name)()), page, "html")
    context = chromium.new_context(**options)
    sheet = context.new_page()
    asked: list[str] = []
    sheet.on("request", lambda request: asked.append(request.url))
    sheet.goto(page.as_uri())
    return sheet, [url for url in asked if not url.startswith(("file:", "data:"))]


def column(table, number):
    return table.locator(f"tbody tr > :nth-child({number})").all_inner_texts()


def test_a_table_sorts_by_mouse_and_by_keyboard_and_comes_back(tmp_path, chromium):
    sheet, asked = opened(chromium, tmp_path, "normal")
    assert asked == []
    table = sheet.locator("#checklist table")
    before = column(table, 1)
    assert before == sorted(before, key=int)
    heading = table.locator("thead th", has_text="status")
    heading.locator("button").click()
    assert column(table, 3) == sorted(column(table, 3))
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").focus()
    sheet.keyboard.press("Enter")
    assert column(table, 3) == sorted(column(table, 3), reverse=True)
    sheet.keyboard.press("Space")
    assert column(table, 1) == before
    numbers = sheet.locator("#verdict table")
    numbers.locator("thead th button", has_text="untouched").click()
    shown = [float(text.split(" ")[0]) for text in column(numbers, 2)]
    assert shown == sorted(shown)


def test_without_javascript_nothing_is_missing(tmp_path, chromium):
    with_it, _ = opened(chromium, tmp_path, "normal")
    without, _ = opened(chromium, tmp_path, "normal", java_script_enabled=False)
    assert without.locator("thead button").count() == 0
    assert without.locator("main").inner_text() == with_it.locator("main").inner_text()


@pytest.mark.parametrize("name", ["normal", "hostile"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(tmp_path, chromium, name, width):
    sheet, _ = opened(chromium, tmp_path, name, viewport={"width": width, "height": 800})
    assert sheet.evaluate("document.documentElement.scrollWidth") <= width


def test_the_five_answers_fit_a_laptop_screen(tmp_path, chromium):
    sheet, _ = opened(chromium, tmp_path, "normal", viewport={"width": 1280, "height": 800})
    box = sheet.locator(".claims").bounding_box()
    assert box["y"] + box["height"] <= 800
    assert sheet.locator(".claims dt").count() == 5


def test_every_part_can_be_reached_by_keyboard(tmp_path, chromium):
    sheet, _ = opened(chromium, tmp_path, "normal")
    sheet.keyboard.press("Tab")
    assert sheet.evaluate("document.activeElement.className") == "skip"
    sheet.keyboard.press("Enter")
    assert sheet.url.endswith("#verdict")
    reached = set()
    for _ in range(60):
        sheet.keyboard.press("Tab")
        reached.add(sheet.evaluate("document.activeElement.tagName"))
    assert {"BUTTON", "SUMMARY", "DIV"} <= reached  # headings that sort, folds, tables that scroll


def test_a_script_of_others_would_not_run(tmp_path, chromium):
    sheet, _ = opened(chromium, tmp_path, "normal")
    told: list[str] = []
    sheet.on("console", lambda message: told.append(message.text))
    sheet.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.owned = 1'; document.body.append(s)"
    )
    assert sheet.evaluate("window.owned") is None
