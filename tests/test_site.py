"""The documentation site builds strictly, has a page for everything there is, and loads nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest
from runs import ENVIRONMENT, ROOT

from actsec.command_line import pages

MISSING = [name for name in ("mkdocs", "material", "mkdocstrings") if importlib.util.find_spec(name) is None]
LOADED = re.compile(r"""<(?:script|img|iframe|source)[^>]*\ssrc=["'](?:https?:)?//|<link[^>]*\shref=["']https?://""")
MADE = ("attacks", "defenses", "activations", "diagnostics")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install 'actsec[docs]')"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as anybody builds it."""
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    environment = {**ENVIRONMENT, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return place


def test_everything_that_can_be_explained_has_its_page_with_all_that_is_said(site):
    made = list(pages.every())
    assert len(made) > 80
    for page in made:
        text = (site / page.kind / f"{page.name.replace('/', '-')}.html").read_text()
        words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", text))
        last = re.findall(r"\w{4,}", page.text)[-3:]
        assert all(word in words for word in last), page.name
        assert all(option in words for option, *_ in page.options), page.name


def test_nothing_is_committed_that_is_made(site):
    assert not [kind for kind in MADE if (ROOT / "docs" / kind).exists()]


def test_no_page_loads_anything_from_elsewhere(site):
    found = {file.name: LOADED.findall(file.read_text()) for file in site.rglob("*.html")}
    assert len(found) > 120
    assert not {name: hits for name, hits in found.items() if hits}
    outside = re.compile(r"(@import|url\()\s*[\"']?(https?:)?//")
    assert not [file for file in site.rglob("*.css") if outside.search(file.read_text())]


def test_the_front_page_is_the_readme_and_its_links_lead_somewhere(site):
    text = (site / "index.html").read_text()
    assert "How it stays honest" in text
    for target in re.findall(r'<a[^>]*\shref="([^"#:]+)(?:#[^"]*)?"', text):
        assert (site / target).exists(), target
