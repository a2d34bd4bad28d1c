"""One attack at many sizes: who is fooled at which eps.

    found = actsec.curve(target, x, y, "fgsm", eps=[2/255, 4/255, 8/255])

The same gradient serves every eps of FGSM; other attacks are run once for each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actsec import attacked, registry
from actsec.errors import BadOption
from actsec.result import Share
from actsec.search.ledger import ALREADY_WRONG
from actsec.spec import Spec, show
from actsec.types import SLACK, Ask, Attack, Norm, Reply, Target, Threat
from actsec.verdict import statistics


@dataclass(frozen=True, slots=True)
class Curve:
    """What one attack achieved on n examples at each eps, in the order given.

    success (eps, n) bool: right before, wrong after; still_correct: for each eps the share classified correctly after
    this attack alone; smallest (n,) float64: the least of these eps that worked, 0 where the untouched input is wrong,
    infinity for none; sentence: the same in words.
    """

    eps: tuple[float, ...]
    success: attacked.Array
    still_correct: tuple[Share, ...]
    smallest: attacked.Array
    sentence: str


def curve(
    target: Target,
    x: attacked.Images,
    y: attacked.Images,
    attack: str | Spec | Attack[Any] = "fgsm",
    *,
    eps: Sequence[float],
    norm: Norm | None = None,
    seed: int = 0,
) -> Curve:
    """Run one attack on examples x (n, *shape) in input units and labels y (n,) at each eps, in the attack's own norm.

    Equal for each eps to ``actsec.attack`` at it. Cost with FGSM: the clean pass, 1 gradient, a forward for each eps
    and the judging of what was found; with other attacks, and with models that draw, as many runs as there are eps.
    Raises BadOption and what ``attack`` raises.
    """
    sizes = tuple(float(value) for value in eps)
    if not sizes or not all(0 < value < float("inf") for value in sizes):
        raise BadOption(f"eps={list(eps)}", "Give at least one number above 0, in input units.")
    made: Any = registry.build("attacks", attack) if isinstance(attack, (str, Spec)) else attack
    norms: tuple[Norm, ...] = made.norms
    chosen = norms[0] if norm is None else norm
    options = {field.name for field in dataclasses.fields(made)}
    if "sizes" in options and not target.stochastic:
        wrong, success = _at_once(target, x, y, dataclasses.replace(made, sizes=sizes), sizes, chosen, seed)
    else:
        runs = [attacked.attack(target, x, y, made, threat=Threat(chosen, value), seed=seed) for value in sizes]
        wrong = _wrong(runs[0])
        success = np.stack([run.success for run in runs])
    found = np.where(success, np.array(sizes)[:, None], np.inf).min(0)
    still = tuple(statistics.share_of(~row & ~wrong) for row in success)
    said = ", ".join(f"{share.k} at {show(value)}" for value, share in zip(sizes, still, strict=True))
    sentence = f"{len(wrong)} tested, {int((~wrong).sum())} correct before; still correct in {chosen}: {said}"
    return Curve(sizes, success, still, np.where(wrong, 0.0, found), sentence)


def _at_once(
    target: Target, x: attacked.Images, y: attacked.Images, made: Any, sizes: tuple[float, ...], norm: Norm, seed: int
) -> tuple[attacked.Array, attacked.Array]:
    """Rows that were wrong untouched (n,), and the successes (eps, n), from one run that tries every size."""
    limit = torch.tensor(sizes, dtype=torch.float64) * (1 + SLACK)
    success = np.zeros((len(sizes), len(y)), bool)

    def tabulate(index: Tensor, ask: Ask, reply: Reply) -> None:
        if ask.loss is None:
            works = reply.success & (reply.size <= limit.to(reply.size.device))
            success[:, index.cpu().numpy()] = works.cpu().numpy().T

    outcome = attacked.attack(target, x, y, made, threat=Threat(norm), seed=seed, note=tabulate)
    return _wrong(outcome), success


def _wrong(outcome: attacked.Attacked) -> attacked.Array:
    """Rows (n,) that were wrong untouched."""
    wrong: attacked.Array = np.asarray(outcome.verdicts.status.cpu().numpy() == ALREADY_WRONG)
    return wrong
