"""Watching activations while a model trains or serves: dead, saturated, not finite, drifted.

    with actsec.ActivationMonitor(model, "activations.jsonl"):
        for x, y in loader: ...                    # the loop as it was

Two hooks on the model see its forward passes; most they let go by. Every k-th is watched, k such that what watching
costs stays within ``budget`` of the time of the passes, measured as the loop runs. What a watched pass computes, its
gradients, random numbers and train flags are those of any other pass.

    monitor     what a user holds: attach, detach, and what happens at each pass
    hooks       what stands on the model meanwhile
    seeing      what the sites of one pass show
    pacing      which passes are watched, so that the budget holds
    record      what is known of the calls so far, and windows of readings
    baselines   what a drift is measured against, in a file
"""

from __future__ import annotations

from actsec.monitoring.monitor import ActivationMonitor
from actsec.monitoring.pacing import SHARE, TIMED
from actsec.monitoring.record import Report
from actsec.monitoring.seeing import ROUNDS

__all__ = ["ROUNDS", "SHARE", "TIMED", "ActivationMonitor", "Report"]
