"""What a defense is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from actsec.spec import Spec
from actsec.types.targets import Target

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Split:
    """Tensors a defense may learn from: x (n, *shape) in input units, y (n,)."""

    x: Tensor
    y: Tensor
    id: Tensor


class Checkpoint(Protocol):
    """Where the state of a training is kept while it runs."""

    def load(self) -> bytes | None:
        """What was saved last, whole, or None."""

    def save(self, made: Callable[[], bytes]) -> None:
        """Put the state that ``made`` makes in place of the one before; what was saved just now may stay instead."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a defense is given beside the target: its data, its seed, and an adversary it cannot name itself.

    perturb(target, x, y, id, attack, threat, seed, loss=None) returns adversarial inputs (n, *shape) from the attack of
    a spec, which climbs ``loss`` in place of its own where one is given. tell(text, done, total) reports progress.
    checkpoint is where an interrupted training is taken up again; None: nowhere.
    """

    calibration: Split | None
    train: Split | None
    seed: int
    perturb: Callable[..., Tensor]
    tell: Callable[[str, int, int], None]
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class Fitted:
    """What fitting a defense cost and found: numbers for the report, all reproducible."""

    numbers: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Defense(Protocol):
    """A frozen dataclass of options. wrap changes the structure, fit the parameters; together: target to target.

    needs is the split it learns from; claims says in one sentence what it can and cannot do; kind is what the verdict
    may credit it with; adaptive lists the attack specs it must face besides the plan's. A defense whose target draws at
    inference says ``randomises = True``.
    """

    needs: ClassVar[Literal["nothing", "calibration", "train"]]
    claims: ClassVar[str]
    kind: ClassVar[Literal["robustness", "calibration", "stability"]]
    adaptive: ClassVar[tuple[str, ...]]

    def wrap(self, target: Target) -> Target:
        """A new target with the structure of the defense, parameters not yet fitted; the given one is untouched."""

    def fit(self, target: Target, material: Material) -> Fitted:
        """Fit the wrapped target's parameters in place. Everything learned is in its model's state_dict."""


def chain_text(chain: Sequence[Spec]) -> str:
    """A chain of defenses as text: ``swap(to=silu) | temperature``."""
    return " | ".join(map(str, chain))
