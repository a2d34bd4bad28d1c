"""A tiny audit, run once for every test that reads one, and the ways to run the command line."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TINY = """
model = "reference:mlp(width=[8])"
activations = ["relu"]
defenses = ["temperature"]
samples = 8
shard = 4

[[attacks]]
attack = "fgsm"
role = "single_step"
[[attacks]]
attack = "pgd(steps=2)"
role = "iterative"
[[attacks]]
attack = "pgd(steps=2, loss=margin)"
role = "margin"
[[attacks]]
attack = "pgd(steps=3)"
role = "doubled"
[[attacks]]
attack = "pgd(steps=3)"
threat = "linf:1"
role = "unbounded"
[[attacks]]
attack = "noise(draws=2)"
role = "noise"
[[attacks]]
attack = "square(queries=4)"
role = "gradient_free"
"""
ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def actsec(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "actsec", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, timeout=300, check=False)


def result(folder: Path) -> str:
    """The ``result`` half of report.json as text: what two equal runs share byte for byte."""
    return json.dumps(json.loads((folder / "report.json").read_text())["result"], sort_keys=True)


def outcomes(folder: Path) -> dict[str, str]:
    """A digest of every outcome file by name."""
    files = (folder / "outcomes").iterdir()
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@dataclass(frozen=True)
class Said:
    """What a command did: its exit code, and what it printed where."""

    code: int
    out: str
    err: str


def inside(*arguments: object) -> Said:
    """The command line in this process: quick, the same code from the first argument to the exit code."""
    from actsec.command_line.cli import main

    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["actsec", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        return Said(int(end.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
    raise AssertionError("main always exits")
