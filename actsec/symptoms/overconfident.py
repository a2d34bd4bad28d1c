"""ACT-A05: confidence differs from accuracy by more than chance explains.

The expected calibration error (ECE: top label, 15 bins of equal width) beside what a perfectly calibrated model would
show at this number of images.

    medium   the ECE is above the null's 95 % point, and mean confidence above accuracy
    low      the same, with mean confidence below accuracy

Why a model is too sure is not decided here: long training, few data and unbounded logits all do it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.result import Problem
from actsec.symptoms._seen import Seen, said


@dataclass(frozen=True, slots=True)
class Overconfident:
    """Confidence that is not earned, or not shown."""

    rule: ClassVar[str] = "ACT-A05"
    title: ClassVar[str] = "Confidence is what accuracy earns"

    def __call__(self, seen: Seen) -> Iterator[Problem]:
        found, accuracy = seen.calibration, seen.accuracy
        if found is None or found.ece <= found.null_p95:
            return
        over = found.mean_confidence > accuracy.value
        claim = (
            f"{'overconfident' if over else 'underconfident'}: mean confidence {found.mean_confidence:.3f}, "
            f"accuracy {accuracy.value:.3f}; ECE {found.ece:.3f}, by chance up to {found.null_p95:.3f}"
        )
        mend = "Try actsec defend temperature, which changes no label."
        yield said(self, "medium" if over else "low", claim, mend, "cannot tell", f"{found.n} images, 15 bins")
