"""``actsec report``, ``compare`` and ``schema``: what was found, rendered again and beside another."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from actsec.command_line.core import import_core
from actsec.command_line.printing import say, show


@click.command()
@click.argument("run", type=click.Path())
@click.option("--format", "form", default="html", show_default=True, help="html, md, json, sarif, junit or terminal.")
@click.option("--out", help="File to write; - prints [RUN/report.FORMAT; actsec.sarif, junit.xml].")
@click.option("--plan", default="", metavar="FILE", help="The plan file that SARIF points into [RUN/plan.toml].")
@click.option("--no-examples", is_flag=True, help="Leave inputs, paths, names and secrets out [RUN/share/...].")
def report(run: str, form: str, out: str | None, plan: str, no_examples: bool) -> int:
    """Render the report of a run again. Needs no model, no data and no torch."""
    from actsec.reports.load import read, render, write

    found = dataclasses.replace(read(Path(run)), plan=plan)
    if no_examples or found.result.plan.get("no_examples"):
        from actsec.reports.redacting import redacted

        found = redacted(found)
    if out == "-" or (out is None and form == "terminal"):
        if form == "terminal":
            show(found)
        else:
            click.echo(render(found, form), nl=False)
        return 0
    folder = Path(run) / "share" if no_examples else Path(run)
    path = Path(out) if out else folder / _file_name(form)
    if no_examples and not out:
        folder.mkdir(exist_ok=True)
    write(found, path, form)
    say(str(path))
    return 0


@click.command()
@click.argument("base", type=click.Path())
@click.argument("new", type=click.Path())
@click.option(
    "--fail-on", multiple=True, metavar="METRIC", help="Exit 1 when it is worse in NEW: robust_accuracy, ece."
)
@click.option("--worse-than", default=0.0, metavar="MARGIN", help="With --fail-on: how much may be lost, such as 0.03.")
@click.option("--format", "form", type=click.Choice(["terminal", "md", "json"]), default="terminal", show_default=True)
def compare(base: str, new: str, fail_on: tuple[str, ...], worse_than: float, form: str) -> int:
    """Compare the audited models of two finished runs, paired on the same examples.

    Exit code: 0 unless a metric of --fail-on is worse (1) or cannot be decided (3); 2 where the runs did not ask the
    same.
    """
    import_core()
    from actsec.reports.compared import render
    from actsec.verdict import between

    found = between.compare(base, new, fail_on, worse_than)
    click.echo(render(found, form), nl=False)
    return found.exit_code


def _file_name(form: str) -> str:
    """What a report is called where nothing else is said: as those who read it look for it."""
    return {"sarif": "actsec.sarif", "junit": "junit.xml"}.get(form, f"report.{form}")


@click.command()
def schema() -> int:
    """Print the JSON schema of report.json, as published in docs/report.schema.json."""
    from actsec.reports.schema import schema_json

    click.echo(schema_json(), nl=False)
    return 0
