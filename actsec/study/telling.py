"""What a study of activations comes to: estimates with intervals, pairs that differ, and the report as markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec.activations import activation
from actsec.study.activations import Settings, Trained, record
from actsec.study.comparing import Estimate, Pair, Statistic, compare, estimate, verdict
from actsec.verdict.calibration import ece

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of all networks of a depth: by activation, and every pair compared."""

    name: str
    estimates: dict[str, Estimate]
    pairs: tuple[Pair, ...]
    said: str


def statistic(name: str) -> Statistic:
    """How a metric's rows become a number."""
    if name == "ECE":
        return lambda rows: ece(rows[:, 0], rows[:, 1])
    if name.startswith("median"):
        return lambda rows: float(np.median(rows))
    if name.startswith("confidence when fooled"):
        return lambda rows: float(np.nanmean(rows)) if not np.isnan(rows).all() else math.nan
    return lambda rows: float(np.mean(rows))


def metrics(networks: Sequence[Trained]) -> tuple[Metric, ...]:
    """Every metric of networks of one depth. Activations any of whose trainings broke are left out of them all."""
    whole = _unbroken(networks)
    if not whole:
        return ()
    names = list(next(iter(whole.values()))[0].rows)
    found = [_metric(name, {k: [n.rows[name] for n in group] for k, group in whole.items()}) for name in names]
    epochs = {kind: [np.array([float(n.converged)]) for n in group] for kind, group in whole.items()}
    found.append(_metric("epoch of the lowest validation loss", epochs))
    dead = {k: [np.array([n.dead or 0.0]) for n in g] for k, g in whole.items() if all(n.dead is not None for n in g)}
    if dead:
        found.append(_metric("units dead on all training rows", dead))
    return tuple(found)


def _unbroken(networks: Sequence[Trained]) -> dict[str, list[Trained]]:
    """Networks of one depth by activation, without those any of whose trainings broke."""
    by: dict[str, list[Trained]] = {}
    for network in networks:
        by.setdefault(network.activation, []).append(network)
    return {kind: group for kind, group in by.items() if not any(network.broke for network in group)}


def _of_columns(number: Statistic) -> Statistic:
    """The mean of a statistic over the columns of rows (n, k)."""
    return lambda rows: float(np.mean([number(column) for column in rows.T]))


def smooth_or_not(networks: Sequence[Trained]) -> tuple[str, ...]:
    """Whether smooth activations are easier to attack than kinked ones, in a sentence for each attack's number.

    Smooth is what has a bounded second derivative, computed. The smooth ones' mean is held against the kinked ones',
    seed by seed and on the same rows. Nothing where there is only one sort.
    """
    sorts: dict[str, dict[str, list[Trained]]] = {"smooth": {}, "kinked": {}}
    for kind, group in _unbroken(networks).items():
        smooth = math.isfinite(activation(kind).properties.curvature)
        sorts["smooth" if smooth else "kinked"][kind] = group
    if not all(sorts.values()):
        return ()
    said, one = [], next(iter(sorts["smooth"].values()))[0]
    for name in (name for name in one.rows if name.startswith(("robust", "median"))):
        rows = {
            sort: [np.stack([n.rows[name] for n in seeds], 1) for seeds in zip(*groups.values(), strict=False)]
            for sort, groups in sorts.items()
        }
        pairs = compare(rows, _of_columns(statistic(name)))
        names = ", ".join(sorts["smooth"])
        said.append(verdict(pairs, f"{name}, smooth ({names}) against kinked", "between the two sorts"))
    return tuple(said)


def deep_or_shallow(networks: Sequence[Trained]) -> tuple[str, ...]:
    """Whether deeper networks of the same activation do better or worse than the shallowest, a sentence a metric."""
    depths = sorted({network.depth for network in networks})
    by: dict[tuple[str, int], list[Trained]] = {}
    for network in networks:
        by.setdefault((network.activation, network.depth), []).append(network)
    whole = {key: group for key, group in by.items() if not any(network.broke for network in group)}
    kinds = [kind for kind, depth in whole if depth == depths[0]]
    wanted = [((kind, deep), (kind, depths[0])) for kind in kinds for deep in depths[1:] if (kind, deep) in whole]
    if not wanted:
        return ()
    said = []
    for name in next(iter(whole.values()))[0].rows:
        rows = {_deep(*key): [network.rows[name] for network in group] for key, group in whole.items()}
        pairs = compare(rows, statistic(name), [(_deep(*one), _deep(*two)) for one, two in wanted])
        said.append(verdict(pairs, name, "between deep and shallow of any activation"))
    return tuple(said)


