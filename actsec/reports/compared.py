"""What ``actsec compare`` prints: the same rows in a terminal, as Markdown for a pull request, or as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from actsec.reports import words
from actsec.reports.formats.md import escape
from actsec.result import Comparison

if TYPE_CHECKING:
    from actsec.verdict.between import Compared

COLUMNS = ("metric", "base", "new", "difference, 95 % interval", "n", "p", "lost / won", "verdict")
_POINTS = ("clean_accuracy", "robust_accuracy", "nonsense_above_90", "dead_units")


def render(found: Compared, form: str) -> str:
    """The comparison in a format: terminal, md or json."""
    if form == "json":
        return json.dumps(asdict(found), indent=1, sort_keys=True, allow_nan=False) + "\n"
    return _markdown(found) if form == "md" else _terminal(found)


def _terminal(found: Compared) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    sink = io.StringIO()
    console = Console(file=sink, width=140, color_system=None, highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in _rows(found):
        table.add_row(*(Text(words.clean(cell)) for cell in row))
    console.print(table)
    for line in _lines(found):
        console.print(Text(words.clean(line)))
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines()) + "\n"


def _markdown(found: Compared) -> str:
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(tuple(map(escape, row)) for row in _rows(found))]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    name = f"# actsec compare: {escape(found.new)} against {escape(found.base)}"
    return "\n\n".join((name, table, *(escape(line) for line in _lines(found)))) + "\n"


def _rows(found: Compared) -> Iterator[tuple[str, ...]]:
    flips = {each.metric: f"{each.lost} / {each.won}" for each in found.flips}
    for row in found.rows:
        yield (row.metric, *_numbers(row), str(row.n), _p(row.p), flips.get(row.metric, ""), row.verdict)


def _numbers(row: Comparison) -> tuple[str, str, str]:
    """Before, after, and the difference with its interval, in points where they are shares."""
    if row.metric.partition("@")[0] in _POINTS:
        ends = f"[{words.signed(row.low)}, {words.signed(row.high)}]"
        return words.percent(row.before), words.percent(row.after), f"{words.points(row.difference)} {ends}"
    return (
        words.number(row.before),
        words.number(row.after),
        words.minus(f"{row.difference:+.3g} [{row.low:+.3g}, {row.high:+.3g}]"),
    )


def _p(p: float | None) -> str:
    return "" if p is None else "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _lines(found: Compared) -> Iterator[str]:
    if found.same_model:
        yield "Both runs audited the same model."
    yield from (words.sentence(f"{note}.") for note in found.notes)
    for each in found.held:
        yield f"{each.metric}: {each.outcome} ({each.why})"
    if found.held:
        yield f"Exit {found.exit_code}."
    else:
        yield "Nothing was asked (--fail-on METRIC): exit 0 means compared."
