"""Why units are gone, decided by rule from what was measured. No torch.

A rule speaks only where its own evidence is there; where none is, or several speak, the answer is ``cannot tell`` and
what was seen. Limits stand below; what they came to on planted causes stands in docs/diagnose.md.

bias shift       more than half of the gone units would live without their bias, which is 3 or more standard deviations
                 of the pre-activation and 3 times beyond any fresh bias
sites before     nine tenths of the units of the site before are gone too: look there
learning rate    the weights of more than half of the gone units are longer than any fresh ones: they learned, and died
or data          of it. With the training data given: outliers in it, or else the learning rate; without it, either
initialisation   the weights are longer, but scattered as evenly as fresh ones: drawn so, not learned; or at the first
                 site as long as fresh ones, with pre-activations 5 standard deviations below, where fresh weights of
                 the layer's default leave fewer dead than chance explains
dead from birth  the weights of more than half of the gone units are as long as fresh ones, and fresh weights leave at
                 least a third as many units dead, or so many that chance explains the rest (3 standard deviations)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from actsec.health.vitals import Cause, CauseName, Outliers

MOST, BEFORE, BORN, ALIKE, EVEN, LARGE = 0.5, 0.9, 1 / 3, 0.6, 1.5, 3.0
"""Shares: of gone units, of the site before, of fresh deaths, of fresh saturation; singular values; input scale."""
BEYOND, DEEP = 3.0, 5.0
"""How many standard deviations, and times the largest fresh bias, make a bias large; how many are out of reach."""
Answer = tuple[CauseName, str]
MENDS: dict[CauseName, str] = {
    "dead from birth": (
        "Train anew from other weights: actsec defend 'stable_training(start=scratch)'; wider layers or another "
        "activation: actsec study depth."
    ),
    "initialisation": (
        "Initialise as the activation needs (actsec diagnose --architecture, actsec study depth) and train anew: "
        "actsec defend 'stable_training(start=scratch)'."
    ),
    "bias shift": (
        "Hold the checkpoint against its source. Fresh biases and training: actsec defend "
        "'stable_training(start=scratch)'."
    ),
    "learning rate": (
        "Train at a lower rate with clipped gradients: actsec defend "
        "'stable_training(start=scratch, learning_rate=0.001, clip_norm=5)'."
    ),
    "outliers in the training data": (
        "Check the range of training inputs and take the rows out, then actsec defend "
        "'stable_training(start=scratch, clip_norm=5)'."
    ),
    "learning rate or training data": (
        "Give --train to tell which. Against both: actsec defend "
        "'stable_training(start=scratch, learning_rate=0.001, clip_norm=5)'."
    ),
    "sites before": "Mend the site before it first.",
    "scale of the inputs": "Normalise the inputs as in training (--normalize), or standardise them.",
    "cannot tell": "Compare with other activations and rates: actsec study activations.",
}


@dataclass(frozen=True, slots=True)
class Gone:
    """What was measured of the units of one site that are gone: dead or saturated on every image, or on most.

    share and born: of all units, of this model and with fresh weights on the same images (None: no fresh weights);
    before: of the site before (None: there is none). Of the gone units: biased, longer and unmoved are shares, scale
    the median length of their weights over the median fresh one and reach the longest fresh one; depth is how many
    standard deviations the pre-activation lies beyond, bias the median bias, largest the largest fresh one. even: the
    part of the layer's squared weights in its largest singular value, over that of fresh weights. away: the largest
    cosine between the weights of a gone unit and the direction away from outliers. channels: how many the site has,
    each of which dies by its own luck. None where it was not measured.
    """

    saturated: bool
    share: float
    born: float | None
    before: float | None
    first: bool
    layer: str
    norms: bool = False
    biased: float | None = None
    longer: float | None = None
    unmoved: float | None = None
    scale: float | None = None
    reach: float | None = None
    depth: float | None = None
    bias: float | None = None
    largest: float | None = None
    even: float | None = None
    away: float | None = None
    inputs: float | None = None
    channels: int = 0


def cause(seen: Gone, train: Outliers | None) -> Cause:
    """The cause by the first rule that speaks; train are the outliers of the training data, None where not given."""
    answers = (_biased(seen), _before(seen), _grown(seen, train), _saturated_at_birth(seen), _never_learned(seen))
    name, why = next((said for said in answers if said is not None), ("cannot tell", _left(seen)))
    return Cause("saturated" if seen.saturated else "dead", name, why, MENDS[name])


def _biased(seen: Gone) -> Answer | None:
    if seen.biased is None or seen.biased <= MOST:
        return None
    fresh = "" if seen.largest is None else f" (fresh ones stay within {seen.largest:.2g})"
    return "bias shift", f"{seen.biased:.0%} of them would live without their bias, median {seen.bias:.3g}{fresh}"


def _before(seen: Gone) -> Answer | None:
    if seen.saturated or seen.before is None or seen.before < BEFORE:
        return None
    return "sites before", f"{seen.before:.0%} of the units of the site before are gone too"


def _grown(seen: Gone, train: Outliers | None) -> Answer | None:
    """The weights have grown: were they drawn so, or taught so, and by what."""
    if seen.norms or seen.longer is None or seen.longer <= MOST:
        return None
    grown = (
        f"the weights of {seen.longer:.0%} of them are longer than any fresh ones "
        f"(median {seen.scale:.3g} times the usual, fresh at most {seen.reach:.3g})"
    )
    if seen.even is not None and seen.even < EVEN:
        return "initialisation", f"{grown}, scattered as evenly as fresh ones (largest singular value {seen.even:.2f}x)"
    if seen.depth is not None and math.isfinite(seen.depth) and not seen.saturated:
        grown += f"; pre-activations lie {seen.depth:.1f} standard deviations below"
    if train is None:
        return "learning rate or training data", f"{grown}; the training data was not given"
    if train.found:
        turned = "" if seen.away is None else f"; their weights point away from them (cosine up to {seen.away:.2f})"
        rows = f"{train.found} of {train.n} training rows lie up to {train.worst:.3g} times as far out as the rest"
        return "outliers in the training data", f"{grown}; {rows}{turned}"
    return "learning rate", f"{grown}; no outlier among {train.n} training rows (furthest {train.worst:.2g} times)"


def _saturated_at_birth(seen: Gone) -> Answer | None:
    if not seen.saturated or seen.born is None or seen.born < ALIKE * seen.share:
        return None
    fresh = f"fresh weights saturate {seen.born:.0%} of it as well"
    if seen.first and seen.inputs is not None and seen.inputs >= LARGE:
        return "scale of the inputs", f"{fresh}; the root mean square of the inputs is {seen.inputs:.3g}"
    return "initialisation", fresh


def _never_learned(seen: Gone) -> Answer | None:
    """Dead units whose weights are as long as fresh ones: was it likely at birth."""
    if seen.saturated or seen.norms or seen.born is None or seen.unmoved is None or seen.unmoved <= MOST:
        return None
    still = f"{seen.unmoved:.0%} of them have weights as long as fresh ones; fresh weights leave {seen.born:.0%} dead"
    by_chance = 3 * math.sqrt(seen.channels * seen.born * (1 - seen.born))
    if seen.born >= BORN * seen.share or seen.channels * (seen.share - seen.born) <= by_chance:
        return "dead from birth", still
    if not seen.first:
        return "cannot tell", f"{still}: what comes before may have shifted"
    if seen.depth is None or seen.depth < DEEP:
        return "cannot tell", f"{still}: small steps may have killed them"
    far = f"pre-activations lie {seen.depth:.1f} standard deviations below"
    return "initialisation", f"{still} with the layer's default; {far}: these were drawn otherwise and never learned"


def _left(seen: Gone) -> str:
    """What was seen where no rule spoke."""
    what = "saturated" if seen.saturated else "gone"
    if not seen.layer:
        return "no single layer feeds it: its weights cannot be looked at"
    if seen.norms:
        return f"{seen.layer} normalises, so that weights before it tell nothing, and biases are ordinary"
    if seen.scale is None or seen.longer is None or seen.unmoved is None:
        return "fresh weights cannot be drawn, so that nothing can be compared"
    parts = f"{seen.longer:.0%} longer than fresh ones, {seen.unmoved:.0%} as long, the rest shorter"
    return f"weights of the {what} units of {seen.layer}: {parts}; no rule holds for more than half"
