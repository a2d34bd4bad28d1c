"""The label of a fix, by rule, from the numbers of one comparison.

The rule, in this order, on robust accuracy at the first threat. A change is *detected* when its 95 % interval on the
half of the images that the choice did not see excludes 0 and so does its p, corrected for how many fixes were compared
(Holm); a *gain* must show on the half that chooses too.

looks better, is masking   the checks void its number, here or at another threat, and it looks like a gain; or a
                           calibration fix that changed no decision seems to gain, which it cannot
not checked                a gain, and something that could refute it was not done: an essential check, an attack that
                           failed on it alone or has not finished, or images enough
calibration only           a calibration fix whose ECE falls
stability only             a fix that is not for robustness gains, or trained and has fewer dead units: no robustness is
                           credited to it
recommended                a gain, and at most half of it is lost again: in clean accuracy, which is not halved, and
                           at any other threat, in robust accuracy or as a share of the smallest change
costs more than it gives   a gain that costs more, or a detected loss without one, at another threat too
no detectable effect       what is left

A fix that leaves half of the clean accuracy or less says that first, whatever its label; one that costs more than it
gives begins with what it costs, and a recommended one with what it loses at another threat.
"""

from __future__ import annotations

from dataclasses import dataclass

from actsec.result import AdviceLabel, Comparison
from actsec.verdict import statistics

COST_LIMIT = 0.5
"""A fix that costs more than this share of its gain in robust accuracy is said to cost too much."""
HALF = 0.5
"""A fix that leaves at most this share of the clean accuracy says so before anything else."""
LEVEL = 1 - statistics.LEVEL
FEWER_DEAD = 0.01
"""Dead units fall by at least this share of all: hundreds of images make also the least change detectable."""
NOTICED, LARGE = 0.02, 0.1
"""Falls of the smallest change, as shares of it, below which searches differ by luck; and that count without a gain."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the rule reads of one fix. p and p_clean are corrected for the ``fixes`` compared.

    kinds are those of its defenses; chosen is the change of robust accuracy on the half that chooses, chosen_low the
    low end of its interval; robust and clean are on the other half; changed counts untouched images decided otherwise,
    trained says that fitting learnt from data.
    void says why the robust number is not held, empty where it is; unchecked what could refute it and was not done;
    inflated that the audited model's own number is void, which is then too high: a gain over it stands, a loss does
    not. refused is the share of untouched inputs that its detector refuses beyond the audited model's.
    """

    name: str
    kinds: frozenset[str]
    chosen: float
    chosen_low: float
    robust: Comparison
    clean: Comparison
    p: float
    p_clean: float
    fixes: int
    changed: int
    trained: bool = True
    void: str = ""
    unchecked: str = ""
    refused: float = 0.0
    inflated: bool = False
    ece: Comparison | None = None
    dead: Comparison | None = None
    besides: tuple[Comparison, ...] = ()
    """Everything else that was compared."""

    @property
    def gained(self) -> bool:
        """Robust accuracy rises on both halves, detectably on the one that did not choose."""
        return self.chosen > 0 and self.robust.low > 0 and self.p < LEVEL and not self.void

    @property
    def lost(self) -> bool:
        """Robust or clean accuracy falls detectably, or another threat shows a loss beyond luck and search."""
        robust = self.robust.high < 0 and self.p < LEVEL and not self.inflated
        far = any(p_of(c) * self.fixes < LEVEL if c.p is not None else _fallen(c) >= LARGE for c in self.elsewhere)
        return robust or far or (self.clean.high < 0 and self.p_clean < LEVEL)

    @property
    def elsewhere(self) -> tuple[Comparison, ...]:
        """Losses at other threats, the first of them first."""
        worse = [c for c in self.besides if c.verdict == "worse"]
        sizes = (c for c in worse if c.metric.startswith("smallest_change@") and _fallen(c) >= NOTICED)
        return (*(c for c in worse if c.metric.startswith("robust_accuracy@")), *sizes)

    @property
    def dear(self) -> bool:
        """Clean accuracy falls by too much beside the gain."""
        return -self.clean.difference > COST_LIMIT * self.robust.difference

    @property
    def trades(self) -> bool:
        """Another threat loses too much beside the gain."""
        lost = (_fallen(c) if sized(c) else -c.difference for c in self.elsewhere)
        return max(lost, default=0.0) > COST_LIMIT * self.robust.difference

    @property
    def halved(self) -> bool:
        """Half of the clean accuracy is gone, or more."""
        return self.clean.before > 0 and self.clean.after <= HALF * self.clean.before


def label_of(seen: Seen) -> AdviceLabel:
    """The label of a fix, by the rule at the top of this file."""
    calibrates = seen.kinds == {"calibration"}
    if (seen.void and seen.chosen_low > 0) or (calibrates and seen.gained and not seen.changed):
        return "looks better, is masking"
    credited = "robustness" in seen.kinds
    if seen.unchecked and seen.gained:
        return "not checked"
    if credited and seen.gained:
        return "costs more than it gives" if seen.halved or seen.dear or seen.trades else "recommended"
    worse = calibrates and seen.ece is not None and seen.ece.verdict == "worse"
    if seen.lost or worse:
        return "costs more than it gives"
    if calibrates:
        return "calibration only" if seen.ece and seen.ece.verdict == "better" else "no detectable effect"
    # A swap changes by definition which units can die: that is no effect of it until weights are trained.
    healthier = seen.trained and seen.dead is not None and seen.dead.verdict == "better"
    healthier = healthier and seen.dead is not None and -seen.dead.difference >= FEWER_DEAD
    return "stability only" if not credited and (healthier or seen.gained) else "no detectable effect"


def sized(c: Comparison) -> bool:
    """Whether a number is no share."""
    return c.metric.startswith(("smallest_change@", "ece"))


def _fallen(c: Comparison) -> float:
    """By what share of itself a number fell."""
    return -c.difference / c.before if c.before > 0 else 0.0


def p_of(comparison: Comparison) -> float:
    """The p of a comparison, 1 where there is no test."""
    return 1.0 if comparison.p is None else comparison.p
