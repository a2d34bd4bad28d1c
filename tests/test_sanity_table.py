"""docs/sanity_checks.md against the code: under which threats each rule speaks, what it masks, what is essential."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actsec import registry
from actsec.planning import budgets, resolving
from actsec.planning.plan import Plan, Trial
from actsec.types import NORMS, Evidence, Threat
from actsec.verdict.sanity import compared, diagnose, state

PAGE = Path(__file__).parents[1] / "docs" / "sanity_checks.md"
KINDS = {kind.rule: kind for kind in (registry.find("diagnostics", name) for name in registry.names("diagnostics"))}
FIXED = {norm: Threat(norm, 1.0) for norm in NORMS}
SMALLEST = {norm: Threat(norm) for norm in NORMS}
ROWS = np.ones(60, bool)
PROBE = {
    "n": 60, "gradient_rows": 60, "non_finite_outputs": 0.0, "output_spread": 1.0, "classes_decided": 10,
    "classes_present": 10, "looks_like_probabilities": False, "repeatable": True, "repeat_difference": 0.0,
    "company_difference": 0.0, "company_rows": 8, "broken_graph": "", "zero_cross_entropy_gradients": 0.0,
    "zero_margin_gradients": 0.0, "non_finite_gradients": 0.0, "slope_cosine": 1.0, "slope_rows": 60,
    "gradient_cosine": 0.9, "unstable_predictions": 0.1, "autograd_inside": 0, "detector_gradient": True,
}  # fmt: skip


def table():
    lines = [
        line for line in PAGE.read_text().splitlines() if re.match(r"\| ACT-M\d\d \|.*\|.*\|.*\|.*\|.*\|.*\|", line)
    ]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(("masks", "essential", "under"), row[5:8], strict=True)) for row in cells if len(row) == 8}


def everything(threat, *, defended=True, detector=True):
    """All that an audit may have seen of a model under a threat."""
    roles = (
        "single_step",
        "iterative",
        "doubled",
        "margin",
        "unbounded",
        "gradient_free",
        "noise",
        "transfer",
        "attack",
    )
    still = np.linspace(-1, 0, 40)[None].repeat(60, 0)
    still[:, 20:] = still[:, 20:21]
    return Evidence(
        threat,
        ROWS,
        {role: ROWS if role != "unbounded" else ~ROWS for role in roles} if threat.eps else {},
        PROBE,
        10,
        False,
        0,
        at={0.5: ROWS, 2.0: ROWS},
        courses={"iterative": still, "doubled": still},
        sizes={} if threat.eps else {role: np.ones(60) for role in ("minimal", "noise", "gradient_free")},
        adaptive={"square": ROWS} if defended else {},
        abstained=~ROWS if detector else None,
        twin=~ROWS if defended else None,
    )


def named(under):
    """The threats that a cell of the table names."""
    where = under.partition(";")[0]
    if where == "every threat":
        return {*FIXED.values(), *SMALLEST.values()}
    kind, _, norms = where.partition(" in ") if where.startswith("fixed") else where.partition(" ")
    return {(FIXED if kind == "fixed eps" else SMALLEST)[norm.strip()] for norm in norms.split(",")}


def speaks(rule, evidence):
    return any(found.rule == rule and found.status != "not_applicable" for found in diagnose(evidence))


def test_the_table_has_every_rule():
    assert set(table()) == set(KINDS)


@pytest.mark.parametrize("rule", sorted(KINDS))
def test_each_rule_speaks_under_the_threats_that_the_table_says(rule):
    row, kind = table()[rule], KINDS[rule]
    every = (*FIXED.values(), *SMALLEST.values())
    assert {str(t) for t in every if speaks(rule, everything(t))} == {str(t) for t in named(row["under"])}
    for word, without in (("defended", {"defended": False}), ("with a detector", {"detector": False})):
        alone = [t for t in named(row["under"]) if not speaks(rule, everything(t, **without))]
        assert bool(alone) == (word in row["under"]), word
    assert row["essential"] == ("yes" if kind.essential else "no")
    masks = row["masks"].partition(" (")[0]
    assert masks == (", ".join(kind.masks) or "no")


@pytest.mark.parametrize("threat", [*FIXED.values(), *SMALLEST.values()], ids=str)
def test_what_no_check_compares_is_unchecked_and_not_clean(threat):
    found = diagnose(everything(threat))
    beside = threat.eps is not None or threat.norm == "l2"
    assert compared(found) == beside
    assert state(found, False) == ("clean" if beside else "unchecked")
    assert all(each.claim for each in found)
    if not beside:
        assert state(found, True) == "unchecked"


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_planner_makes_at_a_fixed_eps_what_the_rules_read(norm):
    """Every role that a rule of the table needs there is in the plan, on as many images as are attacked."""
    at = "linf:0.1" if norm == "linf" else f"{norm}:0.5"
    images = budgets.Images((1, 8, 8), 16, 539)
    plan = resolving.resolve(Plan(attacks=(Trial("pgd(steps=3)", at),)), images, trains=True, calibrates=True)
    whole = "l2:8" if norm == "l2" else "linf:1"
    made = {t.role: t for t in plan.attacks if t.threat in (at, whole)}
    needed = {role for rule, kind in KINDS.items() if kind.essential for role in kind.roles}
    assert needed <= set(made)
    assert {made[role].samples for role in needed} == {150}
    assert len(plan.attacks) == len({(t.attack, t.threat, t.role) for t in plan.attacks})
    assert resolving.resolve(plan, images, trains=True, calibrates=True) == plan


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [None, 1.0])
def test_what_a_red_check_tells_to_run_can_be_run(norm, eps):
    threat = Threat(norm, eps)
    bad = PROBE | {"broken_graph": "cut", "output_spread": 0.0, "slope_cosine": 0.1, "autograd_inside": 2}
    for found in diagnose(replace(everything(threat), probe=bad, unanswered=3)):
        if "actsec attack" in found.command:
            attack = registry.build("attacks", shlex.split(found.command)[2])
            assert norm in attack.norms
            assert eps or {"minimal", "any_eps"} & set(attack.roles), found
