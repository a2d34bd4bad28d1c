"""What stands on which stream: results on stdout, all else on stderr, escape codes on a terminal alone."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from runs import ENVIRONMENT, inside
from safetensors.torch import save_file

from actsec.data import load

ESCAPE = b"\x1b"
QUIET = ("--quiet",)
HEAVY = ("art", "foolbox", "matplotlib", "pandas", "PIL", "scipy", "sklearn", "torchmetrics", "torchvision")
SLEEPY = """
import multiprocessing, pathlib, time
from torch import nn

class Sleepy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        # In the worker alone: the process that was started looks at the model for the partial report.
        while multiprocessing.parent_process() is not None and pathlib.Path({place!r}).exists():
            time.sleep(0.05)
        return self.linear(x.flatten(1)).relu()
"""

SHORT = """
model = "nets.py:Sleepy"
weights = "w.safetensors"
data = "digits"
samples = 4
defenses = []
corruptions = []
[[attacks]]
attack = "fgsm"
"""


@pytest.fixture
def nearly(finished, tmp_path):
    """A run in which the last jobs are left to do, so that there is progress to tell."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for file in sorted((run / "outcomes").glob("*.json"))[:2]:
        file.unlink()
    return run


def on_terminal(*words, cwd, **environment):
    """stdout and stderr of the command on a terminal of 100 columns each; and its exit code."""
    ends = {name: pty.openpty() for name in ("stdout", "stderr")}
    environment = {**ENVIRONMENT, "COLUMNS": "100", "TERM": "xterm-256color", **environment}
    environment = {key: value for key, value in environment.items() if value is not None}
    command = [sys.executable, "-m", "actsec", *map(str, words)]
    streams = {name: end for name, (_, end) in ends.items()}
    process = subprocess.Popen(command, cwd=cwd, env=environment, **streams)
    for _, end in ends.values():
        os.close(end)
    said = dict.fromkeys(ends, b"")
    open_ = {end: name for name, (end, _) in ends.items()}
    while open_:
        for end in select.select(list(open_), [], [])[0]:
            try:
                part = os.read(end, 65536)
            except OSError:  # Linux says so of a terminal that nobody holds any more
                part = b""
            said[open_[end]] += part
            if not part:
                os.close(end)
                del open_[end]
    return process.wait(), said["stdout"], said["stderr"]


def test_piped_results_are_on_stdout_and_all_else_on_stderr(nearly):
    said = inside("resume", nearly, "--executor", "serial")
    assert "in the worst case at linf:0.1" in " ".join(said.out.split())
    assert "actsec audit reference:mlp" in said.err
    assert "jobs, results in" in said.err
    assert "worst case" not in said.err
    assert "results in" not in said.out
    for text in (said.out, said.err):
        assert not set("\x1b\r\b") & set(text)
    assert "  pgd(steps=2, loss=margin)  linf:0.1" in said.err  # whole lines: nothing is cut to a width


def test_quiet_says_nothing_and_the_result_is_the_same(nearly, tmp_path):
    again = tmp_path / "two"
    shutil.copytree(nearly, again)
    loud, quiet = (inside("resume", run, "--executor", "serial", *more) for run, more in ((nearly, ()), (again, QUIET)))
    assert quiet.err == ""
    assert quiet.out.replace(str(again), str(nearly)) == loud.out
    assert quiet.code == loud.code


@pytest.mark.parametrize("unwanted", [None, "1"], ids=["colour", "NO_COLOR"])
def test_on_a_terminal_there_is_colour_unless_it_is_unwanted(unwanted, finished, tiny, tmp_path):
    code, out, err = on_terminal("report", finished, "--format", "terminal", cwd=tmp_path, NO_COLOR=unwanted)
    assert code == 0
    assert b"worst case" in out
    assert (ESCAPE in out) is (unwanted is None)
    code, out, err = on_terminal("audit", tiny, "--print-plan", cwd=tmp_path, NO_COLOR=unwanted)
    assert code == 0
    assert b"[[attacks]]" in out
    assert ESCAPE not in out  # a plan is a file's text
    assert (ESCAPE in err) is (unwanted is None)


def test_no_color_may_stand_before_the_command_or_behind_it(finished, tmp_path):
    for words in (("--no-color", "report", finished), ("report", finished, "--no-color")):
        _, out, err = on_terminal(*words, "--format", "terminal", cwd=tmp_path, NO_COLOR=None)
        assert b"worst case" in out
        assert ESCAPE not in out + err


def test_json_is_the_report_and_nothing_else(nearly):
    said = inside("resume", nearly, "--executor", "serial", "--json")
    assert json.loads(said.out) == json.loads((nearly / "report.json").read_text())
    assert "jobs, results in" in said.err


def test_one_attack_as_json():
    given = ("attack", "fgsm", "--eps", "0.2", "--model", "reference:mlp(width=[8])", "--samples", "20")
    told = json.loads(inside(*given, "--json").out)
    assert told["sentence"] == inside(*given).out.strip()
    assert (told["attack"], told["threat"]) == ("fgsm", "linf:0.2")
    assert told["still_correct"]["n"] == 20
    assert f"{told['still_correct']['k']} still correct after" in told["sentence"]


def test_an_error_is_on_stderr_alone():
    said = inside("attack", "pdg")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")


def test_the_preflight_checks_wait_for_no_library_that_they_do_not_need(tmp_path):
    """What is imported before the plan of the bundled demo, or of a user's model, is printed: torch and little else."""
    code = (
        "import sys\n"
        "import torch\n"
        "of_torch = set(sys.modules)\n"
        "from actsec.planning.plan import Plan\n"
        "from actsec.running import preparing\n"
        "prepared = preparing.prepare(Plan())\n"
        "assert prepared.jobs\n"
        f"print(sorted(set({HEAVY!r}) & (set(sys.modules) - of_torch)), len(set(sys.modules) - of_torch))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    heavy, _, count = done.stdout.strip().rpartition(" ")
    assert heavy == "[]"
    assert int(count) < 200, "126 modules when this was written, 74 of them actsec's own"


def test_the_first_ctrl_c_waits_and_says_so_and_the_second_ends_it(tmp_path):
    gate = tmp_path / "slow"
    (tmp_path / "nets.py").write_text(SLEEPY.format(place=str(gate)))
    digits = load("digits")
    means = torch.stack([torch.from_numpy(digits.train.x[digits.train.y == c]).mean(0).flatten() for c in range(10)])
    save_file({"linear.weight": means * 2, "linear.bias": 5 - means.square().sum(1)}, tmp_path / "w.safetensors")
    (tmp_path / "plan.toml").write_text(SHORT)
    process = subprocess.Popen(
        [sys.executable, "-m", "actsec", "audit", "plan.toml", "--out", "run", "--workers", "1"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    outcomes = tmp_path / "run" / "outcomes"
    while not any(outcomes.glob("*.json")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    gate.touch()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    said = ""
    while "Ctrl-C again ends them at once" not in said:
        said += (line := process.stderr.readline())
        assert line, said
    before = set(outcomes.glob("*.json"))
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said += process.communicate(timeout=600)[1]
    assert process.returncode == 130, said
    assert "interrupted: every finished job is stored" in said
    assert "To go on: actsec resume run" in said
    assert "Traceback" not in said
    assert set(outcomes.glob("*.json")) == before
