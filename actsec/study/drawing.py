"""The studies' plots. matplotlib is imported here alone, without a screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from actsec.activations import activation
from actsec.activations.properties import curve
from actsec.data import Splits
from actsec.study.activations import Trained
from actsec.study.depth import Norms, cells
from actsec.verdict.activity import EXPLODING, VANISHING

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKS, _DASHES = "os^vDP*X", ("-", "--", ":")
POINTS = 1000
"""Okabe and Ito's palette, told apart by colour-blind readers too, with a marker and dashes beside it."""


def _style(at: int) -> dict[str, Any]:
    kind = at % len(_COLOURS)
    return {"color": _COLOURS[kind], "linestyle": _DASHES[at // len(_COLOURS) % len(_DASHES)]}


def sheet(rows: int, columns: int, width: float = 5.0, height: float = 3.6) -> tuple[Figure, list[Any]]:
    """A figure of rows x columns panels."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(rows, columns, at + 1) for at in range(rows * columns)]


def curves(names: Sequence[str], reach: float = 5.0) -> Figure:
    """f and f' of every activation over [-reach, reach], 1000 points; see ``Properties`` where units compete."""
    columns = min(4, len(names))
    figure, axes = sheet(math.ceil(len(names) / columns), columns, 3.6, 2.8)
    z = torch.linspace(-reach, reach, POINTS, dtype=torch.float64)
    for ax, name in zip(axes, names, strict=False):
        f, slope = curve(activation(name), z)
        ax.plot(z, f, color=_COLOURS[0], label="f")
        ax.plot(z, slope, color=_COLOURS[1], linestyle="--", label="f'")
        ax.set_title(name)
        ax.axhline(0, color="#cccccc", linewidth=0.8, zorder=0)
        ax.axvline(0, color="#cccccc", linewidth=0.8, zorder=0)
    axes[0].legend()
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    return figure


def depth(networks: Sequence[Norms]) -> Figure:
    """Mean, spread, smallest and largest gradient norm over depth, and G, all on a logarithmic scale."""
    found = cells(networks)
    inits = list(dict.fromkeys(cell.init for cell in found))
    kinds = list(dict.fromkeys(cell.activation for cell in found))
    panels = [("mean", "mean norm"), ("std", "standard deviation"), ("least", "smallest"), ("most", "largest")]
    panels.append(("ratio", "G, first over last layer"))
    figure, axes = sheet(len(inits), len(panels), 3.8, 3.2)
    for row, init in enumerate(inits):
        for column, (field, title) in enumerate(panels):
            ax = axes[row * len(panels) + column]
            for at, kind in enumerate(kinds):
                of = sorted((c for c in found if (c.activation, c.init) == (kind, init)), key=lambda c: c.depth)
                values = [max(getattr(cell, field), 1e-30) for cell in of]
                ax.plot([cell.depth for cell in of], values, marker=_MARKS[at % 8], ms=4, label=kind, **_style(at))
            ax.set_yscale("log")
            ax.set_title(f"{title} ({init})")
            ax.set_xlabel("layers with weights")
            if field == "ratio":
                for limit in (VANISHING, EXPLODING):
                    ax.axhline(limit, color="#999999", linewidth=0.8)
    axes[0].legend(fontsize="small")
    return figure


def courses(networks: Sequence[Trained]) -> Figure:
    """Training and validation loss by epoch, a panel an activation, a line a seed."""
    kinds = list(dict.fromkeys((network.activation, network.depth) for network in networks))
    columns = min(4, len(kinds))
    figure, axes = sheet(math.ceil(len(kinds) / columns), columns, 3.6, 2.8)
    for ax, (kind, layers) in zip(axes, kinds, strict=False):
        for network in networks:
            if (network.activation, network.depth) == (kind, layers) and not network.broke:
                epochs = range(1, network.epochs + 1)
                ax.plot(epochs, network.training_loss, color=_COLOURS[0], linewidth=0.9)
                ax.plot(epochs, network.validation_loss, color=_COLOURS[1], linewidth=0.9, linestyle="--")
        ax.set_yscale("log")
        ax.set_title(f"{kind}, {layers} hidden")
    axes[0].plot([], [], color=_COLOURS[0], label="training loss")
    axes[0].plot([], [], color=_COLOURS[1], linestyle="--", label="validation loss")
    axes[0].legend(fontsize="small")
    for ax in axes[len(kinds) :]:
        ax.set_axis_off()
    return figure


def boundaries(networks: Sequence[Trained], splits: Splits) -> Figure:
    """What seed 0 of every activation decides over the plane of two-dimensional data, with the test rows."""
    first = [network for network in networks if network.seed == 0 and not network.broke]
    columns = min(4, len(first))
    figure, axes = sheet(math.ceil(len(first) / columns), columns, 3.2, 3.0)
    x, y = splits.test.whole(), splits.test.y
    low, high = x.min(0) - 0.5, x.max(0) + 0.5
    grid = np.stack(np.meshgrid(*(np.linspace(low[i], high[i], 120) for i in (0, 1)), indexing="xy"), -1)
    asked = torch.from_numpy(grid.reshape(-1, 2).astype(np.float32))
    for ax, network in zip(axes, first, strict=False):
        with torch.no_grad():
            shares = network.model.eval()(asked).softmax(1).numpy()
        decided = shares.argmax(1).reshape(120, 120)
        ax.pcolormesh(
            grid[..., 0], grid[..., 1], decided, cmap=ListedColormap(_COLOURS), vmin=-0.5, vmax=7.5, alpha=0.3
        )
        sure = shares.max(1).reshape(120, 120)
        ax.contour(grid[..., 0], grid[..., 1], sure, levels=[0.9, 0.99], colors="#777777", linewidths=0.6)
        ax.scatter(x[:, 0], x[:, 1], c=[_COLOURS[int(label) % 8] for label in y], s=6)
        ax.set_title(f"{network.activation}, {network.depth} hidden")
    for ax in axes[len(first) :]:
        ax.set_axis_off()
    return figure
