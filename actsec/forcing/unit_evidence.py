"""What is measured of units that are gone, so that a rule can say why.

Weights and biases beside fresh ones, the sites before, outliers in the data. The rules stand in actsec.verdict.causes
and need no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actsec.activations.regions import regions
from actsec.health.profiles import Feeder, Profile
from actsec.health.vitals import Outliers
from actsec.types import Target
from actsec.verdict.causes import BEYOND, Gone

FACTOR, ENOUGH, ROOM = 10.0, 0.05, 1.1
"""How far out an outlier lies; the share of rows on which a unit must live to be called alive; room beside fresh."""
_SOME = 2000
_FEWEST, _NUMBERS = 100, 1 << 23
_ROUNDED = 1e-6


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is kept of one draw of fresh weights: by site the share of units gone, by layer what its weights are like.

    layers holds the length of each channel's weights, the largest bias (None: it has none), and how evenly they lie.
    """

    shares: Mapping[str, float | None]
    layers: Mapping[str, tuple[Tensor | None, float | None, float | None]]


def drawn(target: Target, profiles: Mapping[str, Profile], layers: Sequence[str]) -> Drawn:
    """A draw, of which the layers named are wanted."""
    modules = {name: target.model.get_submodule(name) for name in layers}
    shares = {name: share(each, saturates(each)) for name, each in profiles.items()}
    return Drawn(shares, {name: _weighed(module) for name, module in modules.items()})


def _weighed(module: nn.Module) -> tuple[Tensor | None, float | None, float | None]:
    bias, weight = getattr(module, "bias", None), getattr(module, "weight", None)
    largest = float(bias.detach().abs().max()) if isinstance(bias, Tensor) else None
    return _lengths(module), largest, _even(weight) if isinstance(weight, Tensor) and weight.dim() > 1 else None


