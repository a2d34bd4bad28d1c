"""What the command line prints: names in it may be strangers', and none moves the cursor or forges a line."""

from __future__ import annotations

import click


def say(text: str, *, err: bool = False) -> None:
    """One line: control characters become visible, and line breaks become spaces."""
    from actsec.reports.words import clean  # costs the import of the report's records

    click.echo(clean(text), err=err)


def say_lines(text: str) -> None:
    """Lines of a page, each as ``say`` prints it."""
    for line in text.split("\n"):
        say(line)
