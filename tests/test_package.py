"""What is installed: a wheel and an sdist with everything and nothing else, a working command, links that are links."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from runs import ENVIRONMENT, ROOT

LINKS = {"attacks", "defenses", "reports"}
IGNORED = shutil.ignore_patterns(
    ".*_cache", ".git", ".hypothesis", ".venv", "__pycache__", "*.egg-info", "build", "dist", "runs", "shared"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the project without what only a checkout or a test run leaves behind."""
    place = tmp_path_factory.mktemp("source") / "actsec"
    shutil.copytree(ROOT, place, symlinks=True, ignore=IGNORED)
    return place


@pytest.fixture(scope="module")
def built(source, tmp_path_factory) -> Path:
    """The folder with the wheel and the sdist."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--sdist", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def on_disk(folder: Path) -> set[str]:
    """Every file below, links to folders left out, as the source was before the build."""
    files = (
        path for path in folder.rglob("*") if path.is_file() and not LINKS & set(path.relative_to(folder).parts[:1])
    )
    names = {str(path.relative_to(folder)) for path in files}
    return {name for name in names if "egg-info" not in name and not name.startswith("build/")}


def test_the_wheel_is_the_package_and_nothing_else(source, built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        for name in names & on_disk(source):
            assert wheel.read(name) == (source / name).read_bytes()
    assert {name for name in names if ".dist-info/" not in name} == {
        name for name in on_disk(source) if name.startswith("actsec/")
    }
    assert {"actsec/py.typed", "actsec/reports/formats/page.css", "actsec/reports/formats/page.html.j2"} <= names


def test_the_sdist_is_the_source_and_nothing_else(source, built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    written = {name for name in names if name in ("PKG-INFO", "setup.cfg") or name.startswith("actsec.egg-info/")}
    assert names - written == on_disk(source) - {".gitignore"}


def test_the_metadata(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        info = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(wheel.read(info).decode())
        points = wheel.read(info.replace("METADATA", "entry_points.txt")).decode()
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra")) == {"test", "bench", "ray", "docs", "browser"}
    assert "actsec = actsec.command_line.cli:main" in points


def test_the_command_works_where_it_is_installed(built, tmp_path):
    wheel = next(built.glob("*.whl"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
        "--target",
        str(tmp_path),
        wheel,
    ]
    subprocess.run(command, check=True, capture_output=True)
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    for words, said in ((["--version"], "actsec, version 0.1.0"), (["list", "attacks"], "pgd ")):
        done = subprocess.run(
            [tmp_path / "bin" / "actsec", *words],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            check=True,
        )
        assert said in done.stdout


def test_the_links_at_the_root_are_tracked_as_links():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-s", *sorted(LINKS)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    modes = {line.split()[3]: line.split()[0] for line in listed.stdout.splitlines()}
    assert modes == dict.fromkeys(LINKS, "120000")
    for name in LINKS:
        assert (ROOT / name).readlink() == Path("actsec") / name
