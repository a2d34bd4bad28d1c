"""The page in Chromium, driven by Playwright: for people who use a keyboard, a screen reader, a phone, paper.

Needs playwright, axe-core (from axe-playwright-python; nothing is fetched) and a Chromium of the machine. `.ci/run`
installs what it can of them.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import shutil

import pytest
import sample_result as sample

from actsec.reports import load

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
MISSING = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]
PAGES = ("normal", "masked", "partial", "hostile")
FOCUSABLE = "a[href], summary, button, input, select, textarea, [tabindex]:not([tabindex='-1'])"
VISIBLE = f"""() => {{
    const seen = [...document.querySelectorAll({FOCUSABLE!r})].filter(e => e.checkVisibility());
    seen.forEach((e, at) => e.dataset.at = at);
    return seen.length;
}}"""
FOCUSED = """() => {
    const style = getComputedStyle(document.activeElement), box = document.activeElement.getBoundingClientRect();
    return {at: document.activeElement.dataset.at, outline: parseFloat(style.outlineWidth),
            drawn: style.outlineStyle != 'none', there: box.right > 0 && box.width > 0};
}"""
OUTSIDE = """() => [...document.querySelectorAll('body *')]
    .filter(e => e.checkVisibility() && !e.closest('.scroll, pre, svg, .sr, .skip'))
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
    .map(e => e.outerHTML.slice(0, 80))"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install 'actsec[browser]')"),
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Every sample's page as a file."""
    folder = tmp_path_factory.mktemp("pages")
    for name in PAGES:
        load.write(sample.report(getattr(sample, name)()), folder / f"{name}.html", "html")
    return {name: (folder / f"{name}.html").as_uri() for name in PAGES}


@pytest.fixture
def opened(browser, places):
    """Open a page; what it said on the console and asked of a network is in its ``said``."""
    contexts = []

    def open_(name, **options):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda asked: page.said.append(asked.url) if is_network(asked.url) else None)
        page.goto(places[name])
        return page

    yield open_
    for context in contexts:
        context.close()


def is_network(url):
    return not url.startswith(("file:", "data:"))


def violations(page):
    """What axe calls serious or critical, by rule and place."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return {
        one["id"]: [node["html"][:120] for node in one["nodes"]]
        for one in found
        if one["impact"] in ("serious", "critical")
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["normal", "masked", "hostile"])
def test_axe_finds_nothing_serious(name, scheme, opened):
    page = opened(name, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert violations(page) == {}


def test_axe_would_find_something(opened):
    """The same page with a pale text and a picture without a description."""
    page = opened("normal", bypass_csp=True)
    page.add_style_tag(content="p { color: #ddd !important }")
    page.evaluate("document.querySelector('main').append(document.createElement('img'))")
    assert {"color-contrast", "image-alt"} <= set(violations(page))


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_said_on_the_console_nor_asked_of_a_network(name, opened):
    page = opened(name)
    page.mouse.wheel(0, 20_000)
    page.wait_for_load_state("networkidle")
    assert page.said == []


def test_without_javascript_every_number_is_there(opened):
    """Numbers of the whole document, folded parts too, as a reader without scripts has them."""
    plain, full = (numbers(opened("normal", java_script_enabled=on)) for on in (False, True))
    assert plain == full
    assert len(plain) > 500


def numbers(page):
    return re.findall(r"\d+(?:[.,]\d+)*", page.locator("main").text_content())


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [400, 320])
def test_nothing_is_wider_than_a_phone(name, width, opened):
    page = opened(name, viewport={"width": width, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE) == []
    tables = page.locator("table")
    assert tables.count() > 5
    assert page.locator(".scroll table").count() == tables.count()  # what is wider scrolls inside its own frame


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(opened):
    page = opened("normal")
    wanted = page.evaluate(VISIBLE)
    assert wanted > 30
    reached = []
    for _ in range(wanted):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        assert focused["drawn"], focused
        assert focused["outline"] >= 2, focused
        assert focused["there"], focused
        reached.append(int(focused["at"]))
    assert reached == list(range(wanted))  # in the order of the page, none twice


def test_the_keyboard_opens_what_is_folded_and_skips_to_the_verdict(opened):
    page = opened("normal")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function("location.hash === '#verdict'")  # a jump takes effect after the key is answered
    fold = page.locator("details:not([open]) > summary").first.element_handle()
    fold.focus()
    page.keyboard.press("Enter")
    assert fold.evaluate("one => one.parentElement.open")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_is_white_and_shows_what_is_folded(scheme, opened):
    page = opened("normal", color_scheme=scheme)
    page.emulate_media(media="print", color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()") in INKS
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in (
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    )
    assert not page.locator("nav").is_visible()
    folded = page.locator("details:not([open])")
    assert folded.count() > 3
    for at in range(folded.count()):
        inner = folded.nth(at).locator(":scope > :not(summary)").first
        assert inner.evaluate("one => one.getBoundingClientRect().height") > 10
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200


INKS = ("#000", "#000000", "#111", "#1b1f24")


@pytest.mark.parametrize("name", PAGES)
def test_a_screen_reader_finds_its_way(name, opened):
    """One h1, no level skipped, a main, every table named, every region and picture with words."""
    page = opened(name)
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(one => +one.tagName[1])")
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.locator("main").count() == 1
    assert page.evaluate("[...document.querySelectorAll('table')].every(one => one.caption?.textContent.trim())")
    assert page.evaluate("[...document.querySelectorAll('[role=region]')].every(one => one.ariaLabel)")
    pictures = "[...document.querySelectorAll('img, svg[role=img]')]"
    assert page.evaluate(f"{pictures}.every(one => one.alt || one.ariaLabel || one.querySelector('title, desc'))")
