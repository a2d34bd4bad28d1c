"""The page in a real browser: it draws, overflows nowhere, asks nothing of the network, its tables sort, and
what shows one variant or attack lights up together."""

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
    shown = [float(text.split()[0]) for text in column(numbers, 2)]
    assert shown == sorted(shown)


NAMES = "th > [role=button]"


def lit(sheet, within):
    """Of what each lit row or part of a drawing is, inside an element."""
    return set(sheet.locator(f"{within} .on").evaluate_all("all => all.map(one => one.dataset.of)"))


def test_pointing_at_a_mark_lights_the_rows_and_parts_of_the_same_variant(tmp_path, chromium):
    sheet, _ = opened(chromium, tmp_path, "normal")
    assert lit(sheet, "main") == set()
    mark = sheet.locator("#defenses svg g:has(> circle)").last
    which = mark.get_attribute("data-of")
    mark.hover()
    assert lit(sheet, "#defenses") == lit(sheet, "#robustness") == {which}
    assert sheet.locator("#defenses tr.on").count() >= 4  # effects, costs, as they stand, paired tests
    others = sheet.locator("#defenses svg g[data-of]:not(.on)").first
    others.evaluate("one => Promise.all(one.getAnimations().map(each => each.finished))")
    assert float(others.evaluate("one => getComputedStyle(one).opacity")) < 0.5
    sheet.mouse.move(2, 2)
    assert lit(sheet, "main") == set()


def test_a_row_of_an_attack_lights_the_attack_everywhere_and_its_own_variant(tmp_path, chromium):
    sheet, _ = opened(chromium, tmp_path, "normal")
    table = sheet.locator("#robustness .scroll[data-of]").first
    row = table.locator("tbody tr[data-of]").first
    variant, attack = table.get_attribute("data-of"), row.get_attribute("data-of")
    row.locator("td").first.hover()
    assert lit(sheet, "#robustness") == {variant, attack}
    assert lit(sheet, "#robustness svg") == {variant}
    assert "on" in table.get_attribute("class")


def test_what_is_pressed_stays_lit_until_pressed_again_or_escaped(tmp_path, chromium):
    sheet, _ = opened(chromium, tmp_path, "normal")
    row = sheet.locator("#defenses tbody tr[data-of]").first
    which, name = row.get_attribute("data-of"), row.locator(NAMES)
    for let_go in (row.locator("td").first.click, lambda: sheet.keyboard.press("Escape")):
        row.locator("td").first.click()
        sheet.mouse.move(2, 2)
        assert lit(sheet, "#defenses") == {which}
        assert name.get_attribute("aria-pressed") == "true"
        let_go()
        sheet.mouse.move(2, 2)
        assert lit(sheet, "main") == set()
        assert name.get_attribute("aria-pressed") == "false"


def test_a_finger_lights_what_it_taps(tmp_path, chromium):
    sheet, _ = opened(chromium, tmp_path, "normal", has_touch=True, viewport={"width": 400, "height": 800})
    row = sheet.locator("#defenses tbody tr[data-of]").first
    row.locator("th").tap()
    assert lit(sheet, "#defenses svg") == {row.get_attribute("data-of")}
    row.locator("th").tap()
    assert lit(sheet, "main") == set()


def test_names_are_one_stop_a_table_with_arrows_between_them_and_light_from_the_keyboard(tmp_path, chromium):
    sheet, _ = opened(chromium, tmp_path, "normal")
    body = sheet.locator("#defenses tbody:has(tr[data-of])").first
    names = body.locator(NAMES)
    assert names.count() > 1
    assert body.locator("[tabindex='0']").count() == 1
    rows = [row.get_attribute("data-of") for row in body.locator("tr[data-of]").all()]
    names.first.focus()
    assert lit(sheet, "#defenses svg") == {rows[0]}
    sheet.keyboard.press("ArrowDown")
    assert lit(sheet, "#defenses svg") == {rows[1]}
    assert body.locator("[tabindex='0']").count() == 1
    sheet.keyboard.press("Enter")
    sheet.keyboard.press("Tab")
    assert lit(sheet, "#defenses svg") == {rows[1]}  # kept while the reader goes on
    names.nth(1).focus()
    sheet.keyboard.press("Space")
    sheet.keyboard.press("ArrowUp")
    assert lit(sheet, "#defenses svg") == {rows[0]}


def test_a_name_can_still_be_marked_and_copied(tmp_path, chromium):
    sheet, _ = opened(chromium, tmp_path, "normal")
    name = sheet.locator(f"#robustness {NAMES}").first
    name.scroll_into_view_if_needed()
    box = name.bounding_box()
    sheet.mouse.move(box["x"] + 1, box["y"] + box["height"] / 2)
    sheet.mouse.down()
    sheet.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2, steps=4)
    sheet.mouse.up()
    assert sheet.evaluate("String(getSelection())").strip()
    assert name.get_attribute("aria-pressed") == "false"


def test_every_part_of_a_drawing_has_its_row(tmp_path, chromium):
    """What a mouse can point at in a drawing, a keyboard reaches in a table."""
    sheet, _ = opened(chromium, tmp_path, "normal")
    parts = set(sheet.locator("svg [data-of]").evaluate_all("all => all.map(one => one.dataset.of)"))
    rows = set(sheet.locator(f"tr[data-of]:has({NAMES})").evaluate_all("all => all.map(one => one.dataset.of)"))
    assert len(parts) > 5
    assert parts <= rows
    assert sheet.locator("svg [tabindex]").count() == 0  # a picture with words hides what lies in it


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
    sheet.wait_for_function("location.hash === '#verdict'")  # a jump takes effect after the key is answered
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
