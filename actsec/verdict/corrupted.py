"""Accuracy on corrupted images, beside clean accuracy on the same ones. No attack: no worst case reads this."""

from __future__ import annotations

import numpy as np

from actsec import corruptions
from actsec.planning.plan import Plan
from actsec.result import Corrupted, Corruptions
from actsec.verdict.gathering import Gathered
from actsec.verdict.threats import mean_share


def corrupted(g: Gathered, plan: Plan, shape: tuple[int, ...]) -> Corruptions | None:
    """What the corruptions of a plan leave of a variant's accuracy; None where they were not measured, or not all."""
    shards = [outcome for outcome in g.corrupted if outcome is not None]
    if not shards or len(shards) < len(g.corrupted) or g.clean is None:
        return None
    wrong = np.concatenate([outcome.arrays["wrong"] for outcome in shards], 1)
    pairs = [pair for text in plan.corruptions or () for pair in corruptions.parsed(text)]
    rows = tuple(
        Corrupted(kind, severity, corruptions.setting(kind, severity, shape), mean_share(1 - row.astype(np.float64)))
        for (kind, severity), row in zip(pairs, wrong, strict=True)
    )
    return Corruptions(wrong.shape[1], mean_share(1 - g.clean_wrong[: wrong.shape[1]]), rows)
