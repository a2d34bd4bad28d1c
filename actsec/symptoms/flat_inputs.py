"""ACT-A08: images at which the gradient by the input is exactly 0 in float32, or NaN or infinite.

An attack that follows the gradient cannot start there, and the model looks robust: masking, not robustness. Counted for
the cross-entropy and for the margin (the label's logit less the best other) separately, on the first 320 images.

    medium   more than 1 % for the cross-entropy
    high     more than 1 % for the margin too: there is no gradient at all
    high     NaN or infinite on some image, of the loss or of a gradient there or a small step away

The cause, by rule: large logits, where the margin's gradient is not 0 (the softmax rounds to 0 and 1); dead units,
where a whole call is dead on every image; or ``cannot tell``: a step, a rounded input, a site dark on those images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.result import Problem
from actsec.symptoms._seen import Seen, said


@dataclass(frozen=True, slots=True)
class FlatInputs:
    """Nothing to follow."""

    most: float = 0.01

    rule: ClassVar[str] = "ACT-A08"
    title: ClassVar[str] = "The input has a gradient"

    def __call__(self, seen: Seen) -> Iterator[Problem]:
        found = None if seen.vitals is None else seen.vitals.inputs
        if found is None:
            return
        audit = "actsec audit, whose sanity checks tell masking from robustness"
        if found.reason:
            yield said(self, "high", found.reason, f"Attack by score alone: {audit}.", "cannot tell", found.reason)
            return
        if found.not_finite:
            claim = f"the loss or its gradient is NaN or infinite on {found.not_finite} of {found.n} images"
            broken = next((site.name for site in seen.sites if not site.finite), None)
            mend = "See ACT-A00." if broken else f"Look for overflow, and for roots and divisions at 0; then {audit}."
            cause = "values that are not finite" if broken else "cannot tell"
            why = f"{broken} gives values that are not finite" if broken else "every pre-activation is finite"
            yield said(self, "high", claim, mend, cause, why)
        entropy, margin = found.zero_cross_entropy or 0, found.zero_margin or 0
        if entropy <= self.most * found.n:
            return
        claim = f"the gradient is exactly 0 on {entropy} of {found.n} images"
        if margin <= self.most * found.n:
            why = f"that of the margin is on {margin}: the softmax rounds, the logits are large"
            mend = f"Attack the margin (loss=margin), fit a temperature (actsec defend temperature), {audit}."
            yield said(self, "medium", claim, mend, "large logits", why)
            return
        dark = next((site for site in seen.sites if site.permanently_dead == 1), None)
        both = f"that of the margin too, on {margin}"
        if dark is not None:
            why = f"{both}; every unit of {dark.name} is dead on all {seen.n} images"
            yield said(self, "high", claim, "See ACT-A01.", "dead units", why)
        else:
            yield said(self, "high", claim, f"Look for steps and rounding, then {audit}.", "cannot tell", both)
