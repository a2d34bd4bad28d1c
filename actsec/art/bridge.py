"""Any evasion attack of the Adversarial Robustness Toolbox as ``art/Name(options)``, judged by our referee.

``art/ProjectedGradientDescent(eps_step=0.01, max_iter=20)`` runs ART's ``generate`` on a copy of the target and
proposes what it returns. Budget, norm and goal come from the threat, never from options; every other parameter keeps
ART's name and default, except that ``eps_step`` is never above eps. ART is given a budget smaller by its own float32
rounding, since what leaves the ball is rejected, never repaired. A row that is wrong already is not attacked.

ART draws from the global generators of Python, numpy and torch: they are seeded by the plan's seed, the spec and the
ids of the rows, and put back. What it finds may depend on which rows share a call (it draws for a whole batch), so
that, unlike for our own attacks, another ``shard`` can give other images. A stochastic target is asked as it is, with
no averaging over its draws.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import inspect
import io
import logging
import math
import random
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from actsec import spec as notation
from actsec.draws import Draws
from actsec.errors import ActsecError, ThreatError
from actsec.search.oracle import Oracle, frozen
from actsec.types import Cases, Knowledge, Norm, Proposal, Target

PREFIX = "art/"
ORDER: dict[Norm, float] = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}
"""How ART writes a norm."""
BUDGET = {"PixelAttack": "th"}
"""Which parameter is the budget, where it is not eps."""

PROBABILITIES = {"SimBA", "VirtualAdversarialMethod"}
"""Attacks that refuse logits."""


class ArtAttack:
    """An ART attack with its options: the base of the dataclass made for each. theirs is ART's class."""

    name: ClassVar[str]
    theirs: ClassVar[Any]
    norms: ClassVar[tuple[Norm, ...]]
    knowledge: ClassVar[Knowledge]
    roles: ClassVar[tuple[str, ...]]

    def propose(self, target: Target, cases: Cases, draws: Draws) -> Proposal:
        """One candidate a row: what ART's generate returned, (n, 1, *shape).

        The passes are those of all rows, shared evenly. Raises ThreatError for what ART refuses.
        """
        made = copy.deepcopy(target.model)
        x = cases.x.clone()
        with frozen(made), quiet(), _seeded(draws, cases.id):
            own = target.having(model=made)
            logits = Oracle(own).observe(cases.x).logits
            asked = _Asked(own, probabilities=self.name in PROBABILITIES)
            for rows in _groups(cases, logits.argmax(1)):
                x[rows] = self._generated(asked, cases.rows(rows), logits.shape[1])
            count = torch.tensor([asked.forwards + len(cases), asked.backwards])
        each = -(-count // max(len(cases), 1))
        forwards, backwards = (torch.full_like(cases.id, int(number)) for number in each)
        return Proposal(x[:, None], forwards, backwards)

    def _generated(self, asked: _Asked, cases: Cases, classes: int) -> Tensor:
        """ART's images (n, *shape) for rows of one budget that all have a target, or all have none."""
        from art.estimators.classification import PyTorchClassifier

        targeted = bool(cases.target[0] >= 0)
        low, high = asked.target.bounds
        label = cases.target if targeted else cases.y
        given = {"y": np.eye(classes, dtype=np.float32)[label.cpu().numpy()]}
        if isinstance(cases.low, Tensor) and isinstance(cases.high, Tensor):
            given["mask"] = (cases.low < cases.high).float().cpu().numpy()
        try:
            estimator = PyTorchClassifier(
                asked,
                nn.CrossEntropyLoss(),
                tuple(cases.x.shape[1:]),
                classes,
                clip_values=(low, high),
                device_type="cpu" if cases.x.device.type == "cpu" else "gpu",
            )
            attack = self.theirs(estimator, **self._parameters(cases, targeted, asked.target))
            # A copy: some attacks write into what they are given.
            images = attack.generate(x=cases.x.cpu().numpy().copy(), **given)
        except ActsecError:
            raise
        except Exception as problem:
            raise ThreatError(
                f"{PREFIX}{self.name} cannot run here: {type(problem).__name__}: {problem}",
                f"This is what ART says; see `actsec explain {PREFIX}{self.name}` for its options.",
            ) from problem
        if not isinstance(images, np.ndarray) or images.shape != tuple(cases.x.shape):
            what = f"an array {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
            raise ThreatError(
                f"{PREFIX}{self.name} returned {what}, no images of shape {tuple(cases.x.shape)}",
                "Use an attack that changes the images it is given.",
            )
        return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).to(cases.x.device)

    def _parameters(self, cases: Cases, targeted: bool, target: Target) -> dict[str, Any]:
        """The arguments of ART's constructor: the options, and what the threat says."""
        known = inspect.signature(self.theirs).parameters
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]  # a dataclass
        budget = BUDGET.get(self.name, "eps")
        if budget in known and "minimal" not in self.roles:
            eps = float(cases.eps[0])
            given[budget] = int(eps) if cases.norm == "l0" else shrunk(eps, cases, target.bounds)
            if "eps_step" in given and given["eps_step"] == known["eps_step"].default:
                given["eps_step"] = min(given["eps_step"], given[budget])
        if "norm" in known:
            given["norm"] = ORDER[cases.norm]
        if "targeted" in known:
            given["targeted"] = targeted
        elif targeted:
            raise ThreatError(f"{PREFIX}{self.name} knows no target class", "Give it an untargeted threat.")
        return given | {key: False for key in ("verbose",) if key in known}

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (str(notation.full(self, PREFIX + self.name)),)


