"""The plots of a study of forced units; see ``drawing``. Each is narrow, so that a phone shows its letters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from actsec.forcing.aim import depth, groups
from actsec.forcing.consequences import SiteForced
from actsec.search.oracle import Oracle, frozen
from actsec.study.drawing import _COLOURS, _MARKS, sheet
from actsec.study.forcing import BEST, COUNT, NOISE, PGD, PGD_BEST, Contest, Network, Round
from actsec.study.forcing_telling import label
from actsec.study.singles import Smallest

Array = NDArray[Any]
SHOWN = (COUNT, NOISE, BEST, PGD, PGD_BEST)
IMAGES = 4
NAMED = 6
"""Up to so many sites are named on the axis; more are numbered."""


def plots(network: Network, classes: Sequence[str]) -> dict[str, Figure]:
    """Every plot of a network, by the names that forcing_telling.lines looks for."""
    found: dict[str, Figure] = {}
    for each in network.rounds:
        region = each.contest.region
        found[f"{region}_sites_forced"] = profile(each.contest, net=False)
        found[f"{region}_sites_net"] = profile(each.contest, net=True)
        for at, smallest in enumerate(each.smallest):
            found[f"{region}_single_{at + 1}"] = single(smallest, float(network.cases.eps[0]), network.cases.norm)
        if network.cases.x.ndim == 4 and network.cases.x.shape[1] in (1, 3):
            found[f"{region}_images"] = images(network, each, classes)
    return found


def profile(contest: Contest, *, net: bool) -> Figure:
    """By site, what each contender forced of the units that were not gone, or the net rise of those that are."""
    figure, (ax,) = sheet(1, 1, 4.8, 3.5)
    count = contest[COUNT].effect.sites
    for at, name in enumerate(name for name in SHOWN if name in contest):
        shares = [_net(site) if net else _forced(site) for site in contest[name].effect.sites]
        style = {
            "color": _COLOURS[at],
            "linewidth": 2.0 if name == COUNT else 1.2,
            "linestyle": "-" if at < 1 else "--",
        }
        ax.plot(range(1, len(count) + 1), shares, marker=_MARKS[at], ms=5, label=label(contest, name), **style)
    ax.axhline(0, color="#999999", linewidth=0.8, zorder=0)
    ax.set_xticks(*_ticks([site.name for site in count]))
    ax.set_xlabel("site" if len(count) <= NAMED else "site, in the order of the network")
    ax.set_title("Net rise of what is gone, of all units" if net else "Forced, of the units that were not gone")
    ax.set_ylim(None if net else 0)
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    ax.legend(fontsize="small")
    return figure


def _forced(site: SiteForced) -> float:
    return site.killed / (1 - site.dead_before) if site.dead_before < 1 else 0.0


def _net(site: SiteForced) -> float:
    return site.killed - site.revived


def _ticks(names: Sequence[str]) -> tuple[list[int], list[str]]:
    if len(names) <= NAMED:
        return [*range(1, len(names) + 1)], [*names]
    step = math.ceil(len(names) / 10)
    at = [*range(1, len(names) + 1, step)]
    return at, [str(number) for number in at]


def single(found: Smallest, eps: float, norm: str) -> Figure:
    """The share of single units that a change up to a size forces: what was found, the truth, what intervals allow."""
    figure, (ax,) = sheet(1, 1, 4.8, 3.5)
    sizes = np.array(found.found)
    end = max((size for size, _ in found.certified), default=0.0)
    kept = sizes[np.isfinite(sizes)]
    end = end or max(2 * eps, float(np.quantile(kept, 0.9)) if len(kept) else 0.0)
    grid = np.linspace(0, end, 300)
    reached = _within(sizes, grid)
    ax.plot(grid, reached, color=_COLOURS[0], linewidth=2, label="an attack (at least)")
    if found.exact:
        ax.plot(grid, _within(np.array(found.exact), grid), color=_COLOURS[1], linestyle="--", label="exact")
    if found.certified:
        at, share = zip(*found.certified, strict=True)
        allowed = np.interp(grid, at, share)
        ax.plot(at, share, color=_COLOURS[2], linestyle=":", marker="o", ms=3, label="intervals (at most)")
        ax.fill_between(grid, reached, np.maximum(allowed, reached), color="#999999", alpha=0.2, linewidth=0)
    ax.axvline(eps, color="#777777", linewidth=0.9)
    ax.annotate(" eps", (eps, 0.02), color="#555555", fontsize="small")
    ax.set_xlim(0, end)
    ax.set_ylim(0, 1.03)
    ax.set_title(f"{found.site} ({found.kind}): {len(sizes)} pairs of image and unit", fontsize="medium")
    ax.set_xlabel(f"size of the change, {'L-inf' if norm == 'linf' else 'L2'}")
    ax.set_ylabel("share forced")
    ax.legend(fontsize="small", loc="lower right")
    return figure


def _within(sizes: Array, grid: Array) -> Array:
    return np.asarray((sizes[None] <= grid[:, None]).mean(1))


def images(network: Network, found: Round, classes: Sequence[str]) -> Figure:
    """The images with most units forced: untouched, under PGD, forced, with what the model says; and their units."""
    target, cases, contest = network.target, network.cases, found.contest
    ways = [name for name in (PGD, COUNT) if name in contest]
    with frozen(target.model), torch.no_grad():
        oracle = Oracle(target)
        lost = units_forced(network, found)
        most = sorted(range(len(cases)), key=lambda row: -sum(float(site[row].sum()) for site in lost))[:IMAGES]
        inputs = [cases.x, *(contest[name].x for name in ways)]
        answers = [oracle.observe(x[most]).logits.argmax(1).tolist() for x in inputs]
    figure, axes = sheet(len(most), 1, 5.2, 1.55)
    figure.set_layout_engine("none")
    for ax in axes:
        ax.set_axis_off()
    low, high = target.bounds
    for line, row in enumerate(most):
        top = 1 - (line + 1) / len(most)
        for at, (x, answer) in enumerate(zip(inputs, answers, strict=True)):
            place = figure.add_axes((0.01 + at * 0.18, top + 0.02, 0.165, 0.7 / len(most)))
            picture = ((x[row] - low) / (high - low)).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
            place.imshow(picture[..., 0] if picture.shape[2] == 1 else picture, cmap="gray", vmin=0, vmax=1)
            named = "untouched" if at == 0 else label(contest, ways[at - 1])
            place.set_title(f"{named}\nsays {classes[answer[line]][:12]}", fontsize=9)
            place.set_xticks([])
            place.set_yticks([])
        place = figure.add_axes((0.08 + len(inputs) * 0.18, top + 0.03, 0.91 - len(inputs) * 0.18, 0.7 / len(most)))
        _units(place, [site[row].numpy() for site in lost], [site.name for site in contest[COUNT].effect.sites])
        share = sum(float(site[row].sum()) for site in lost) / max(sum(site.shape[1] for site in lost), 1)
        place.set_title(f"forced: {share:.1%} of all units", fontsize=9)
    return figure


def _units(ax: Any, sites: Sequence[Array], names: Sequence[str]) -> None:
    """Sites down, their units across, each row stretched over the whole width."""
    width = max(len(site) for site in sites)
    raster = np.stack([site[(np.arange(width) * len(site) / width).astype(int)] for site in sites])
    ax.imshow(raster, aspect="auto", interpolation="nearest", cmap="Reds", vmin=0, vmax=1)
    for line in range(1, len(sites)):
        ax.axhline(line - 0.5, color="#ffffff", linewidth=2 if len(sites) <= NAMED else 0.6)
    ax.set_xticks([])
    at, told = _ticks(names)
    ax.set_yticks([place - 1 for place in at], told, fontsize=8)


def units_forced(network: Network, found: Round) -> list[torch.Tensor]:
    """By site (n, groups): the share of each unit or channel that the count forced."""
    made, region = [], found.contest.region
    oracle = Oracle(network.target)
    before, after = (oracle.observe(x, True).sites for x in (network.cases.x, found.contest[COUNT].x))
    for one, two in zip(before, after, strict=True):
        first, second = depth(one, region), depth(two, region)
        if first is not None and second is not None:
            count, each = groups(one.pre)
            gone = ((second >= 0) & (first < 0)).double()
            made.append(gone.reshape(len(gone), count, each).mean(2).cpu())
    return made
