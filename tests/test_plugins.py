"""A package of somebody else's plug-ins, installed and used by name: nothing of actsec is changed for it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from runs import ENVIRONMENT, ROOT

SOURCE = ROOT / "tests" / "plugins" / "actsec_example"
PLAN = """
model = "reference:mlp(width=[8])"
activations = ["relu"]
corruptions = []
samples = 8
"""
ATTACKS = ("--attacks", "actsec-example/corners(steps=5)", "--attacks", "noise(draws=2)")
GIVEN = (*ATTACKS, "--defenses", "actsec-example/dampen")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """The environment of a machine on which the package is installed, with pip and its own pyproject.toml."""
    source = tmp_path_factory.mktemp("source") / "package"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    place = tmp_path_factory.mktemp("site")
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--target", str(place)]
    command = [sys.executable, "-m", "pip", "install", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(place), str(ROOT)])}


@pytest.fixture(scope="module")
def run(installed, tmp_path_factory) -> Path:
    """An audit by their attack, of a model with and without their defense."""
    place = tmp_path_factory.mktemp("run")
    (place / "plan.toml").write_text(PLAN)
    done = said(installed, "audit", "plan.toml", *GIVEN, "--executor", "serial", "--out", "run", cwd=place)
    assert done.returncode in (0, 3), done.stderr
    return place / "run"


def said(environment, *words, cwd=None):
    command = [sys.executable, "-m", "actsec", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False, timeout=900)


def test_they_are_listed_and_explained_with_whose_they_are(installed):
    listed = said(installed, "list", "attacks").stdout
    assert re.search(r"^actsec-example/corners +Corners: random search", listed, re.MULTILINE)
    attack, defense, rule = (
        said(installed, "explain", name).stdout
        for name in ("actsec-example/corners", "actsec-example/dampen", "EXAMPLE-M01")
    )
    assert "steps (a whole number; default 100): forwards of each example" in attack
    assert attack.rstrip().endswith("From actsec-example 0.1.0 (actsec_example.corners).")
    assert "Claims: Shrinks every change alike" in defense
    assert "most: 0.1" in rule
    assert "From " not in said(installed, "explain", "pgd").stdout


def test_without_the_package_they_are_unknown_and_the_short_name_leads_to_the_whole(installed):
    missing = said(ENVIRONMENT, "explain", "actsec-example/corners")
    assert missing.returncode == 2
    assert "unknown" in missing.stderr
    short = said(installed, "attack", "corners", "--data", "digits")
    assert short.returncode == 2
    assert "actsec-example/corners" in short.stderr


def test_their_attack_defense_and_rule_are_in_the_result(run):
    report = json.loads((run / "report.json").read_text())
    result = report["result"]
    assert [variant["id"] for variant in result["variants"]] == ["relu", "relu | actsec-example/dampen"]
    for variant in result["variants"]:
        threat = next(t for t in variant["threats"] if t["threat"] == "linf:0.1")
        attacks = {attack["attack"]: attack for attack in threat["attacks"]}
        corners = next(value for name, value in attacks.items() if name.startswith("actsec-example/corners"))
        assert 0 <= corners["still_correct"]["k"] <= corners["still_correct"]["n"] == 8
        checks = {check["rule"]: check for check in threat["checks"]}
        assert checks["EXAMPLE-M01"]["status"] in ("ok", "warn")
        assert "Noise alone breaks" in checks["EXAMPLE-M01"]["claim"]
    assert report["environment"]["plug-ins"] == {"actsec-example": "0.1.0"}


def test_the_report_shows_whose_code_it_is(run):
    page = re.sub(r"<[^>]+>", "", (run / "report.html").read_text())
    assert "actsec-example/corners(steps=5)" in page
    assert "relu | actsec-example/dampen" in page
    assert "actsec-example = 0.1.0" in page
    assert "EXAMPLE-M01" in page


def test_another_version_of_their_code_is_other_work(run, installed):
    """Outcomes of an attack are not those of its next version; a package that the plan does not name is none of it."""
    code = (
        "from actsec.planning import reading; from actsec.running import preparing; import importlib.metadata as m\n"
        f"given = reading.read({str(run / 'plan.toml')!r})\n"
        "def ids(): return {job.id for job in preparing.prepare(given).jobs}\n"
        "first = ids()\n"
        "before = m.Distribution.version\n"
        "m.Distribution.version = property(lambda d: '0.2.0' if d.name == 'actsec-example' else before.fget(d))\n"
        "assert first.isdisjoint(ids())\n"
        "given = given.having(attacks=(), defenses=())\n"
        "second = ids(); m.Distribution.version = before; assert second == ids()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=installed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["corners.py", "dampen.py", "noise_floor.py"])
def test_the_documentation_shows_this_very_code(name):
    page = (ROOT / "docs" / "plugins.md").read_text()
    assert f'```python title="actsec_example/{name}"\n{(SOURCE / "actsec_example" / name).read_text()}```' in page


def test_the_documentation_shows_this_very_project():
    page = (ROOT / "docs" / "plugins.md").read_text()
    assert f'```toml title="pyproject.toml"\n{(SOURCE / "pyproject.toml").read_text()}```' in page