def _again(text: str) -> Any:
    """The attack of its text, after pickling: its class is made at run time and cannot be found by name."""
    from actsec import registry

    return registry.build("attacks", text)


def shrunk(eps: float, cases: Cases, bounds: tuple[float, float]) -> float:
    """The budget to give ART so that float32 rounding of x + delta stays inside eps: smaller by half a unit each."""
    d = cases.x[0].numel()
    each = max(abs(bound) for bound in bounds) * 2.0**-24
    total = {"linf": each, "l2": each * math.sqrt(d), "l1": each * d}.get(cases.norm, 0.0)
    return max(eps * (1 - 1e-6) - total, eps / 2)


def _groups(cases: Cases, decision: Tensor) -> Iterator[Tensor]:
    """Rows that are not there yet, by whether they have a target and by budget: ART knows one of each."""
    aimed = cases.target >= 0
    open_ = torch.where(aimed, decision != cases.target, decision == cases.y)
    for targeted in (False, True):
        rows = torch.nonzero(open_ & (aimed == targeted)).flatten()
        for eps in cases.eps[rows].unique():  # type: ignore[no-untyped-call]  # torch's own
            yield rows[cases.eps[rows] == eps]


class _Asked(nn.Module):
    """Decision logits (or probabilities) of a target as a module; rows that go forwards and backwards are counted."""

    def __init__(self, target: Target, *, probabilities: bool) -> None:
        super().__init__()
        self.inner, self.target, self.probabilities = target.model, target, probabilities
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits = self.target.decision_logits(self.target.logits(x.float()))
        if logits.requires_grad:
            logits.register_hook(self._count)  # type: ignore[no-untyped-call]  # torch's own
        return logits.softmax(1) if self.probabilities else logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """ART prints, logs, warns and draws progress bars: none of it reaches the user."""
    log = logging.getLogger("art")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    sink = io.StringIO()
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


@contextlib.contextmanager
def _seeded(draws: Draws, id: Tensor) -> Iterator[None]:
    """The global generators, seeded by the draws' key and the rows; Python's and numpy's are put back.

    torch's are forked by ``frozen``.
    """
    text = f"{draws.seed}\0{draws.name}\0".encode() + id.cpu().numpy().tobytes()
    key = int.from_bytes(hashlib.sha256(text).digest()[:7], "big")
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  # ART's own generator
    try:
        random.seed(key)
        np.random.seed(key % (1 << 32))  # noqa: NPY002
        torch.manual_seed(key)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
