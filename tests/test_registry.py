"""Names to plug-ins: every built-in one, third-party ones beside them, nothing imported before it is needed."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from runs import ENVIRONMENT

from actsec import registry
from actsec.errors import UnknownName
from actsec.spec import parse, table

KINDS = ("attacks", "defenses", "diagnostics", "lints", "symptoms", "sections", "formats")


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_leads_to_a_documented_plug_in(kind):
    found = registry.names(kind)
    assert found
    assert list(found) == sorted(found)
    for name in found:
        assert registry.find(kind, name) is registry.find(kind, name)
        assert len(registry.page(kind, name)) > 20, name


@pytest.mark.parametrize("kind", ["attacks", "defenses"])
def test_canonical_is_complete_and_stable(kind):
    for name in registry.names(kind):
        needed = [option for option, _, default, _ in table(registry.find(kind, name)) if default == "required"]
        values = {"to": parse("gelu"), "run": "somewhere"}
        asked = parse(name).having(**{option: values.get(option, 0.1) for option in needed})
        written = registry.canonical(kind, asked)
        assert registry.canonical(kind, str(written)) == written
        assert registry.brief(kind, written) == asked


def test_brief_keeps_what_differs():
    full = registry.canonical("attacks", "pgd(steps=7, restarts=2)")
    assert str(registry.brief("attacks", full)) == "pgd(steps=7, restarts=2)"


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownName) as problem:
        registry.build("attacks", "pdg(steps=3)")
    assert "unknown attack 'pdg'" in problem.value.problem
    assert "'pgd'" in problem.value.mend
    with pytest.raises(UnknownName):
        registry.page("attacks", "pdg")


def test_others_come_by_entry_points_and_never_shadow(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text(
        '"""A stranger\'s attack."""\n'
        "import dataclasses\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class FGSM:\n"
        "    steps: int = 3\n"
        "    def ask(self): ...\n"
    )
    info = tmp_path / "stranger_pack-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-pack\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[actsec.attacks]\nfgsm = stranger:FGSM\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    registry.names.cache_clear()
    registry.find.cache_clear()
    try:
        assert "stranger-pack/fgsm" in registry.names("attacks")
        assert "stranger" not in sys.modules
        assert registry.page("attacks", "stranger-pack/fgsm") == "A stranger's attack."
        assert "stranger" not in sys.modules
        assert registry.build("attacks", "stranger-pack/fgsm(steps=5)").steps == 5
        assert registry.find("attacks", "fgsm").__module__ == "actsec.attacks.fgsm"
    finally:
        sys.modules.pop("stranger", None)
        registry.names.cache_clear()
        registry.find.cache_clear()


def test_listing_imports_no_torch():
    code = (
        "import sys; from actsec import registry\n"
        "kinds = ('attacks', 'defenses', 'diagnostics')\n"
        "[registry.page(kind, name) for kind in kinds for name in registry.names(kind)]\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)
