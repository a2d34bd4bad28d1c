"""Tab: what is offered, by click's own protocol and in the shells themselves, and without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from runs import ENVIRONMENT, ROOT

from actsec import registry
from actsec.activations import names


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """PATH with the command as it is installed, which refuses to import torch."""
    place = tmp_path_factory.mktemp("bin")
    code = "import sys; sys.modules['torch'] = None; from actsec.command_line.cli import main; main()"
    (place / "actsec").write_text(f"#!{sys.executable}\n{code}\n")
    (place / "actsec").chmod(0o755)
    return f"{place}{os.pathsep}{ENVIRONMENT['PATH']}"


def offered(path, *words, shell="zsh"):
    """What is offered for the last of the words, by click's protocol for zsh: type, value and help in turn."""
    environment = {**ENVIRONMENT, "PATH": path, "_ACTSEC_COMPLETE": f"{shell}_complete"}
    environment |= {"COMP_WORDS": " ".join(["actsec", *words]), "COMP_CWORD": str(len(words))}
    done = subprocess.run(["actsec"], env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    return list(zip(lines[::3], lines[1::3], lines[2::3], strict=True))


def values(found):
    return [value for _, value, _ in found]


def test_commands_and_options(path):
    assert values(offered(path, "a")) == ["attack", "audit"]
    assert "--no-color" in values(offered(path, "audit", "--no"))
    assert values(offered(path, "audit", "--execut")) == ["--executor"]
    assert values(offered(path, "audit", "--executor", "r")) == ["ray"]
    assert values(offered(path, "audit", "--budget", "t")) == ["thorough"]


def test_names_of_plug_ins_activations_and_rules(path):
    assert values(offered(path, "attack", "")) == [*registry.names("attacks")]
    assert values(offered(path, "audit", "--defenses", "sw")) == ["swap"]
    assert values(offered(path, "audit", "--activations", "")) == sorted(names())
    assert values(offered(path, "explain", "ACT-M0")) == [f"ACT-M0{i}" for i in range(1, 10)]
    (kind, value, help_text), *others = offered(path, "explain", "pg")
    assert (kind, value, others) == ("plain", "pgd", [])
    assert help_text.startswith("PGD: ")


def test_the_next_defense_of_a_chain(path):
    from actsec.command_line.completing import defenses

    assert [item.value for item in defenses(None, None, "swap(to=silu) | temp")] == ["swap(to=silu) | temperature"]
    assert [item.value for item in defenses(None, None, "temp")] == ["temperature"]


def test_files_where_files_are_meant(path):
    for option in ("--model", "--weights", "--data", "--train", "--mask"):
        assert [kind for kind, _, _ in offered(path, "audit", option, "te")] == ["file"]
    assert [kind for kind, _, _ in offered(path, "report", "ru")] == ["file"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed(shell, path):
    environment = {**ENVIRONMENT, "PATH": path, "_ACTSEC_COMPLETE": f"{shell}_source"}
    done = subprocess.run(["actsec"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"_ACTSEC_COMPLETE={shell}_complete" in done.stdout


def typed(shell, path, tmp_path):
    """What the shell itself offers after ``actsec explain gel`` and Tab, its completions loaded as documented."""
    scripts = {
        "bash": 'eval "$(_ACTSEC_COMPLETE=bash_source actsec)"\n'
        "COMP_WORDS=(actsec explain gel); COMP_CWORD=2; _actsec_completion actsec gel explain\n"
        'printf "%s\\n" "${COMPREPLY[@]}"',
        "zsh": 'autoload -U compinit; compinit -u -d "$PWD/dump"\n'
        'eval "$(_ACTSEC_COMPLETE=zsh_source actsec)"\n'
        "compadd() { : }; _describe() { print -l ${(P)2} ${(P)3} }\n"
        "words=(actsec explain gel); CURRENT=3; _actsec_completion",
        "fish": "_ACTSEC_COMPLETE=fish_source actsec | source\ncomplete -C 'actsec explain gel'",
    }
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    environment = {**ENVIRONMENT, "PATH": path, "HOME": str(tmp_path)}
    command = [shell, *options, "-c", scripts[shell]]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_in_the_shell_itself(shell, path, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    assert "gelu" in typed(shell, path, tmp_path)


def test_the_documentation_names_every_shell():
    page = (ROOT / "docs" / "command_line.md").read_text()
    assert all(f"_ACTSEC_COMPLETE={shell}_source actsec" in page for shell in ("bash", "zsh", "fish"))
