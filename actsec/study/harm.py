"""What a training did to a network: units, gradients, and what attacks leave. The network is left as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import actsec
from actsec import losses
from actsec.activations import find
from actsec.activations.regions import regions
from actsec.health import tally
from actsec.search.oracle import frozen
from actsec.search.referee import cases_of
from actsec.study.depth import gradient_norms
from actsec.types import Target

Array = NDArray[Any]
GRADIENT_ATTACK = "pgd(steps=20)"
MARGIN_ATTACK = "pgd(steps=20, loss=margin)"
TRANSFER = "transfer"
_LEAST = 1e-30
"""What a ratio of 0 counts as in logarithms."""


@dataclass(frozen=True, slots=True)
class Harm:
    """What was measured of one network.

    silenced: by hidden layer, the share of units dead on every clean training row (relu and its kin) or the mean share
    saturated (sigmoid, tanh); None for units that can do neither, and where a value is not finite: NaN is neither dead
    nor alive. ratio is G, the first layer's gradient norm over the last's; None where the last has none.
    zero_cross_entropy and zero_margin: shares of test rows whose input gradient is exactly 0 in float32. rows holds
    what was judged row by row, 1 where correct (n,): clean, and after each attack. broke is why training ended early.
    """

    silenced: tuple[float | None, ...] = ()
    regions: tuple[str, ...] = ()
    ratio: float | None = None
    zero_cross_entropy: float | None = None
    zero_margin: float | None = None
    finite: bool = False
    rows: Mapping[str, Array] = field(default_factory=dict)
    broke: str = ""

    @property
    def accuracy(self) -> float | None:
        """On the whole test split."""
        return None if "clean" not in self.rows else float(self.rows["clean"].mean())

    @property
    def silent(self) -> float | None:
        """The mean of silenced over the hidden layers."""
        known = [share for share in self.silenced if share is not None]
        return float(np.mean(known)) if known and len(known) == len(self.silenced) else None

    @property
    def flow(self) -> float | None:
        """The decimal logarithm of G."""
        return None if self.ratio is None else float(np.log10(np.clip(self.ratio, _LEAST, 1 / _LEAST)))


def harm(target: Target, clean: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Harm:
    """Units and flow on clean training rows, accuracy and gradients on test rows; each x (n, *shape) and y (n,).

    Cost: two forwards and a backward a training row, one and two a test row.
    """
    sites = tally.site_health(target, *clean)
    finite = all(site["finite"] for site in sites)
    example = clean[0][:2]
    with frozen(target.model):
        found = find(target.model, target.normalization(example) if target.normalization else example)
    given = {site.name: site.options for site in found}
    # a leak of 0 is a relu, a hardtanh from 0 dies where the usual one saturates
    kinds = [next((region for region, _, _ in regions(s["kind"], given.get(s["name"], ()))), "") for s in sites]
    with torch.no_grad():
        logits = target.logits(test[0])
    ok = bool(torch.isfinite(logits).all())
    zero = _zero_gradients(target, *test) if ok else (None, None)
    return Harm(
        silenced=tuple(_silenced(site, kind) for site, kind in zip(sites, kinds, strict=True)),
        regions=tuple(kinds),
        ratio=ratio(target.model, *clean),
        zero_cross_entropy=zero[0],
        zero_margin=zero[1],
        finite=finite and ok,
        rows={"clean": ((logits.argmax(1) == test[1]) & torch.isfinite(logits).all(1)).double().numpy()},
    )


def ratio(model: nn.Module, x: Tensor, y: Tensor, batch: int = 256) -> float | None:
    """G on the first rows: None where it is not finite, or both gradients are 0."""
    norms = gradient_norms(model, x[:batch], y[:batch])
    model.eval()
    if not np.isfinite(norms).all() or norms[-1] == 0:
        return None
    return norms[0] / norms[-1]


def attacked(
    target: Target, test: tuple[Tensor, Tensor], source: Target, eps: float, queries: int, seed: int
) -> dict[str, Array]:
    """Rows still correct (n,) after a gradient attack, the same on the margin, one by scores alone, and transfer.

    All at L-inf eps on the same rows; source is the network that transfer crafts on.
    """
    x, y = test
    with torch.no_grad():
        before = (target.logits(x).argmax(1) == y).numpy()

    def left(spec: str, given: Target | None = None) -> Array:
        found = actsec.attack(target, x, y, spec, eps=eps, seed=seed, source=given)
        return (before & ~found.success).astype(np.float64)

    rows = {"pgd": left(GRADIENT_ATTACK), "margin": left(MARGIN_ATTACK), "square": left(f"square(queries={queries})")}
    return rows | {"transfer": left(TRANSFER, source)}


def _silenced(site: Mapping[str, Any], kind: str) -> float | None:
    share = {"dead": site["permanently_dead"], "saturated": site["saturated"]}.get(kind)
    return share if site["finite"] else None


def _zero_gradients(target: Target, x: Tensor, y: Tensor) -> tuple[float | None, float | None]:
    """The shares of rows whose gradient is exactly 0: of the cross-entropy, and of the margin."""
    with frozen(target.model), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_(True)
        logits = target.logits(leaf)
        margin = losses.margin(logits, cases_of(target, x, y, "linf", None))
        found = [
            torch.autograd.grad(each.sum(), leaf, retain_graph=True)[0].flatten(1)
            for each in (F.cross_entropy(logits, y, reduction="none"), margin)
        ]
    shares = [float((g == 0).all(1).double().mean()) if bool(torch.isfinite(g).all()) else None for g in found]
    return shares[0], shares[1]
