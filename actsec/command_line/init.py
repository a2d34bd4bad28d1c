"""``actsec init``: a commented plan to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from actsec.command_line.options import plan_options, read_plan
from actsec.command_line.printing import say


@click.command()
@click.argument("plan_file", default="plan.toml", metavar="[PLAN.toml]")
@plan_options()
def init(plan_file: str, **options: Any) -> int:
    """Write a commented plan to start from: plan.toml, or a name of your own. Nothing is overwritten."""
    import shlex

    from actsec.planning.starting import create

    if Path(plan_file).is_dir():
        plan_file = str(Path(plan_file) / "plan.toml")
    create(Path(plan_file), read_plan(None, options, None, None))
    say(f"{plan_file}: every key with its meaning; change what you like")
    say(f"next: actsec audit {shlex.quote(plan_file)}")
    return 0
