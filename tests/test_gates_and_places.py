"""A run is what was measured: other gates are decided on what is stored, and its paths hold from any directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from runs import actsec, inside, outcomes, result

from actsec.running.store import Store

NET = """
import numpy as np
import torch
from torch import nn

def make():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(np.load("means.npy")))
        model[1].bias.zero_()
    return model
"""
LINEAR = """
model = "net.py:make"
data = "test.npz"
samples = 8
defenses = []
attacks = ["fgsm"]
"""


def linear(folder: Path, count: int = 60) -> Path:
    """A linear model of digits beside its data and its plan, which names both by relative paths."""
    from actsec.data import load

    splits = load("digits")
    x, y = splits.train.x, splits.train.y
    means = np.stack([x[y == c].mean(0).reshape(-1) for c in range(10)])
    folder.mkdir(exist_ok=True)
    np.save(folder / "means.npy", (means - means.mean(0)).astype(np.float32))
    np.savez(folder / "test.npz", x=splits.test.x[:count], y=splits.test.y[:count])
    (folder / "net.py").write_text(NET)
    (folder / "plan.toml").write_text(LINEAR)
    return folder / "plan.toml"


def times(run: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (run / "outcomes").iterdir()}


@pytest.mark.parametrize("command", ["audit", "resume"])
def test_another_gate_is_decided_on_the_stored_outcomes(command, tiny, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before, first = times(run), json.loads(result(run))
    arguments = (tiny, "--out", run) if command == "audit" else (run,)
    said = inside(command, *arguments, "--gate", "clean_accuracy>=0.999", "--executor", "serial", "--quiet")
    second = json.loads(result(run))
    assert said.code == 1, said.err
    assert times(run) == before
    assert (first["gates"], second["gates"][0]["outcome"]) == ([], "failed")
    assert second["plan_id"] == first["plan_id"]
    assert Store(run).plan().gates == ("clean_accuracy>=0.999",)
    assert second["variants"] == first["variants"]


def test_relative_paths_hold_when_resumed_from_elsewhere(tmp_path, monkeypatch):
    linear(tmp_path / "project")
    (tmp_path / "elsewhere").mkdir()
    began = actsec("audit", "plan.toml", "--out", "run", "--workers", 1, "--quiet", cwd=tmp_path / "project")
    assert began.returncode in (0, 3), began.stderr
    run = tmp_path / "project" / "run"
    whole, before = outcomes(run), result(run)
    for path in sorted((run / "outcomes").glob("*.json"))[:3]:
        path.unlink()
    resumed = actsec("resume", "../project/run", "--workers", 1, "--quiet", cwd=tmp_path / "elsewhere")
    assert resumed.returncode == began.returncode, resumed.stderr
    assert (outcomes(run), result(run)) == (whole, before)
    # The whole project moved: what the plan names is found from where the command is given.
    (tmp_path / "project").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert inside("resume", "run", "--executor", "serial", "--quiet").code == began.returncode
    assert result(Path("run")) == before
    assert json.loads(Path("run/run.json").read_text())["directory"] == str(Path.cwd())
