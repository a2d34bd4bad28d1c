"""adv-lib. Spec: a function of adv_lib.attacks with its options. eps goes where the function takes it."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import types
from typing import Any

import torch
from torch import Tensor

from actsec.spec import Spec
from benchmarks.peers import Attempt, Question

if "visdom" not in sys.modules and importlib.util.find_spec("visdom") is None:
    # Imported by its logger, which is used only when a caller passes one: a plotting server nobody needs here.
    sys.modules["visdom"] = types.ModuleType("visdom")

from adv_lib import attacks

NORMS = {"linf": float("inf"), "l2": 2.0, "l1": 1.0, "l0": 0.0}


def prepare(spec: Spec, question: Question) -> Attempt:
    function: Any = getattr(attacks, spec.name)
    known = inspect.signature(function).parameters
    options: dict[str, Any] = dict(spec.options)
    if "norm" in known:
        options["norm"] = NORMS[question.norm]
    radius = next((name for name in ("ε", "eps") if name in known), None)

    def attempt() -> list[Tensor]:
        found = []
        for eps in question.eps or (None,):
            sized = {radius: eps} if radius is not None and eps is not None else {}
            pieces = [function(question.model, x, y, **options, **sized) for x, y in question.pieces()]
            # Some of its attacks return (inputs, found).
            found.append(torch.cat([piece[0] if isinstance(piece, tuple) else piece for piece in pieces]))
        return found

    return attempt
