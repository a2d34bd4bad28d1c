"""What forcing units did to the model: killed units, labels, logits, confidence, gradients; and to its swapped twins.

Two sets of inputs, clean and forced, are compared row by row on the target itself. "Killed" stands for "forced into the
region" (saturated, numerically zero) throughout. Values are finite floats, None where a number does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actsec.errors import ModelError
from actsec.forcing import units
from actsec.forcing.aim import Chosen, Ranked, depth
from actsec.health import tally
from actsec.losses import CrossEntropy, best_other
from actsec.search.oracle import Oracle, frozen
from actsec.search.referee import cases_of
from actsec.types import Cases, Region, Target


@dataclass(frozen=True, slots=True)
class SiteForced:
    """One site: fractions of its units, means over inputs; permanently dead is on every input.

    units, and what all fractions are of, leaves out constant units (see tally.kill_profile).
    critical_killed is the share of its chosen units, alive before, that were killed.
    """

    name: str
    kind: str
    units: int
    dead_before: float
    dead_after: float
    killed: float
    revived: float
    permanently_dead_before: float
    permanently_dead_after: float
    critical_killed: float | None


@dataclass(frozen=True, slots=True)
class Look:
    """What the model says of one set of inputs, means over n unless it is said otherwise.

    correct: share; max_logit; margin: label's decision logit less the best other; confidence: largest probability;
    logit_spread: standard deviation of each logit over the inputs, mean over classes (0: the output is a constant);
    active: share of units that are not gone; gradient: median L2 norm of the cross-entropy's gradient by the input;
    zero_gradient: share of inputs where that gradient is exactly 0.
    """

    correct: float
    max_logit: float
    margin: float
    confidence: float
    logit_spread: float
    active: float
    gradient: float
    zero_gradient: float


@dataclass(frozen=True, slots=True)
class Consequence:
    """Clean inputs beside forced ones.

    net: rise of the gone fraction, killed minus revived, of all units; killed_of_active: of the units alive before;
    critical_killed: of the chosen ones alive before, None without a choice; blackout: share of inputs at which a whole
    site went dark that was not before; changed of right: labels changed among inputs that were right before;
    gradient_ratio: median over inputs of the gradient norm after by before, where that was not 0.
    """

    n: int
    net: float
    killed_of_active: float
    critical_killed: float | None
    blackout: float
    changed: int
    right: int
    before: Look
    after: Look
    gradient_ratio: float | None
    sites: tuple[SiteForced, ...]

    @property
    def sentence(self) -> str:
        """Kills and label changes, never one without the other."""
        return (
            f"killed {self.killed_of_active:.1%} of active units (net {self.net:+.3f} of all units); "
            f"the label changed on {self.changed} of {self.right} images"
        )


def compare(
    target: Target,
    before: Tensor,
    after: Tensor,
    y: Tensor,
    region: Region = "dead",
    chosen: Chosen | None = None,
    ids: Tensor | None = None,
    batch: int = 128,
) -> Consequence:
    """Compare clean inputs and forced ones, both (n, *shape), with labels y (n,). 6 forwards and 2 backwards a row.

    chosen, with the rows' ids (n,; by default 0 to n - 1), are the critical units (units.critical). The target is
    bit-equal afterwards. Raises ModelError where no site has the region or a value is not finite.
    """
    profile = tally.kill_profile(target, before, after, batch, region)
    if profile.net is None or profile.killed_of_active is None:
        raise ModelError(profile.reason, "Look at the sites with actsec diagnose.")
    rows = torch.arange(len(y), device=y.device) if ids is None else ids
    with frozen(target.model):
        oracle = Oracle(target, batch)
        first, clean_gradient, clean_right = _look(oracle, before, y, region)
        second, gradient, right = _look(oracle, after, y, region)
        gone = _Gone(oracle, region, chosen, tally.moving(oracle, before, region))
        for piece in torch.split(torch.arange(len(y), device=y.device), oracle.rows()):
            gone.add(before[piece], after[piece], y[piece], rows[piece])
    steep = clean_gradient > 0
    ratio = float((gradient[steep] / clean_gradient[steep]).median()) if bool(steep.any()) else None
    return Consequence(
        n=len(y),
        net=float(profile.net.mean()),
        killed_of_active=float(profile.killed_of_active.mean()),
        critical_killed=gone.share_of_chosen(),
        blackout=gone.dark / max(len(y), 1),
        changed=int((clean_right & ~right).sum()),
        right=int(clean_right.sum()),
        before=first,
        after=second,
        gradient_ratio=ratio,
        sites=tuple(SiteForced(**site, **gone.of(site["name"])) for site in profile.sites),
    )


def per_row(
    target: Target, cases: Cases, after: Tensor, region: Region = "dead", ranked: Ranked | None = None, batch: int = 128
) -> dict[str, NDArray[np.float64]]:
    """What a report keeps of every row (n,): margins and gradient norms before and after, and what went dark.

    Keys: margin_before, margin_after, gradient_before, gradient_after; blackout: 1 where a whole site went dark;
    critical_killed: the share of the row's critical units, alive before, that were killed, 0 where none was alive. They
    are those of ``ranked``, by gradient x activation and the first quarter of every site without one; the key is left
    out for units that do not die. 3 forwards and 3 backwards a row, more for a ranking by ablation.
    """
    before, y = cases.x, cases.y
    chosen = units.critical(target, cases, ranked or Ranked("gradient", 0.25, region)) if region == "dead" else None
    found: dict[str, list[Tensor]] = {}
    with frozen(target.model):
        oracle = Oracle(target, batch)
        for piece in torch.split(torch.arange(len(y), device=y.device), oracle.rows()):
            gone, masks = [], []
            for name, x in (("before", before[piece]), ("after", after[piece])):
                own = cases_of(target, x, y[piece], "linf", None, cases.id[piece])
                seen, _, gradient = oracle.differentiate(x, own, CrossEntropy(), True)
                logits = seen.logits.double()
                lead = logits.gather(1, y[piece][:, None]).squeeze(1) - best_other(logits, y[piece])
                found.setdefault(f"margin_{name}", []).append(lead)
                found.setdefault(f"gradient_{name}", []).append(gradient.flatten(1).double().norm(dim=1))
                kept = [(site, inside) for site in seen.sites if (inside := depth(site, region)) is not None]
                gone.append([inside >= 0 for _, inside in kept])
                masks = [chosen.at(site, own) for site, _ in kept] if chosen is not None else []
            dark = [now.all(1) & ~was.all(1) for was, now in zip(*gone, strict=True)]
            found.setdefault("blackout", []).append(torch.stack(dark).any(0).double())
            if chosen is not None:
                alive = [mask & ~was for mask, was in zip(masks, gone[0], strict=True)]
                lost = sum((mask & now).sum(1) for mask, now in zip(alive, gone[1], strict=True))
                count = sum(mask.sum(1) for mask in alive)
                found.setdefault("critical_killed", []).append(lost / torch.as_tensor(count).clamp_min(1).double())
    return {name: torch.cat(parts).cpu().numpy() for name, parts in found.items()}


@dataclass(frozen=True, slots=True)
class Passed:
    """What forced inputs did on another model: labels changed of those it had right, and its own killed units.

    net is None where none of its units can be gone in this way.
    """

    name: str
    changed: int
    right: int
    net: float | None


def transferred(
    twins: dict[str, Target], before: Tensor, after: Tensor, y: Tensor, region: Region = "dead"
) -> tuple[Passed, ...]:
    """What the forced inputs (n, *shape) of one model do on others, such as its swapped twins. 4 forwards a row."""
    found = []
    for name, twin in twins.items():
        with frozen(twin.model):
            oracle = Oracle(twin)
            clean, forced = (oracle.observe(x).logits.argmax(1) for x in (before, after))
        right = clean == y
        net = tally.kill_profile(twin, before, after, region=region).net
        changed = int((right & (forced != y)).sum())
        found.append(Passed(name, changed, int(right.sum()), None if net is None else float(net.mean())))
    return tuple(found)


def _look(oracle: Oracle, x: Tensor, y: Tensor, region: Region) -> tuple[Look, Tensor, Tensor]:
    """What the model says of x; with each row's gradient norm (n,) float64 and whether it is right (n,)."""
    answers, steep, active, count = [], [], 0, 0
    for piece in torch.split(torch.arange(len(y), device=y.device), oracle.rows()):
        cases = cases_of(oracle.target, x[piece], y[piece], "linf", None)
        seen, _, gradient = oracle.differentiate(x[piece], cases, CrossEntropy(), True)
        answers.append(seen.logits.double())
        steep.append(gradient.flatten(1).double().norm(dim=1))
        inner = [inside for site in seen.sites if (inside := depth(site, region)) is not None]
        active += sum(int((inside < 0).sum()) for inside in inner)
        count += sum(inside.numel() for inside in inner)
    logits, norms = torch.cat(answers), torch.cat(steep)
    right = logits.argmax(1) == y
    look = Look(
        correct=float(right.double().mean()),
        max_logit=float(logits.amax(1).mean()),
        margin=float((logits.gather(1, y[:, None]).squeeze(1) - best_other(logits, y)).mean()),
        confidence=float(logits.softmax(1).amax(1).mean()),
        logit_spread=float(logits.std(0, unbiased=False).mean()),
        active=active / max(count, 1),
        gradient=float(norms.median()),
        zero_gradient=float((norms == 0).double().mean()),
    )
    return look, norms, right


