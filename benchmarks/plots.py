"""The plot: strength over time for every suite, and how time grows with images and with the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.judging import best_of, optimality
from benchmarks.peers import PEERS
from benchmarks.results import Cell, Results
from benchmarks.suites import Suite
from benchmarks.tables import sheets

FILE = "benchmarks.png"
COLOURS = dict(zip(PEERS, ("#0072B2", "#999999", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000"), strict=True))
"""Okabe and Ito's palette, told apart by colour-blind readers too; each library also has a marker of its own."""
MARKERS = dict(zip(PEERS, "o|sD^vX", strict=True))


def draw(suites: dict[str, Suite], results: Results) -> Path | None:
    """Write the figure into the results' folder; None when there is nothing to draw."""
    panels = [
        (name, suite, sheet, rows)
        for name, suite in suites.items()
        if not suite.axis
        for sheet, _, rows in sheets(suite, results)
        if any(cell.seconds and cell.peer != "bare" for _, cell in rows)
    ]
    growing = [(name, suite) for name, suite in suites.items() if suite.axis and sheets(suite, results)]
    count = len(panels) + len(growing)
    if not count:
        return None
    columns = min(3, count)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(5.5 * columns, 4.2 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(lines, columns, k + 1) for k in range(count)]
    for ax, (name, _, sheet, rows) in zip(axes, panels, strict=False):
        _scatter(ax, f"{name}: {sheet.scene}", [cell for _, cell in rows], sheet.everyone)
    for ax, (name, suite) in zip(axes[len(panels) :], growing, strict=True):
        _growth(ax, name, suite, results)
    path = results.folder / FILE
    figure.savefig(path, dpi=110)
    return path


def _scatter(ax: Any, title: str, cells: list[Cell], everyone: list[Cell]) -> None:
    """One point a contender: seconds per image against strength; up and to the left is better."""
    timed = [cell for cell in cells if cell.seconds and cell.peer != "bare"]
    for cell in timed:
        strength = cell.success if cell.eps else optimality(cell.sizes[0], best_of([e.sizes[0] for e in everyone]))
        ax.scatter(
            cell.median / cell.images,
            strength,
            s=45,
            color=COLOURS[cell.peer],
            marker=MARKERS[cell.peer],
            label=cell.peer,
            zorder=3 if cell.peer == "actsec" else 2,
        )
    times = [cell.median / cell.images for cell in timed]
    # Whole powers of ten, so that every panel has labelled ticks however close its contenders are.
    least, most = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    ax.set(xscale="log", xlim=(10.0**least, 10.0 ** max(most, least + 1)), ylim=(-0.05, 1.05), title=title)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("seconds per image (median)")
    ax.set_ylabel("success" if cells[0].eps else "optimality (1: best of all on every image)")
    ax.grid(visible=True, alpha=0.3)
    _legend(ax)


def _growth(ax: Any, title: str, suite: Suite, results: Results) -> None:
    """One line a contender: seconds against images or parameters."""
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _, _, rows in sheets(suite, results):
        for _, cell in rows:
            if cell.seconds:
                at = cell.images if suite.axis == "images" else cell.parameters
                lines.setdefault((cell.peer, cell.spec), []).append((at, cell.median))
    for (peer, spec), points in lines.items():
        xs, ys = zip(*sorted(points), strict=True)
        style = "-" if peer == "actsec" else "--"
        ax.plot(xs, ys, style, color=COLOURS[peer], marker=MARKERS[peer], label=f"{peer} {spec.split('(')[0]}")
    ax.set(xscale="log", yscale="log", title=title, xlabel=suite.axis)
    ax.set_ylabel("seconds (median)")
    ax.grid(visible=True, alpha=0.3)
    _legend(ax)


def _legend(ax: Any) -> None:
    handles, labels = ax.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if once:
        ax.legend(once.values(), once.keys(), fontsize=7)
