"""``actsec defend``: a chain of defenses put on a model for good."""

from __future__ import annotations

import sys
from typing import Any

import click

from actsec.command_line import completing
from actsec.command_line.core import import_core
from actsec.command_line.options import AUDIT_ONLY, plan_options, read_plan
from actsec.command_line.printing import say
from actsec.errors import Interrupted


@click.command(name="defend")
@click.argument("chain", metavar="CHAIN", shell_complete=completing.defenses)
@plan_options(without=(*AUDIT_ONLY, "no_examples"))
@click.option("--save", metavar="PLACE", help="A new folder that stands alone; or FILE.safetensors, the weights alone.")
@click.option("--export", metavar="FILE.pt2", help="An exported program, which runs in torch without actsec.")
@click.option("--quiet", is_flag=True, help="No progress.")
def defend_command(chain: str, save: str | None, export: str | None, quiet: bool, **options: Any) -> int:
    """Put a chain of defenses on a model, such as 'swap(to=silu, finetune=3) | temperature', fit and save it.

    Nothing is attacked: whether the result is robust is for `actsec audit --model FOLDER` to find out.
    """
    import_core()
    import shlex

    from actsec.command_line.screen import Screen
    from actsec.hardening import making

    plan, screen = read_plan(None, options, None, None), Screen(quiet=quiet)
    try:
        with screen.running("epochs") as tell:
            tested = options.get("data") is not None
            ready = making.prepare(plan, chain, tested=tested, save=save, export=export, tell=tell)
            for note in ready.notes:
                screen.note(note)
            made = making.make(ready, tell)
    except KeyboardInterrupt:
        raise Interrupted("nothing was written", "Training cannot be taken up: the command starts anew.") from None
    for line in making.told(made):
        say(line)
    for line in making.write(made, save, export, shlex.join(["actsec", *sys.argv[1:]])):
        say(line)
    return 0
