"""Data: read it, recognise it, check it, draw from it. numpy only; PIL and scikit-learn are imported where used.

    load("digits")                  scikit-learn's 8x8 digits, split into train, calibration and test (offline)
    load("test.npz")                arrays ``x`` and ``y``
    load("photos/")                 photos/class/*.png, *.jpg
    load("data.py:make(n=100)")     a torch Dataset, or any sequence of (x, y), made by a function of yours

Whatever was recognised on the way (channels-last, uint8 divided by 255, ...) stands in ``Dataset.notes``.
"""

from actsec.data.limits import LIMIT
from actsec.data.loading import SOURCES, load
from actsec.data.recognise import Layout, from_arrays
from actsec.data.sets import Dataset, Overlap, Splits, check, disjoint, fingerprint, sample, split

__all__ = [
    "LIMIT",
    "SOURCES",
    "Dataset",
    "Layout",
    "Overlap",
    "Splits",
    "check",
    "disjoint",
    "fingerprint",
    "from_arrays",
    "load",
    "sample",
    "split",
]
