"""actsec init: the plan it writes is the plan that was asked for, commented, and it runs."""

from __future__ import annotations

import dataclasses
import re
import tomllib

import pytest
from runs import inside

from actsec.planning import reading, starting
from actsec.planning.plan import Plan

KEY = re.compile(r"^# (\w+ = .*)$", re.MULTILINE)


def test_the_plan_holds_what_was_given_and_says_what_comes_next(tmp_path):
    path = tmp_path / "plan.toml"
    said = inside("init", path, "--model", "nets.py:make", "--data", 'te"st.npz', "--eps", "8/255")
    assert said.code == 0
    assert said.out.splitlines()[1] == f"next: actsec audit {path}"
    assert reading.read(path) == Plan(model="nets.py:make", data='te"st.npz', eps=8 / 255)
    assert '\neps = "8/255"\n' in path.read_text()


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text("mine")
    said = inside("init", path)
    assert said.code == 2
    assert "is there already" in said.err
    assert path.read_text() == "mine"
    assert inside("init", "/dev/null/no/plan.toml").code == 2
    assert inside("init", tmp_path / "no").code == 0
    assert (tmp_path / "no").is_file()
    assert inside("init", tmp_path / "new" / "deep" / "plan.toml").code == 0
    (tmp_path / "empty").mkdir()
    assert inside("init", tmp_path / "empty").code == 0
    assert (tmp_path / "empty" / "plan.toml").is_file()
    assert inside("init", path / "below" / "plan.toml").code == 2  # a file is no folder


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--attacks", "fgsm, pgd(steps=7) at l2:0.5", "--gate", "ece<=0.05", "--feature", "AGE(step=1, min=0)"),
        ("--defenses", "none", "--raw-units", "--bounds", "0,255", "--samples", "12"),
    ],
)
def test_it_reads_back_as_the_same_command_line(tmp_path, options, monkeypatch):
    path = tmp_path / "plan.toml"
    assert inside("init", path, *options).code == 0
    seen = []
    monkeypatch.setattr("actsec.planning.starting.create", lambda _, plan: seen.append(plan))
    inside("init", "elsewhere.toml", *options)
    assert [reading.read(path)] == seen


def test_every_key_is_there_once_with_its_meaning():
    text = starting.template(Plan())
    keys = re.findall(r"^(?:# )?(\w+) = ", text, re.MULTILINE)
    assert sorted(keys) == sorted(f.name for f in dataclasses.fields(Plan) if f.name != "features")
    assert all(len(line) <= 120 for line in text.splitlines())


@pytest.mark.parametrize("line", KEY.findall(starting.template(Plan())))
def test_every_commented_key_can_be_uncommented(line):
    table = tomllib.loads(line)
    plan = reading.from_table(table)
    (key,) = table
    assert getattr(plan, key) or table[key] in (False, 0)


def test_what_it_writes_runs_as_it_is(tmp_path):
    from actsec.running import preparing

    path = tmp_path / "plan.toml"
    assert inside("init", path).code == 0
    prepared = preparing.prepare(reading.read(path))
    assert prepared.plan == preparing.prepare(Plan()).plan
    assert prepared.jobs


@pytest.mark.slow
def test_a_small_plan_runs_to_its_end(tmp_path):
    path = tmp_path / "plan.toml"
    small = ("--model", "reference:mlp(width=[8])", "--activations", "relu", "--samples", 4, "--corruptions", "none")
    assert inside("init", path, *small, "--defenses", "none").code == 0
    said = inside("audit", path, "--out", tmp_path / "run", "--executor", "serial", "--quiet")
    assert said.code in (0, 3), said.err
    assert (tmp_path / "run" / "report.html").is_file()
