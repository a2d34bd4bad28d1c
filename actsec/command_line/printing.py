"""What the command line prints: names in it may be strangers', and none moves the cursor or forges a line."""

from __future__ import annotations

import sys
from typing import Any

import click


def say(text: str, *, err: bool = False) -> None:
    """One line: control characters become visible, and line breaks become spaces."""
    from actsec.reports.words import clean  # costs the import of the report's records

    click.echo(clean(text), err=err)


def say_lines(text: str) -> None:
    """Lines of a page, each as ``say`` prints it."""
    for line in text.split("\n"):
        say(line)


def show(report: Any, *, as_json: bool = False) -> None:
    """The summary on stdout: bold and coloured on a terminal, plain elsewhere; or all of report.json."""
    from actsec.command_line.screen import plain
    from actsec.reports.load import render

    if as_json or plain() or not sys.stdout.isatty():
        click.echo(render(report, "json" if as_json else "terminal"), nl=False)
        return
    from rich.console import Console

    from actsec.reports.formats import terminal

    terminal.show(report, Console(highlight=False))
