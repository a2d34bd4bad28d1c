"""ACT-A01: units of an activation call that are dead on every image.

A unit is one number of the pre-activation; dead, where the activation's output and slope are exactly 0 (relu below 0,
hardswish below -3). Being off on one image is how such activations work: what counts is off on all of them.

    medium   more than a quarter of a call's units are dead on every image watched
    high     all units of some call are: what comes after is a constant, the decision does not depend on the input

The cause is decided by rule from weights and biases beside freshly drawn ones, the sites before, and outliers in the
training data where that is given (--train): dead from birth, initialisation, bias shift, learning rate, outliers in the
training data, sites before, or ``cannot tell``. It is that of the first site over the limit: later ones may follow from
it. Fresh weights come from each layer's reset_parameters: a model initialised in another way has other odds.

What it cannot know: units dead on these images may wake on others; weight decay shortens the weights of a dead unit,
and with them the trace of what killed it; poison inside the range of the data leaves no outlier.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from actsec.result import Problem
from actsec.symptoms._seen import Seen, others, said


@dataclass(frozen=True, slots=True)
class DeadUnits:
    """Units that nothing wakes."""

    most: float = 0.25

    rule: ClassVar[str] = "ACT-A01"
    title: ClassVar[str] = "Units live on some image"

    def __call__(self, seen: Seen) -> Iterator[Problem]:
        dead = [site for site in seen.sites if (site.permanently_dead or 0) > self.most]
        if not dead:
            return
        worst = max(dead, key=lambda site: site.permanently_dead or 0)
        share = f"{worst.permanently_dead or 0:.0%} of the units of site {worst.name}"
        claim = f"{share} are dead on all {seen.n} images; {others(dead)}"
        severity: Literal["high", "medium"] = "high" if worst.permanently_dead == 1 else "medium"
        causes = seen.causes("dead")
        first = next((site for site in dead if site.name in causes), None)
        if first is None:
            mend = "actsec diagnose tells the cause. Against most: actsec defend 'stable_training(start=scratch)'."
            yield said(self, severity, claim, mend, "cannot tell", "weights were not looked at")
            return
        why = causes[first.name]
        where = "" if len(dead) == 1 else f"{first.name}, the first of them: "
        yield said(self, severity, claim, why.mend, why.name, f"{where}{why.evidence}")
