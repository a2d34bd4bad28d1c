"""What attacks that move the confidence and leave the label did to calibration, beside noise.

Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec import registry
from actsec.reports.words import percent
from actsec.result import Calibration, Miscalibration
from actsec.spec import parse
from actsec.types import Threat
from actsec.verdict import calibration
from actsec.verdict.gathering import FOUND, Gathered, Tried
from actsec.verdict.statistics import share_of

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Left:
    """What an attack left: its spec in short, and rows first its status, logits, forwards and backwards."""

    attack: str
    status: Array
    logits: Array
    forwards: Array
    backwards: Array

    def best(self, clean: Array) -> Array:
        """Logits (n, classes) of what was found, of the untouched input where nothing was."""
        n = len(clean)
        return np.where((self.status[:n] == FOUND)[:, None], self.logits[:n], clean)


def miscalibrations(g: Gathered, y: Array, seed: int) -> tuple[Miscalibration, ...]:
    """One for each attack with that goal which finished, in the order of the plan; y are the labels of the test data.

    Untouched inputs without finite logits have no calibration: then there are none.
    """
    if g.clean is None or not np.isfinite(g.clean.arrays["test_logits"]).all():
        return ()
    found = []
    for tried in g.tried:
        if tried.trial.role == "miscalibrate" and tried.usable and tried.threat.aim:
            n = len(tried.arrays["status"])
            noises = [t for t in g.under(tried.threat) if t.trial.role == "miscalibrate_noise"]
            beside = next((_left(t) for t in noises if len(t.arrays["status"]) >= n), None)
            clean = g.clean.arrays["test_logits"][:n]
            found.append(measure(tried.threat, clean, y[:n], g.threshold, _left(tried), beside, seed))
    return tuple(found)


def _left(tried: Tried) -> Left:
    brief = str(registry.brief("attacks", parse(tried.trial.attack)))
    return Left(brief, *(tried.arrays[key] for key in ("status", "logits", "forwards", "backwards")))


def measure(
    threat: Threat, clean: Array, y: Array, threshold: float | None, left: Left, noise: Left | None, seed: int
) -> Miscalibration:
    """The calibration of n inputs with labels y (n,): untouched, by their logits (n, classes), attacked, and noisy.

    Raises ModelError for logits that are not finite.
    """
    assert threat.aim is not None  # noqa: S101  # the caller looked
    n, label = len(clean), calibration.decided(calibration.softmax(clean), threshold)

    def measured(logits: Array, condition: str) -> Calibration:
        # The referee let no other label count: what rounding makes of a threshold here changes none.
        return calibration.calibration(calibration.softmax(logits), y, condition, seed=seed, decided=label)

    attacked = left.best(clean)
    now = calibration.decided(calibration.softmax(attacked), threshold)
    return Miscalibration(
        threat=str(threat),
        aim=threat.aim,
        attack=left.attack,
        n=n,
        accuracy=share_of(label == y),
        changed=int((now != label).sum()),
        before=measured(clean, "clean"),
        after=measured(attacked, f"{left.attack} at {threat}"),
        noise=measured(noise.best(clean), f"{noise.attack} at {threat}") if noise else None,
        moved=share_of(left.status == FOUND),
        noise_moved=share_of(noise.status[:n] == FOUND) if noise else None,
        forwards=float(left.forwards.mean()),
        backwards=float(left.backwards.mean()),
    )


def words(found: Miscalibration) -> str:
    """``mean confidence 94.4 % to 37.4 % (noise 83.1 %), ECE 0.031 to 0.560 (noise ...)``, as part of a sentence."""
    before, after, noise = found.before, found.after, found.noise
    sure = f"mean confidence {percent(before.mean_confidence)} to {percent(after.mean_confidence)}"
    sure += f" (noise {percent(noise.mean_confidence)})" if noise else ""
    error = f"ECE {before.ece:.3f} to {after.ece:.3f} ({f'noise {noise.ece:.3f}; ' if noise else ''}{after.bins} bins, "
    error += f"n {found.n}; a perfectly calibrated model would show up to {after.null_p95:.3f})"
    kept = f"accuracy stays {percent(found.accuracy.value)}"
    return f"{sure}, {error}; {kept}" + (f", but {found.changed} labels changed" if found.changed else "")
