"""The page in a real browser: it draws, overflows nowhere, and asks nothing of the network."""

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
    assert "<script" not in dom
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
