"""Confidence where there is nothing to see: noise, scrambled images, blanks, and inputs far outside the box.

    found = actsec.nonsense.measure(target, x)        # how sure is it of nonsense?
    fooled = actsec.fool(target)                      # how little must a blank change before it is sure of a class?

A classifier has no answer "this is nothing", so what it says of nonsense shows whether its confidence means anything.
A network of piecewise-linear activations is ever surer the further it goes along a ray (Hein, Andriushchenko &
Bitterwolf 2019, theorem 3.1); dividing the logits by a temperature only moves the place where that happens.
"""

from actsec.nonsense.asking import NOT_FINITE, REJECTED, Nonsense, measure
from actsec.nonsense.blanks import FOOLING, FOOLING_EPS, STARTS, SURE, Fooled, fool
from actsec.nonsense.drawing import AT_ONCE, KINDS, ROWS, STATISTICS, Drawn, Moments, moments, observed
from actsec.nonsense.rays import ALPHAS, Rays, far

__all__ = [
    "ALPHAS",
    "AT_ONCE",
    "FOOLING",
    "FOOLING_EPS",
    "KINDS",
    "NOT_FINITE",
    "REJECTED",
    "ROWS",
    "STARTS",
    "STATISTICS",
    "SURE",
    "Drawn",
    "Fooled",
    "Moments",
    "Nonsense",
    "Rays",
    "far",
    "fool",
    "measure",
    "moments",
    "observed",
]
