"""ACT-A02: calls that act as activations and cannot be watched as such.

A clamp at exactly 0, a scripted child, the gates inside a fused LSTM, an activation written by hand in a way that is
not recognised.

    low   there are such calls; they are neither watched, counted nor swapped

The cause is how the model is written, which is certain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.result import Problem
from actsec.symptoms._seen import Seen, said


@dataclass(frozen=True, slots=True)
class HiddenCalls:
    """Calls that act as activations and cannot be watched."""

    rule: ClassVar[str] = "ACT-A02"
    title: ClassVar[str] = "Every activation can be watched"

    def __call__(self, seen: Seen) -> Iterator[Problem]:
        if seen.unresolved:
            claim = f"{len(seen.unresolved)} calls act as activations and cannot be watched: {seen.unresolved[0]}"
            mend = "They are neither watched nor swapped. Write them as torch.nn modules; actsec explain ACT-L09."
            yield said(self, "low", claim, mend, "how the model is written", "found in the calls of one pass")
