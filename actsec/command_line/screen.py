"""What a person sees on stderr while an audit runs: the plan, one live line, time left; plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape as literal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from actsec.running.preparing import Prepared
    from actsec.running.progress import Progress as Standing
    from actsec.running.progress import Tell
    from actsec.running.store import Store

PLAIN_EVERY = 5.0
"""Seconds between progress lines where there is no terminal to redraw."""


def plain() -> bool:
    """Whether text alone is wanted wherever it goes: NO_COLOR is set (no-color.org), or --no-color was given."""
    return bool(os.environ.get("NO_COLOR"))


def escape(text: str) -> str:
    """Text of others on one line: no markup, no control characters."""
    from actsec.reports.words import clean

    return literal(clean(text))


class Screen:
    """Draws on stderr. quiet draws nothing but errors."""

    def __init__(self, *, quiet: bool = False) -> None:
        terminal = False if plain() else None  # None: it finds out
        self.console = Console(stderr=True, quiet=quiet, highlight=False, force_terminal=terminal)

    @contextlib.contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """A spinner while something takes a moment."""
        if self.console.is_terminal:
            with self.console.status(text):
                yield
        else:
            yield

    def plan(self, prepared: Prepared, store: Store) -> None:
        """What will be done, before it is done."""
        from actsec.planning.jobs import variants
        from actsec.spec import show

        plan, test = prepared.plan, prepared.scene.test
        models = variants(plan)
        many = "images" if test.table is None else "rows"
        self.console.print(
            f"[bold]actsec audit[/] {escape(plan.model)} on {escape(test.name)}: {len(test)} test {many} "
            f"{'x'.join(map(str, prepared.facts.shape))}, {len(prepared.facts.classes)} classes, "
            f"eps {show(plan.eps)} in [{test.bounds[0]:g}, {test.bounds[1]:g}], budget {plan.budget}, seed {plan.seed}",
            soft_wrap=True,
        )
        for note in (*test.notes, *prepared.notes):
            self.console.print(f"  note: {escape(note)}", soft_wrap=True)
        self.console.print(f"  models: {escape(', '.join(v.name for v in models))}", soft_wrap=True)
        rows = [("attack", "threat", many, "for")]
        rows += [(t.attack, t.threat, str(t.samples), t.role.replace("_", " ")) for t in plan.attacks]
        self._rows(rows)
        self.console.print(f"  {len(prepared.jobs)} jobs, results in {escape(str(store.root))}", soft_wrap=True)

    def _rows(self, rows: Sequence[tuple[str, ...]]) -> None:
        """A table whose first row is its head: folded to a terminal's width, one whole line a row elsewhere."""
        if not self.console.is_terminal:
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for row in rows:
                line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                self.console.print(f"  {escape(line.rstrip())}", soft_wrap=True)
            return
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), show_header=True, header_style="dim")
        for name in rows[0]:
            table.add_column(name, overflow="fold")
        for row in rows[1:]:
            table.add_row(*map(escape, row))
        self.console.print(table)

    def note(self, text: str) -> None:
        """A remark, a line of its own."""
        self.console.print(f"note: {escape(text)}", soft_wrap=True)

    @contextlib.contextmanager
    def running(self, unit: str = "jobs") -> Iterator[Tell]:
        """A function to tell progress to, drawn as a bar on a terminal and as a line now and then elsewhere.

        unit is what progress counts.
        """
        if self.console.is_terminal:
            with self._bar() as tell:
                yield tell
        else:
            yield self._lines(unit)

    @contextlib.contextmanager
    def _bar(self) -> Iterator[Tell]:
        columns = (
            BarColumn(30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task("", total=None, left="")

            def tell(standing: Standing) -> None:
                bar.update(
                    task,
                    completed=standing.done,
                    total=standing.total or None,
                    description=escape(standing.label[:60]),
                    left=_left(standing.left),
                )
                self._said(standing)

            yield tell

    def _lines(self, unit: str) -> Tell:
        last, ended = time.monotonic(), ""

        def tell(standing: Standing) -> None:
            nonlocal last, ended
            self._said(standing)
            # The end of each part is said once, whatever time has passed.
            over = standing.label if standing.done == standing.total else ""
            if time.monotonic() - last >= PLAIN_EVERY or (over and over != ended):
                last, ended = time.monotonic(), over
                count = f"{standing.done}/{standing.total} {unit} {_left(standing.left)}" if standing.total else ""
                self.console.print(f"{count} {escape(standing.label)}".lstrip(), soft_wrap=True)

        return tell

    def _said(self, standing: Standing) -> None:
        if standing.error:
            self.console.print(f"[red]failed[/] {escape(standing.label)}: {escape(standing.error)}", soft_wrap=True)
        if standing.note:
            self.console.print(f"note: {escape(standing.note)}", soft_wrap=True)


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"about {seconds:.0f} s left" if seconds < 90 else f"about {seconds / 60:.0f} min left"
