"""docs/coverage.md keeps its word: every command exists with these options, and so does every test."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache

import click
import pytest
from runs import ROOT

from actsec import registry
from actsec.activations import names
from actsec.command_line import pages
from actsec.command_line.cli import cli
from actsec.spec import parse_chain

PAGE = (ROOT / "docs" / "coverage.md").read_text()
LATER = {"issue 5, poison", "issue 6", "issue 7"}


def table(text):
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]
    return [row for row in cells if row != ["item", "command", "test"] and not set(row[0]) <= {"-"}]


def wrong(row):
    """What is wrong with a row; None when nothing is."""
    if len(row) != 3:
        return f"{len(row)} cells"
    _, command, test = row
    if command.startswith("later: "):
        return None if command.removeprefix("later: ") in LATER and test == "-" else "nobody's work"
    if command.startswith("out of scope: "):
        return None if len(command) > 40 and test == "-" else "no reason"
    given = re.fullmatch(r"`actsec (.*)`", command)
    if given is None:
        return "no command"
    return unknown_command(shlex.split(given[1])) or unknown_test(test)


def unknown_command(words):
    command, name = cli, "actsec"
    while isinstance(command, click.Group):
        name, *words = words
        if name not in command.commands:
            return f"no command {name}"
        command = command.commands[name]
    try:
        given = command.make_context(name, list(words)).params
        if name == "explain":
            pages.explained(given["name"])
        if name == "attack":
            registry.canonical("attacks", given["attack"])
        for spec in parse_chain(given["chain"]) if name == "defend" else ():
            registry.canonical("defenses", spec)
    except Exception as problem:  # noqa: BLE001  # any is a row that does not work
        return f"{type(problem).__name__}: {problem}"
    return None


@cache
def names_in(file):
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def unknown_test(cell):
    given = re.fullmatch(r"`(tests/test_\w+\.py)::(test_\w+)`", cell)
    if given is None:
        return "no test"
    if not (ROOT / given[1]).is_file():
        return f"no file {given[1]}"
    return None if given[2] in names_in(given[1]) else f"no test {given[2]}"


def test_every_row_holds():
    rows = table(PAGE)
    assert len(rows) > 70
    assert {row[0]: said for row in rows if (said := wrong(row))} == {}


def test_every_item_is_listed_once():
    items = [row[0] for row in table(PAGE)]
    assert len(items) == len(set(items))


@pytest.mark.parametrize(
    "row",
    [
        ["a", "`actsec explian relu`", "`tests/test_coverage.py::test_every_row_holds`"],
        ["a", "`actsec explain rleu`", "`tests/test_coverage.py::test_every_row_holds`"],
        ["a", "`actsec study depth --depth 3`", "`tests/test_coverage.py::test_every_row_holds`"],
        ["a", "`actsec study dept`", "`tests/test_coverage.py::test_every_row_holds`"],
        ["a", "`actsec attack 'fgsm(step=3)'`", "`tests/test_coverage.py::test_every_row_holds`"],
        ["a", "`actsec defend 'temprature'`", "`tests/test_coverage.py::test_every_row_holds`"],
        ["a", "`actsec explain relu`", "`tests/test_coverage.py::test_no_such_thing`"],
        ["a", "`actsec explain relu`", "`tests/test_no_such_file.py::test_every_row_holds`"],
        ["a", "`actsec explain relu`", "-"],
        ["a", "explain relu", "`tests/test_coverage.py::test_every_row_holds`"],
        ["a", "out of scope: no", "-"],
        ["a", "later: issue 99", "-"],
        ["a", "b"],
    ],
)
def test_a_row_that_does_not_hold_is_found(row):
    assert wrong(row)


def test_every_activation_of_the_notes_is_in_the_catalogue():
    listed = {"step", "sigmoid", "tanh", "relu", "leaky_relu", "prelu", "elu", "silu", "swish", "pswish", "gelu"}
    listed |= {"softplus", "identity", "maxout"}
    assert listed <= set(names())
