"""``actsec diagnose``: the health of a model's activations, without an attack."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from actsec.command_line.core import import_core
from actsec.command_line.options import AUDIT_ONLY, plan_options, read_plan
from actsec.command_line.printing import say
from actsec.errors import BadOption


@click.command(name="diagnose")
@plan_options(
    without=("eps", *(name for name in AUDIT_ONLY if name not in ("samples", "gates"))),
    samples="images whose activations are watched, and at most 320 whose gradients [1000]",
    gates="conditions such as permanently_dead<=0.1; what they may speak of stands above",
)
@click.option("--architecture", is_flag=True, help="Only lint the architecture, untrained: weights are not needed.")
@click.option("--json", "as_json", is_flag=True, help="Print everything that was measured as JSON.")
@click.option("--out", help="A new folder for report.json and report.html; `actsec report` renders it again.")
@click.option("--quiet", is_flag=True, help="No progress.")
def diagnose_command(architecture: bool, as_json: bool, out: str | None, quiet: bool, **options: Any) -> int:
    """Look at a model's activations and confidence without attacking it: dead, saturated, vanishing, overconfident.

    The architecture is linted as well: rules ACT-L01 to ACT-L09, see `actsec explain ACT-L01`.

    Gates, METRIC<=LIMIT or METRIC>=LIMIT, speak of the whole model (clean_accuracy, wrong_above_90, ece,
    confidence_when_wrong), decided by the 95 % interval as an audit does; of the worst site (dead, permanently_dead,
    saturated), all of whose units are counted; of gradient_ratio (first layer over last), by its value. Exit code: 0
    whatever is found, 1 where a gate failed, 3 where nothing can be said or an interval contains the limit.
    """
    import_core()
    import json

    from actsec.command_line.screen import Screen
    from actsec.hardening import hardened
    from actsec.running import checkup, preparing, scene
    from actsec.verdict import activity

    plan, screen = read_plan(None, options, None, None), Screen(quiet=quiet)
    activity.check_gates(plan.gates)
    if architecture:
        if plan.gates or out is not None or as_json:
            raise BadOption("--architecture prints its findings alone", "Leave --gate, --json and --out out.")
        with screen.busy("looking"):
            plan = plan if plan.weights or plan.reference else plan.having(random_weights=True)
            network, problems = checkup.untrained(preparing.resolved(scene.load(checkup.whole(plan))))
        for line in activity.linted(network, problems):
            say(line)
        return 0
    if out is not None:
        hardened.check_place(out)
    with screen.busy("looking"):
        loaded = preparing.resolved(scene.load(checkup.whole(plan)))
        target, notes, refused = checkup.subject(loaded)
        for note in notes:
            say(f"note: {note}", err=True)
        found = checkup.examine(target, loaded, plan.gates, () if refused is None else (refused,))
    if out is not None:
        _store_checkup(found, loaded, target, Path(out).expanduser())
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=1, sort_keys=True, allow_nan=False))
    else:
        for line in activity.lines(found):
            say(line)
        if out is not None:
            say(f"Report: {Path(out).expanduser() / 'report.html'}")
    return found.exit_code


def _store_checkup(found: Any, loaded: Any, target: Any, folder: Path) -> None:
    """report.json and report.html of a checkup, whole or not at all."""
    import shlex

    from actsec.hardening import hardened
    from actsec.reports.load import Report, write
    from actsec.reports.redacting import redacted
    from actsec.running import scene
    from actsec.verdict.checked import checked

    result = checked(found, loaded, scene.facts(loaded, target), shlex.join(["actsec", *sys.argv[1:]]))
    told = redacted(Report(result)) if loaded.plan.no_examples else Report(result)
    with hardened.staged(folder) as staging:
        for form in ("json", "html"):
            write(told, staging / f"report.{form}", form)
