"""How an attack asks: its cases and rules, what it asks for, what it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

from actsec.types.targets import Observed, Target
from actsec.types.threats import Knowledge, Norm

if TYPE_CHECKING:
    from torch import Tensor

    from actsec.draws import Draws


S = TypeVar("S")


class Rules(Protocol):
    """What an input must be beside inside its box: whole numbers, one-hot groups. One for all rows."""

    def snap(self, x: Tensor, cases: Cases) -> Tensor:
        """The nearest inputs (m, *shape) that keep the rules on the way from x (m, *shape) back to cases.x."""

    def kept(self, x: Tensor) -> Tensor:
        """Whether inputs (m, *shape) keep every rule (m,)."""

    def changed(self, x: Tensor, clean: Tensor) -> Tensor:
        """How many features differ between inputs (m, *shape), float64 (m,): the l0 size under these rules."""


@dataclass(frozen=True, slots=True)
class Cases:
    """What is attacked, one independent adversary a row.

    id (n,) int64 keys the random numbers; x (n, *shape) and y (n,) are the clean examples; target (n,) is the class to
    reach or -1; eps (n,) in input units, infinity for none; norm is shared by all rows. low and high are the box: two
    numbers, or tensors (n, *shape) where it differs (low = high = x is a coordinate that may not change). rules, where
    there are any, hold for every candidate: the referee asks the nearest input that keeps them. start (n, *shape), in a
    recipe, is the best attempt of the attacks before this one. tight says that the box already lies in the ball (linf).
    """

    id: Tensor
    x: Tensor
    y: Tensor
    target: Tensor
    eps: Tensor
    norm: Norm
    low: float | Tensor = 0.0
    high: float | Tensor = 1.0
    rules: Rules | None = None
    start: Tensor | None = None
    tight: bool = False

    def __len__(self) -> int:
        return int(self.id.shape[0])

    def rows(self, index: Tensor | slice) -> Cases:
        """The cases at ``index`` (an int64 index or a bool mask; views of a slice)."""
        return self._each(lambda value: value[index])

    def repeated(self, k: int) -> Cases:
        """Every row k times in a row: (n, ...) to (n * k, ...), as candidates (n, k, ...) flatten."""
        return self if k == 1 else self._each(lambda value: value.repeat_interleave(k, 0))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Cases:
        return Cases(
            change(self.id),
            change(self.x),
            change(self.y),
            change(self.target),
            change(self.eps),
            self.norm,
            self.low if isinstance(self.low, float) else change(self.low),
            self.high if isinstance(self.high, float) else change(self.high),
            self.rules,
            None if self.start is None else change(self.start),
            self.tight,
        )


class Loss(Protocol):
    """What the adversary maximises, per row. See losses.py for the sign, stated once."""

    watches: ClassVar[bool]

    def __call__(self, observed: Observed, cases: Cases) -> Tensor:
        """Per-row values (m,)."""


class Goal(Protocol):
    """What success is. settles says whether the first success ends a row."""

    name: ClassVar[str]
    watches: ClassVar[bool]
    settles: ClassVar[bool]

    def score(self, observed: Observed, baseline: tuple[Tensor, ...], cases: Cases) -> Tensor:
        """Per row (m,): the larger, the nearer to success; above 0 is success."""

    def baseline(self, observed: Observed) -> tuple[Tensor, ...]:
        """What of the clean pass the score needs, rows first."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What an attack wants to know: candidates x (n, k, *shape), and the loss whose gradient it needs, or None.

    wants (n,) bool names the rows whose loss and gradient are needed, None for all; others get zeros, no backward.
    target (n, k) int64 is the class that the loss of each candidate moves towards, -1 for none, in place of the case's
    own; what success is stays the case's.
    """

    x: Tensor
    loss: Loss | None = None
    wants: Tensor | None = None
    target: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The referee's answer, all (n, k, ...).

    logits are decision logits; loss and gradient are of the asked loss; score above 0 is success by the goal; size is
    the distance in the threat's norm; inside says whether the candidate was admissible; rejection is the score of the
    target's detector, above 0 where it abstains, None without one.
    """

    logits: Tensor
    score: Tensor
    success: Tensor
    size: Tensor
    inside: Tensor
    loss: Tensor | None = None
    gradient: Tensor | None = None
    rejection: Tensor | None = None


class State(Protocol):
    """An attack's memory: a frozen dataclass of tensors, rows first, with ``done`` (n,) bool among them."""

    @property
    def done(self) -> Tensor:
        """Rows that will ask nothing more."""


class Attack(Protocol[S]):
    """A frozen dataclass of options with three pure functions. It proposes; the referee disposes.

    roles are what diagnostics may ask of it: single_step, iterative, margin, gradient_free, noise, minimal, transfer.
    A minimal attack takes no eps and the others need one; any_eps says that it works with and without.
    """

    norms: ClassVar[tuple[Norm, ...]]
    knowledge: ClassVar[Knowledge]
    roles: ClassVar[tuple[str, ...]]

    def start(self, cases: Cases, draws: Draws) -> S:
        """The state before the first question. May depend on each row alone."""

    def ask(self, state: S, cases: Cases) -> Ask:
        """The next candidates of every row."""

    def tell(self, state: S, reply: Reply, cases: Cases, draws: Draws) -> S:
        """The state after the referee's reply to the last question."""


@runtime_checkable
class Recipe(Protocol):
    """Attacks one after the other, each on the rows that those before it left: a dataclass of options, no loop.

    norms, knowledge and roles are those of an attack.
    """

    norms: ClassVar[tuple[Norm, ...]]
    knowledge: ClassVar[Knowledge]
    roles: ClassVar[tuple[str, ...]]

    def parts(self, cases: Cases, classes: int) -> tuple[Attack[Any], ...]:
        """The attacks, cheap to dear, for cases of this norm and a model of so many classes."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Candidates x (n, k, *shape), and the forwards and backwards (n,) int64 that making them took."""

    x: Tensor
    forwards: Tensor
    backwards: Tensor


@runtime_checkable
class Proposer(Protocol):
    """An attack that needs the whole model and so cannot ask and tell: its candidates are judged afterwards.

    norms, knowledge and roles are those of an attack.
    """

    norms: ClassVar[tuple[Norm, ...]]
    knowledge: ClassVar[Knowledge]
    roles: ClassVar[tuple[str, ...]]

    def propose(self, target: Target, cases: Cases, draws: Draws) -> Proposal:
        """Candidates for every row; the target is bit-equal afterwards. Random numbers come from draws' seed."""
