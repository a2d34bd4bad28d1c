"""ACT-A04: gradients vanish or explode between the last layer and the first.

G is the norm of the cross-entropy's gradient by the first layer's weights over that by the last layer's, in eval mode,
the median over up to 10 batches of 32. It is measured on the model as it is, and with fresh weights (5 draws on 128
images, batch norms given the statistics of those images) where every layer can draw its own anew.

    high     the gradient by some layer's weights is NaN or infinite in some batch: the worst that can be, and no G
    medium   G of the model lies outside [1e-3, 1e3]

The cause of a G outside, by rule, the first that holds: dead units, where a whole call is dead on every image; from
birth, where G is outside on the same side with fresh weights (the architecture and its default initialisation);
saturated units, where some call is saturated by more than half; learned, where fresh weights lie inside; or ``cannot
tell``. Of a gradient that is not finite: values that are not finite in the forward pass (see ACT-A00); from birth,
where it is so with fresh weights too; or ``cannot tell``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.result import Problem
from actsec.symptoms._seen import Seen, said


@dataclass(frozen=True, slots=True)
class GradientFlow:
    """The first layer learns nothing, or everything at once."""

    least: float = 1e-3
    most: float = 1e3

    rule: ClassVar[str] = "ACT-A04"
    title: ClassVar[str] = "Gradients reach the first layer in size"

    def __call__(self, seen: Seen) -> Iterator[Problem]:
        if (broken := self._not_finite(seen)) is not None:
            yield broken
            return
        ratio = seen.ratio
        if ratio is None or self.least <= ratio <= self.most:
            return
        what = "vanish" if ratio < 1 else "explode"
        claim = f"gradients {what}: the first layer's is {ratio:.2g} times the last layer's"
        cause, why, mend = self._cause(seen, ratio)
        yield said(self, "medium", claim, mend, cause, why)

    def _not_finite(self, seen: Seen) -> Problem | None:
        layers = () if seen.vitals is None else seen.vitals.flow.layers
        broken = [layer for layer in layers if layer.not_finite]
        if not broken:
            return None
        first = broken[0]
        claim = f"gradients are NaN or infinite at {len(broken)} of {len(layers)} layers, {first.name} the first"
        unsound = next((site.name for site in seen.sites if not site.finite), None)
        if unsound is not None:
            why = f"{unsound} gives values that are not finite"
            return said(self, "high", claim, "See ACT-A00.", "values that are not finite", why)
        if born := [layer for layer in layers if layer.fresh_not_finite]:
            draws = 0 if seen.vitals is None else seen.vitals.flow.draws
            why = f"with fresh weights too, at {born[0].name} in {born[0].fresh_not_finite} of {draws} draws"
            mend = "Another initialisation or norms (actsec study depth); a depth that float32 holds."
            return said(self, "high", claim, mend, "from birth", why)
        mend = "Look for huge weights and for square roots and divisions at 0, or train anew: "
        mend += "actsec defend 'stable_training(start=scratch, clip_norm=5)'."
        return said(self, "high", claim, mend, "cannot tell", "every pre-activation is finite")

    def _cause(self, seen: Seen, ratio: float) -> tuple[str, str, str]:
        anew = "actsec defend 'stable_training(start=scratch, clip_norm=5)'"
        dark = next((site for site in seen.sites if site.permanently_dead == 1), None)
        if dark is not None:
            return "dead units", f"every unit of {dark.name} is dead on all {seen.n} images", "See ACT-A01."
        fresh = None if seen.vitals is None else seen.vitals.flow.fresh
        if fresh is not None and (fresh < self.least if ratio < 1 else fresh > self.most):
            mend = "Another activation or initialisation (actsec study depth), residual connections or norms."
            return "from birth", f"with fresh weights it is {fresh:.2g}", mend
        flat = [site for site in seen.sites if site.name in seen.steep and (site.saturated or 0) > 0.5]
        if flat:
            return "saturated units", f"{flat[0].saturated or 0:.0%} of {flat[0].name} is saturated", "See ACT-A03."
        if fresh is not None:
            return "learned", f"with fresh weights it is {fresh:.2g}", f"Train anew: {anew}."
        reason = "fresh weights were not drawn" if seen.vitals is None else seen.vitals.flow.reason
        return "cannot tell", reason or "no gradient by weights", f"Compare depths (actsec study depth), or {anew}."