def _deep(kind: str, depth: int) -> str:
    return f"{kind} with {depth} hidden layers"


def _metric(name: str, rows: Mapping[str, Sequence[Array]]) -> Metric:
    most = math.inf if name.startswith(("loss", "median", "epoch")) else 1.0
    estimates = {kind: _within(estimate(each, statistic(name)), most) for kind, each in rows.items()}
    pairs = compare(rows, statistic(name))
    said = verdict(pairs, name) if pairs else f"{name}: one activation alone, nothing to compare."
    return Metric(name, estimates, pairs, said)


def _within(found: Estimate, most: float) -> Estimate:
    """No metric is negative, and shares are at most 1: an interval that ends beyond ends there."""
    if not math.isfinite(found.low):
        return found
    return replace(found, low=max(found.low, 0.0), high=min(found.high, most))


def lines(data: str, rows: tuple[int, int, int], networks: Sequence[Trained], settings: Settings) -> Iterator[str]:
    """The study of one data set as markdown; rows are of train, validation and test."""
    yield f"## {data}"
    yield ""
    attacked = min(settings.samples, rows[2])
    yield f"{rows[0]} training, {rows[1]} validation and {rows[2]} test rows, {attacked} of them attacked."
    yield ""
    for depth in settings.depths:
        group = [network for network in networks if network.depth == depth]
        yield f"### {depth} hidden layers"
        yield ""
        found = metrics(group)
        kinds = list(next(iter(found)).estimates) if found else []
        ranked = sorted(kinds, key=lambda kind: -found[0].estimates[kind].value)
        yield "| activation | " + " | ".join(metric.name for metric in found) + " |"
        yield "|---" * (1 + len(found)) + "|"
        for kind in ranked:
            yield f"| {kind} | " + " | ".join(_cell(metric.estimates.get(kind)) for metric in found) + " |"
        yield ""
        yield from (f"- {metric.said}" for metric in found)
        yield from (f"- {said}" for said in smooth_or_not(group))
        for network in (network for network in group if network.broke):
            yield f"- {network.activation}, seed {network.seed}: not measured, {network.broke}."
        yield ""
    if said := deep_or_shallow(networks):
        yield "### Deep against shallow"
        yield ""
        yield from (f"- {each}" for each in said)
        yield ""


def _cell(found: Estimate | None) -> str:
    if found is None:
        return "cannot die"
    if not math.isfinite(found.value):
        return "none" if math.isnan(found.value) else "beyond the search"
    if not math.isfinite(found.low):
        return f"{found.value:.3g}"
    return f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}]"


def shared(settings: Settings) -> Iterator[str]:
    """What stands above every data set."""
    yield "# The same network with every activation"
    yield ""
    yield (
        f"Fully connected, widths {list(settings.width)}, {settings.seeds} seeds each, Adam at 1e-3, batches of 32, "
        f"{settings.epochs} epochs, dropout {settings.dropout:g}; initialised to fit the activation (init=auto)."
    )
    yield (
        "Intervals are 95 %, over seeds and test rows together; pairs are corrected by Holm's method over all pairs of "
        "a metric. Attacks: "
        + ", ".join(settings.attacks)
        + f"; eps {settings.eps:g} in the inputs' own units. A robust accuracy is an upper bound."
    )
    yield ""


def noted(networks: Sequence[Trained], settings: Settings) -> dict[str, Any]:
    """The study of one data set for the record: every network, and every metric by depth."""
    found = {
        str(depth): [asdict(metric) for metric in metrics([n for n in networks if n.depth == depth])]
        for depth in settings.depths
    }
    return {"networks": record(networks), "metrics": found}