def outliers(x: Tensor) -> tuple[Outliers, Tensor]:
    """The rows of x (n, *shape) that lie 10 times or more as far from the median row as half of the rows do.

    Also which rows (n,). Distances are L2; the median row is by number, of at most 2000 rows spread evenly, of wide
    ones fewer: as many as hold 8 million numbers, 100 at least. Where half of the rows are the median row, up to what
    float32 rounds, nothing can be told from how far apart they lie: its length stands for that distance, and where it
    is 0 the median distance of the rows that differ.
    """
    flat = x.flatten(1)
    some = min(len(flat), _SOME, max(_FEWEST, _NUMBERS // max(flat.shape[1], 1)))
    centre = flat[torch.linspace(0, len(flat) - 1, some).long()].median(0).values
    pieces = torch.split(flat, max(1, min(1024, _NUMBERS // max(flat.shape[1], 1))))
    far = torch.cat([(piece.double() - centre.double()).norm(dim=1) for piece in pieces])
    length = centre.double().norm()
    usual, differ = far.median(), far > _ROUNDED * length
    if not bool(usual > _ROUNDED * length):
        usual = length if bool(length > 0) else far[differ].median() if bool(differ.any()) else length + 1
    found = far >= FACTOR * usual
    return Outliers(len(x), int(found.sum()), float(far.max() / usual), FACTOR), found


def away_from(x: Tensor, found: Tensor) -> Tensor | None:
    """The unit direction (d,) from the outliers of x to its other rows; None where there are none."""
    if not bool(found.any()) or bool(found.all()):
        return None
    flat = x.flatten(1).double()
    step = flat[~found].mean(0) - flat[found].mean(0)
    length: Tensor = step.norm()
    return step / length.clamp(min=1e-12)


def size_of(target: Target, x: Tensor) -> float:
    """The root mean square of what the model is given for x (n, *shape)."""
    pieces = (piece if target.normalization is None else target.normalization(piece) for piece in torch.split(x, 32))
    return math.sqrt(sum(float(piece.double().square().sum()) for piece in pieces) / max(x.numel(), 1))


def evidence(
    profiles: Mapping[str, Profile], fresh: Sequence[Drawn], name: str, inputs: float, away: Tensor | None = None
) -> Gone | None:
    """What is known of the gone units of a site; None for a site whose kind has no such region or with no unit gone.

    profiles and the draws are of the same rows, whose ``size_of`` is ``inputs``. away: see away_from.
    """
    mine, order = profiles[name], list(profiles)
    saturated = saturates(mine)
    lost = _lost(mine, saturated)
    if lost is None or not bool(lost.any()):
        return None
    at, born = order.index(name), [lot for other in fresh if (lot := other.shares.get(name)) is not None]
    feeder = mine.feeder
    return Gone(
        saturated=saturated,
        share=share(mine, saturated) or 0.0,
        born=sum(born) / len(born) if born else None,
        before=share(profiles[order[at - 1]], saturated) if at else None,
        first=at == 0,
        layer="" if feeder is None else feeder.name,
        norms=feeder is not None and feeder.norms,
        inputs=inputs,
        depth=_depth(mine, lost),
        **({} if feeder is None else _weights(mine, feeder, lost, fresh, away)),
    )


def _weights(
    mine: Profile, feeder: Feeder, lost: Tensor, fresh: Sequence[Drawn], away: Tensor | None
) -> dict[str, Any]:
    """What the layer's weights and biases look like beside fresh ones, over the units that are gone."""
    channel = feeder.channels(mine.site.shape)[lost.cpu()]
    others = [draw.layers[feeder.name] for draw in fresh if feeder.name in draw.layers]
    found: dict[str, Any] = {"channels": len(set(feeder.channels(mine.site.shape).tolist()))}
    bias = getattr(feeder.module, "bias", None)
    if isinstance(bias, Tensor) and mine.unbiased is not None:
        own = bias.detach().double().cpu()[channel]
        largest = max((most for _, most, _ in others if most is not None), default=None)
        _, std = mine.moments()
        enough = mine.unbiased.cpu()[lost.cpu()] > ENOUGH * mine.rows
        heavy = own.abs() >= BEYOND * std.cpu()[lost.cpu()]
        if largest is not None:
            heavy &= own.abs() >= BEYOND * largest
        found |= {"biased": float((enough & heavy).double().mean()), "bias": float(own.median()), "largest": largest}
    lengths = _lengths(feeder.module)
    usual = [sizes for sizes, _, _ in others if sizes is not None]
    if lengths is None or not usual:
        return found
    own, fresh_lengths = lengths[channel], torch.cat(usual)
    middle, longest = fresh_lengths.median().clamp(min=1e-12), ROOM * fresh_lengths.max()
    found |= {
        "longer": float((own > longest).double().mean()),
        "unmoved": float(((own <= longest) & (own >= fresh_lengths.min() / ROOM)).double().mean()),
        "scale": float(own.median() / middle),
        "reach": float(fresh_lengths.max() / middle),
    }
    weight = feeder.module.weight
    evens = [even for _, _, even in others if even is not None]
    if evens and isinstance(weight, Tensor):
        found["even"] = _even(weight) / (sum(evens) / len(evens))
    if away is not None and isinstance(weight, Tensor) and weight.dim() == 2 and weight.shape[1] == len(away):
        rows = weight.detach().double().cpu()[channel]
        found["away"] = float((rows @ away.cpu() / rows.norm(dim=1).clamp(min=1e-12)).max())
    return found


def _lost(mine: Profile, saturated: bool) -> Tensor | None:
    """Which units (units,) live on no row, or of those that saturate on fewer than half."""
    if mine.live is None or not mine.finite:
        return None
    return mine.live < mine.rows / 2 if saturated else mine.live == 0


def share(mine: Profile, saturated: bool) -> float | None:
    """The share of units that live on no row; of saturation, the mean share in a tail."""
    if mine.live is None or not mine.finite:
        return None
    if saturated:
        return 1 - float(mine.live.double().mean()) / mine.rows
    return float((mine.live == 0).double().mean())


def saturates(mine: Profile) -> bool:
    """Whether the site's kind saturates at both ends, so that to be gone is to be saturated."""
    return any(name == "saturated" for name, _, _ in regions(mine.site.kind, mine.site.options))


def _depth(mine: Profile, lost: Tensor) -> float | None:
    """How many standard deviations the pre-activations of gone units lie below where they would live, median."""
    ends = mine.ends
    if ends is None or math.isinf(ends[0]):
        return None
    mean, std = mine.moments()
    return float(((ends[0] - mean) / std.clamp(min=1e-12))[lost].median())


def _lengths(module: nn.Module) -> Tensor | None:
    """The L2 length of each channel's weights; of a norm the size of its scale."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2:
        return _scales(weight)
    lengths: Tensor = weight.detach().double().flatten(1).norm(dim=1)
    return lengths.cpu()


def _scales(weight: object) -> Tensor | None:
    return weight.detach().double().abs().cpu() if isinstance(weight, Tensor) and weight.dim() == 1 else None


def _even(weight: Tensor) -> float:
    """The part of a matrix's squared numbers in its largest singular value, by 30 rounds of power iteration."""
    matrix = weight.detach().double().flatten(1).cpu()
    v = torch.linspace(1, 2, matrix.shape[1], dtype=torch.float64)
    for _ in range(30):
        v = matrix.T @ (matrix @ v)
        v = v / v.norm().clamp(min=1e-300)
    return float((matrix @ v).square().sum() / matrix.square().sum().clamp(min=1e-300))