class _Gone:
    """Units gone on every input so far, chosen ones killed, and rows with a dark site, over chunks."""

    def __init__(self, oracle: Oracle, region: Region, chosen: Chosen | None, moving: dict[str, Tensor]) -> None:
        self.oracle, self.region, self.chosen, self.moving = oracle, region, chosen, moving
        self.always: dict[str, tuple[Tensor, Tensor]] = {}
        self.killed: dict[str, tuple[int, int]] = {}
        self.dark = 0

    def add(self, before: Tensor, after: Tensor, y: Tensor, ids: Tensor) -> None:
        """Count a chunk of rows."""
        cases = cases_of(self.oracle.target, before, y, "linf", None, ids)
        dark = torch.zeros(len(y), dtype=torch.bool, device=y.device)
        pairs = zip(self.oracle.observe(before, True).sites, self.oracle.observe(after, True).sites, strict=True)
        for one, two in pairs:
            first, second = depth(one, self.region), depth(two, self.region)
            if first is None or second is None:
                continue
            was, now = first >= 0, second >= 0
            dark |= now.all(1) & ~was.all(1)
            known = self.always.get(one.name, (was[0], now[0]))
            self.always[one.name] = (known[0] & was.all(0), known[1] & now.all(0))
            if self.chosen is not None:
                mask = self.chosen.at(one, cases) & ~was
                lost, alive = self.killed.get(one.name, (0, 0))
                self.killed[one.name] = (lost + int((mask & now).sum()), alive + int(mask.sum()))
        self.dark += int(dark.sum())

    def share_of_chosen(self) -> float | None:
        """Chosen units killed, of those alive before, over all sites."""
        alive = sum(count for _, count in self.killed.values())
        return sum(lost for lost, _ in self.killed.values()) / alive if alive else None

    def of(self, name: str) -> dict[str, Any]:
        """The fields of SiteForced that a profile lacks."""
        before, after = (always[self.moving[name]] for always in self.always[name])
        lost, alive = self.killed.get(name, (0, 0))
        return {
            "permanently_dead_before": float(before.double().mean().nan_to_num(0.0)),
            "permanently_dead_after": float(after.double().mean().nan_to_num(0.0)),
            "critical_killed": lost / alive if alive else None,
        }
