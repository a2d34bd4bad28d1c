"""``actsec list`` and ``actsec explain``: what there is, and a page about each."""

from __future__ import annotations

import click

from actsec.command_line import completing, pages
from actsec.command_line.printing import say, say_lines


@click.command(name="list")
@click.argument("kind", metavar="KIND", type=click.Choice(pages.KINDS))
def list_command(kind: str) -> int:
    """List attacks, defenses, activations, diagnostics, lints, poisons, symptoms, models or data."""
    for name, meaning in pages.listing(kind):
        say(f"{name:28} {meaning}".rstrip())
    return 0


@click.command()
@click.argument("name", shell_complete=completing.pages)
def explain(name: str) -> int:
    """Explain an attack, a defense, a rule (by name or id such as ACT-M03, ACT-A01) or an activation."""
    say_lines(pages.explained(name))
    return 0
