"""One attack on calibration by itself: what it did to the confidence of its inputs, beside noise at the same eps."""

from __future__ import annotations

from actsec import losses, registry
from actsec.planning import budgets
from actsec.result import Miscalibration
from actsec.search.ledger import Verdicts
from actsec.search.oracle import Oracle, frozen
from actsec.search.referee import attack_target
from actsec.types import Cases, Target, Threat
from actsec.verdict.miscalibrated import Left
from actsec.verdict.miscalibrated import measure as measured

NOISE_DRAWS = 20


def measure(attack: str, under: Threat, target: Target, cases: Cases, verdicts: Verdicts, seed: int) -> Miscalibration:
    """What the verdicts of an attack, in words ``attack``, came to. NOISE_DRAWS + 1 forwards a row for the comparison.

    Raises ModelError for logits that are not finite.
    """
    spec = f"noise(draws={NOISE_DRAWS})"
    noise, repeats = registry.build("attacks", spec), budgets.repeats("standard", target)
    goal, name = losses.goal_of(under, noise, target.threshold), f"{spec}@{under}"
    noised = attack_target(noise, target, cases, goal, seed=seed, name=name, repeats=repeats)
    # Decision logits are shifted so that the largest decides; what the model says is not.
    undo = target.having(threshold=None if target.threshold is None else 1 - target.threshold)
    with frozen(target.model):
        clean = undo.decision_logits(Oracle(target, 0, repeats, seed, "clean").observe(cases.x).logits)

    def left(text: str, found: Verdicts) -> Left:
        arrays = (found.status, undo.decision_logits(found.logits), found.forwards, found.backwards)
        return Left(text, *(array.cpu().numpy() for array in arrays))

    both = left(attack, verdicts), left(spec, noised)
    return measured(under, clean.cpu().numpy(), cases.y.cpu().numpy(), target.threshold, *both, seed)
