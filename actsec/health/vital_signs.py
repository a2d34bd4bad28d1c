"""Everything a checkup measures beyond the health of sites, gathered: units, gradients, fresh weights, causes.

Cost, in passes of one image: a forward of every image, then on the first 320 two forwards and three backwards by the
input and one of each by the weights, and on the first 128 a forward of the model and, for each of 5 draws of fresh
weights, two forwards and one backward (three forwards where there are batch norms). Of a large network, such as a
ResNet-50 at 224 pixels, 32 and 16 in place of 320 and 128.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from actsec.data import Dataset
from actsec.forcing import unit_evidence
from actsec.forcing.unit_evidence import Drawn
from actsec.health import flow
from actsec.health.flow import Gradients
from actsec.health.fresh import fresh, why_not
from actsec.health.profiles import Profile, profile
from actsec.health.vitals import Vitals
from actsec.types import Target
from actsec.verdict.activity import DEAD, SATURATED
from actsec.verdict.causes import cause

FRESH, DRAWS, SLOPES = 128, 5, 320
"""Images that fresh weights see, how often they are drawn, and images whose gradient by the input is taken."""
LARGE, LARGE_FRESH, LARGE_SLOPES = 32 << 20, 16, 32
"""A network is large where a backward keeps more bytes of one image; then fewer images are looked at in these ways."""


def vital_signs(
    target: Target,
    x: Tensor,
    y: Tensor,
    trained: Gradients,
    train: Dataset | None = None,
    seed: int = 0,
    *,
    large: bool = False,
) -> Vitals:
    """The vitals of a target on x (n, *shape), y (n,); trained is its ``flow.gradients``. The model stays as it is.

    large: fresh weights see LARGE_FRESH images, and the gradient by the input is taken of LARGE_SLOPES.
    """
    many, slopes = (LARGE_FRESH, LARGE_SLOPES) if large else (FRESH, SLOPES)
    with counting(target.model) as passes:
        whole, first, labels = profile(target, x), x[:many], y[:many]
        sites = tuple(each.site for each in whole.values())
        mine = whole if len(x) <= many else profile(target, first, sites)
        reason = why_not(target.model)
        wanted = [each.feeder.name for each in whole.values() if each.feeder is not None and _stands_out(each)]
        drawn: list[Drawn] = []
        flows: list[Gradients] = []
        for draw in range(0 if reason else DRAWS):
            other = fresh(target, first, seed + draw)
            drawn.append(unit_evidence.drawn(other, profile(other, first, sites, bare=True), wanted))
            flows.append(flow.gradients(other, first, labels))
            del other
        inputs = flow.input_gradients(target, x[:slopes], y[:slopes], seed)
    size = unit_evidence.size_of(target, first)
    learned = None if train is None else torch.from_numpy(train.whole())
    found = None if learned is None else unit_evidence.outliers(learned)
    away = None if found is None or learned is None else unit_evidence.away_from(learned, found[1])
    units = []
    for name, each in whole.items():
        seen = unit_evidence.evidence(mine, drawn, name, size, away)
        told = each.units()
        if seen is not None:
            why = cause(seen, None if found is None else found[0]) if _stands_out(each) else None
            told = dataclasses.replace(told, gone=seen.share, born=seen.born, cause=why)
        units.append(told)
    return Vitals(
        units=tuple(units),
        flow=flow.flow(trained, flows, reason),
        inputs=inputs,
        train=None if found is None else found[0],
        test=unit_evidence.outliers(x.cpu())[0],
        forwards=passes[0],
        backwards=3 * inputs.n * (not inputs.reason) + len(flows) * len(first),
    )


@contextmanager
def counting(model: nn.Module) -> Iterator[list[int]]:
    """How many rows go through a model, and through copies made of it, while the block lasts: one number in a list."""
    passed = [0]

    def note(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        passed[0] += len(inputs[0]) if inputs and isinstance(inputs[0], Tensor) else 0

    handle = model.register_forward_pre_hook(note)
    try:
        yield passed
    finally:
        handle.remove()


def _stands_out(each: Profile) -> bool:
    """Whether a finding will ask why."""
    saturated = unit_evidence.saturates(each)
    return (unit_evidence.share(each, saturated) or 0.0) > (SATURATED if saturated else DEAD)
