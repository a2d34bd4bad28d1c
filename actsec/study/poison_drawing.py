"""The plots of a study of poisons; see ``drawing``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from actsec.study.drawing import _COLOURS, _MARKS, _style, sheet
from actsec.study.harm import Harm
from actsec.study.laboratory import NONE
from actsec.study.poison import Cell
from actsec.study.poison_telling import net


def silenced(cells: Sequence[Cell]) -> Figure:
    """By hidden layer, the share of units silenced less the clean twin's: a panel a network, a line a poison."""
    groups = _groups(cells)
    columns = max(1, len({depth for _, depth in groups}))
    figure, axes = sheet(math.ceil(len(groups) / columns), columns, 5.4, 2.7)
    kinds = list(dict.fromkeys(cell.poison for cell in cells if cell.mitigation == NONE))
    for ax, ((kind, depth), group) in zip(axes, groups.items(), strict=False):
        for cell in group:
            at = kinds.index(cell.poison)
            shares = [np.nan if share is None else share for share in net(cell)]
            ax.plot(range(1, depth + 1), shares, marker=_MARKS[at % 8], ms=4, label=cell.poison, **_style(at))
        ax.axhline(0, color="#999999", linewidth=0.8, zorder=0)
        ax.set_title(f"{kind}, {depth} hidden layers")
        ax.set_xlabel("hidden layer")
        ax.set_ylabel("silenced, less twin's")
        ax.set_xticks(range(1, depth + 1))
        ax.set_ylim(min(-0.15, ax.get_ylim()[0]), 1.05)
    for ax in axes[len(groups) :]:
        ax.set_axis_off()
    _legend(figure, axes)
    return figure


def obfuscation(cells: Sequence[Cell]) -> Figure:
    """What stands against PGD over what stands against square and transfer: above the diagonal gradients mislead."""
    groups = _groups(cells)
    columns = max(1, len({depth for _, depth in groups}))
    figure, axes = sheet(math.ceil(len(groups) / columns), columns, 4.4, 4.0)
    kinds = list(dict.fromkeys(cell.poison for cell in cells if cell.mitigation == NONE))
    for ax, ((kind, depth), group) in zip(axes, groups.items(), strict=False):
        twins = [outcome.at_once for cell in group for outcome in cell.twin]
        ax.scatter(*_points(twins), marker="o", facecolors="none", edgecolors="#777777", label="clean twin")
        for cell in group:
            at = kinds.index(cell.poison)
            found = [outcome.at_once for outcome in cell.poisoned]
            ax.scatter(*_points(found), marker=_MARKS[at % 8], color=_COLOURS[at % 8], s=28, label=cell.poison)
        ax.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, zorder=0)
        ax.set_xlim(-0.03, 1.03)
        ax.set_ylim(-0.03, 1.03)
        ax.set_title(f"{kind}, {depth} hidden layers")
        ax.set_xlabel("stands against square and transfer")
        ax.set_ylabel("stands against PGD")
    for ax in axes[len(groups) :]:
        ax.set_axis_off()
    _legend(figure, axes)
    return figure


def _groups(cells: Sequence[Cell]) -> dict[tuple[str, int], list[Cell]]:
    found: dict[tuple[str, int], list[Cell]] = {}
    for cell in (cell for cell in cells if cell.mitigation == NONE):
        found.setdefault((cell.activation, cell.depth), []).append(cell)
    return found


def _points(found: Sequence[Harm]) -> tuple[list[float], list[float]]:
    whole = [harm.rows for harm in found if "pgd" in harm.rows]
    free = [float(np.minimum(rows["square"], rows["transfer"]).mean()) for rows in whole]
    return free, [float(rows["pgd"].mean()) for rows in whole]


def _legend(figure: Figure, axes: Sequence[Any]) -> None:
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=2, fontsize="small")
