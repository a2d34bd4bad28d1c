"""Certified radii of randomised smoothing: what no attack in L2 can change, up to a stated probability of error.

CERTIFY of Cohen, Rosenfeld & Kolter (2019, section 3.2.2): n0 noisy copies of an input name a class A, n fresh ones
bound its probability from below by p (Clopper & Pearson 1934, one-sided, level 1 - alpha). Where p > 1/2 the smoothed
classifier answers A at every point within std * Phi^-1(p) of the input; elsewhere it abstains. Each certificate is
wrong with probability at most alpha, over its own draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from actsec import registry
from actsec.search.oracle import frozen
from actsec.search.referee import attack_target, cases_of
from actsec.spec import Spec
from actsec.types import JUDGE_DRAWS, Target

COPIES = 256
"""Noisy copies of one input in a call of the model."""


@runtime_checkable
class Voter(Protocol):
    """A module whose noisy copies vote: see actsec.defenses.smoothing."""

    std: float

    def vote(self, x: Tensor) -> Tensor:
        """The class (m,) of one fresh noisy copy of each input x (m, *shape), in the units of the module's input."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is certified of m inputs.

    label (m,) int64 is the class, -1 where it abstains; votes (m,) int64 the draws of n that agreed with the class
    named first; lower (m,) the bound on its probability and radius (m,) the L2 radius, 0 where it abstains, float64.
    """

    label: Tensor
    votes: Tensor
    lower: Tensor
    radius: Tensor


def voter_of(target: Target) -> Voter | None:
    """The voting module that decides what the target answers; None where there is none, or what follows may overrule.

    What follows may be a module, a threshold or a detector that refuses to answer. Modules with ``keeps_decision``
    (temperature scaling) leave the largest logit where it is.
    """
    module = target.model
    while getattr(module, "keeps_decision", False):
        module = module.model  # type: ignore[assignment]  # such a module wraps another
    alone = target.threshold is None and target.rejects is None
    return module if isinstance(module, Voter) and alone else None


def lower_bound(k: int, n: int, alpha: float) -> float:
    """The largest p that k of n successes rule out from below at level 1 - alpha, one-sided; 0 for k = 0."""
    from scipy.stats import beta

    return float(beta.ppf(alpha, k, n - k + 1)) if k else 0.0


def radius_of(lower: float, std: float) -> float:
    """The certified L2 radius for a class of probability at least ``lower``; 0 up to 1/2."""
    from scipy.stats import norm

    return std * float(norm.ppf(lower)) if lower > 0.5 else 0.0


def certify(
    target: Target, x: Tensor, ids: Tensor, *, n0: int = 100, n: int = 10_000, alpha: float = 0.001, seed: int = 0
) -> Certificate:
    """CERTIFY of each input x (m, *shape), input units; ids (m,) key the draws, so that no row depends on another.

    Costs (n0 + n) forwards a row. The model and the global random state are left as they were. Use a target for which
    ``voter_of`` finds a voter.
    """
    named = votes(target, x, ids, n0, seed, "select").argmax(1)
    agreeing = votes(target, x, ids, n, seed, "estimate").gather(1, named[:, None]).squeeze(1)
    lower = torch.tensor([lower_bound(k, n, alpha) for k in agreeing.tolist()], dtype=torch.float64)
    voter = voter_of(target)
    std = 0.0 if voter is None else voter.std
    radius = torch.tensor([radius_of(p, std) for p in lower.tolist()], dtype=torch.float64)
    return Certificate(torch.where(lower > 0.5, named, -1), agreeing, lower, radius)


def votes(target: Target, x: Tensor, ids: Tensor, n: int, seed: int, name: str) -> Tensor:
    """How many of n noisy copies of each input are given each class: int64 (m, classes), on the CPU.

    The same name and seed give the same noise to a row of the same id. Raises TypeError for a target without a voter.
    """
    voter = voter_of(target)
    if voter is None:
        raise TypeError(f"{target.name} answers by no vote of noisy copies")
    counts = torch.zeros(len(x), len(target.classes), dtype=torch.int64)
    with frozen(target.model), torch.no_grad():
        for row, key in enumerate(ids.tolist()):
            one = x[row : row + 1]
            own = one if target.normalization is None else target.normalization(one)
            for first in range(0, n, COPIES):
                copies = min(COPIES, n - first)
                digest = hashlib.sha256(f"{seed}\0{name}\0{key}\0{first}".encode()).digest()
                torch.manual_seed(int.from_bytes(digest[:7], "big"))
                said = voter.vote(own.expand(copies, *own.shape[1:])).cpu()
                counts[row] += torch.bincount(said, minlength=counts.shape[1])
    return counts


def left(
    target: Target,
    x: Tensor,
    y: Tensor,
    ids: Tensor,
    radii: Sequence[float],
    *,
    attack: Spec,
    n: int,
    seed: int = 0,
) -> Tensor:
    """Which inputs are still called y (m,) after an L2 attack at each radius: bool (len(radii), m).

    The attack sees the target as every attack does, averaging over draws; its best candidate is judged by the vote of n
    fresh copies, which is what the certificate speaks of. What fell at a smaller radius has fallen at a larger one.
    """
    built, held = registry.build("attacks", attack), []
    repeats = -(-JUDGE_DRAWS // target.draws)
    still = votes(target, x, ids, n, seed, "judge clean").argmax(1) == y.cpu()
    for eps in sorted(radii):
        name = f"certificate {attack} {eps!r}"
        cases = cases_of(target, x, y, "l2", eps, ids)
        found = attack_target(built, target, cases, seed=seed, name=name, repeats=repeats).x
        still = still & (votes(target, found, ids, n, seed, name).argmax(1) == y.cpu())
        held.append(still)
    return torch.stack(held)
