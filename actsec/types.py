"""The nouns. Small frozen values that attacks, defenses, diagnostics and the core exchange.

Tensors are rows first: dimension 0 is one adversary each. Nothing here imports torch when it is imported, so that
``actsec --help`` and a report on a laptop without torch work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from actsec.errors import BadOption, SpecError, ThreatError
from actsec.spec import Spec, Value, parse_value, show

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from actsec.draws import Draws

Norm = Literal["linf", "l2", "l1", "l0"]
Knowledge = Literal["white_box", "black_box"]
NORMS: tuple[Norm, ...] = ("linf", "l2", "l1", "l0")

BATCH = 256
"""The most rows of one call of a model where memory allows: more of them were not measured to be faster."""

JUDGE_DRAWS = 20
"""Draws that a target which draws is judged by."""

SLACK = 1e-6
"""A candidate is inside the ball when its size is at most eps * (1 + SLACK): float32 rounding, nothing more."""

Region = Literal["dead", "saturated", "zero_tail"]
Aim = Literal["over", "under", "worst", "random"]
"""Where a calibration attack moves confidence: up, down, or up where the label is wrong and down where it is right."""
Ends = tuple[Region, float | None, float | None]
"""A region of pre-activations: up to the first number, and from the second; None where it has no such end."""

FORCING: dict[str, Region] = {"kill": "dead", "saturate": "saturated", "zero_tail": "zero_tail"}
"""Goals that force units into a region, whatever the label."""

_AIMS: dict[str, Aim] = {
    "miscalibrate": "worst",
    "miscalibrate=over": "over",
    "miscalibrate=under": "under",
    "miscalibrate=random": "random",
}

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Threat:
    """Everything the adversary may do. Printed and parsed as ``linf:8/255``, ``l2``, ``l0:1``, ``linf:0.1:kill``.

    eps is in input units (pixels for l0); None asks for the smallest change that works. goal is ``misclassify``,
    ``class=3`` (that very class), ``least_likely`` (the class least likely untouched), ``confident=0.99`` (any wrong
    class, with at least that probability), ``miscalibrate`` (the same class, but sure where it is wrong and unsure
    where it is right; ``=over`` and ``=under``: surer, or less sure, of everything; ``=random``: towards a confidence
    drawn for each input), or about units and not labels: ``kill``, ``saturate``, ``zero_tail``; knowledge is what the
    adversary sees; queries bounds the forwards per example.
    """

    norm: Norm
    eps: float | None = None
    goal: str = "misclassify"
    knowledge: Knowledge = "white_box"
    queries: int | None = None

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ThreatError(f"unknown norm {self.norm!r}", f"Known: {', '.join(NORMS)}.")
        if self.eps is not None and not (self.eps > 0 and math.isfinite(self.eps)):
            raise ThreatError(f"eps {self.eps} is not a positive number", "Give eps in input units, such as 8/255.")
        if _goal(self.goal) != self.goal:
            raise ThreatError(f"the goal {self.goal!r} is not written {_goal(self.goal)!r}", "Use Threat.parse.")

    @property
    def target(self) -> int | None:
        """The class that every row is to be called, where the goal names one."""
        kind, _, value = self.goal.partition("=")
        return int(value) if kind == "class" else None

    @property
    def confidence(self) -> float | None:
        """The probability that a wrong class must have, where the goal names one."""
        kind, _, value = self.goal.partition("=")
        return float(value) if kind == "confident" else None

    @property
    def aim(self) -> Aim | None:
        """Where the confidence is to move, where the goal is to move it and to leave the label."""
        return _AIMS.get(self.goal)

    @property
    def region(self) -> Region | None:
        """Where the goal forces units to be, where it is about units and not about labels."""
        return FORCING.get(self.goal)

    def __str__(self) -> str:
        eps = int(self.eps) if self.eps is not None and self.eps == int(self.eps) else self.eps
        parts = [self.norm, *([] if eps is None else [show(eps)])]
        if self.goal != "misclassify":
            parts.append(self.goal)
        return ":".join(parts)

    @staticmethod
    def parse(text: str) -> Threat:
        """Read ``norm[:eps][:goal]``. Raises ThreatError."""
        norm, *rest = text.strip().split(":")
        eps: float | None = None
        if rest and (rest[0][:1].isdigit() or rest[0][:1] == "."):
            value = parse_value(rest.pop(0))
            eps = float(value) if isinstance(value, (int, float)) else None
        goal = _goal(rest.pop(0)) if rest else "misclassify"
        if rest:
            raise ThreatError(f"cannot read the threat {text!r}", "Write norm:eps, such as linf:8/255, l2:0.5 or l0:1.")
        return Threat(norm, eps, goal)  # type: ignore[arg-type]  # __post_init__ refuses an unknown norm by name


def _goal(text: str) -> str:
    """A goal as it is always written. Raises ThreatError."""
    kind, sign, value = text.partition("=")
    if text in ("misclassify", "least_likely", *FORCING, *_AIMS):
        return text
    if text == "miscalibrate=worst":
        return "miscalibrate"
    if kind == "class" and value.isascii() and value.isdigit() and len(value) < 10:
        return f"class={int(value)}"
    if kind == "confident" and sign:
        try:
            probability = parse_value(value)
        except SpecError:
            probability = None
        if isinstance(probability, float) and 0.5 <= probability < 1:
            return f"confident={probability!r}"
        raise ThreatError(f"confident={value} is not a probability from 0.5 to 1", "Write confident=0.99.")
    raise ThreatError(
        f"cannot read the goal {text!r} of a threat",
        "Write norm:eps:goal, such as linf:8/255, l2:0.5 or l0:1; "
        "goals are class=3, least_likely, confident=0.99, miscalibrate, miscalibrate=over, miscalibrate=under, "
        "miscalibrate=random, kill, saturate and zero_tail.",
    )


@dataclass(frozen=True, slots=True)
class Normalization:
    """Per-channel (x - mean) / std, applied by the Target and nowhere else."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    label: ClassVar[str] = ""
    """What it is called where its numbers would say little."""

    def __call__(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return (x - x.new_tensor(self.mean).view(shape)) / x.new_tensor(self.std).view(shape)


@dataclass(frozen=True, slots=True)
class Target:
    """The model under audit: raw inputs inside ``bounds`` to logits (n, classes), and its own decision rule.

    model is in eval mode while it is asked. One logit per input is read as [0, z]. threshold, for two classes only,
    says class 1 when its probability is above it; otherwise the largest logit decides.
    """

    model: nn.Module
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    bounds: tuple[float, float] = (0.0, 1.0)
    name: str = "model"
    normalization: Normalization | None = None
    threshold: float | None = None
    stochastic: bool = False
    output: str | None = None
    """Which field of a dict or attribute of an object holds the logits; None finds ``logits`` or the first tensor."""
    batch: int = BATCH
    """The most rows of one call: what memory allows, never what the result depends on."""
    draws: int = 1
    """Noisy copies of an input that one answer averages over already, as many rows at each activation call."""
    rejects: Callable[[Tensor], Tensor] | None = None
    """A detector that abstains: inputs (n, *shape) in input units to bool (n,), or to scores (n,) that reject above 0.

    An adversary must be wrong and accepted; an untouched input that is rejected counts as not correct."""

    def __post_init__(self) -> None:
        if self.threshold is not None and (len(self.classes) != 2 or not 0 < self.threshold < 1):
            raise BadOption(f"threshold {self.threshold}", "A threshold lies in (0, 1) and needs exactly two classes.")

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, classes), float32, of inputs (n, *shape) in input units. One forward."""
        z = read_head(self.model(self.normalization(x) if self.normalization else x), self.output).float()
        if z.dim() == 1 or (z.dim() == 2 and z.shape[1] == 1):
            z = z.reshape(-1, 1)
            z = pad_zero(z)
        return z

    def decision_logits(self, logits: Tensor) -> Tensor:
        """Logits shifted so that the largest one is the decision, whatever the threshold."""
        if self.threshold is None:
            return logits
        shift = math.log(self.threshold / (1 - self.threshold))
        return logits - logits.new_tensor([0.0, shift])

    def decide(self, logits: Tensor) -> Tensor:
        """Labels (..., ) int64 by the target's own rule."""
        return self.decision_logits(logits).argmax(-1)

    def rejection(self, x: Tensor) -> Tensor | None:
        """The detector's scores (n,) float32 of inputs (n, *shape): above 0 rejects. None without a detector."""
        if self.rejects is None:
            return None
        score = self.rejects(x).reshape(len(x))
        # Told yes or no, a search still needs a number on each side.
        return score.float() if score.is_floating_point() else score.float() * 2 - 1

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter or buffer lies; the CPU when it has none."""
        import torch

        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            return tensor.device
        return torch.device("cpu")

    def having(self, **changes: Any) -> Target:
        """A copy with these fields replaced."""
        return replace(self, **changes)


def pad_zero(z: Tensor) -> Tensor:
    """One logit per row (n, 1) as two: [0, z], so that its sigmoid is the softmax of class 1."""
    import torch

    return torch.cat([torch.zeros_like(z), z], dim=1)


def read_head(output: Any, field_name: str | None = None) -> Tensor:
    """The logits in what a model returned: a tensor, a tuple's first tensor, a dict's or object's ``logits``."""
    import torch

    if field_name is not None:
        output = output[field_name] if isinstance(output, Mapping) else getattr(output, field_name)
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        tensors = [v for v in output.values() if isinstance(v, torch.Tensor)]
        found = output.get("logits", output.get("out", tensors[0] if tensors else None))
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, Sequence):
        found = next((v for v in output if isinstance(v, torch.Tensor)), None)
    else:
        found = None
    if not isinstance(found, torch.Tensor):
        from actsec.errors import ModelError

        raise ModelError(
            f"the model returned {type(output).__name__}, in which no logits were found",
            "Return a tensor (n, classes), or name the field with --output.",
        )
    return found


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


@dataclass(frozen=True, slots=True)
class SiteValues:
    """What one activation call saw: its pre-activation (m, *units), on the autograd graph when one is recorded."""

    name: str
    kind: str
    pre: Tensor
    ends: tuple[Ends, ...] = ()
    """Where its units are dead, saturated or numerically zero: see actsec.activations.regions."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What a forward pass of m rows gave: decision logits (m, classes), and the activation calls when watched.

    rejection (m,) are the scores of the target's detector, above 0 where it abstains; None without one.
    """

    logits: Tensor
    sites: tuple[SiteValues, ...] = ()
    rejection: Tensor | None = None


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


GRADIENT = ("single_step", "iterative", "doubled", "margin")
"""Roles that follow the model's gradients within the threat; unbounded does too, under another threat."""


Enters = Literal["training", "scaler", "update"]


@dataclass(frozen=True, slots=True)
class Victim:
    """What a poisoner knows: the same network trained on clean rows, the rate of its gradient steps, a seed.

    One who knows the mitigation as well knows more: optimizer and clip_norm are those of the network's updates, and
    rehearse(split) is the mean cross-entropy on the clean rows that a training on a split leaves, made as the network's
    own is with every check it makes, but from another seed; infinity where it breaks off, minus infinity where a check
    drops all that was planted.
    """

    target: Target
    learning_rate: float
    seed: int = 0
    optimizer: Literal["sgd", "adam"] = "sgd"
    clip_norm: float | None = None
    rehearse: Callable[[Split], float] | None = None


class Poison(Protocol):
    """Train split to train split, judged by training twins. A frozen dataclass of options.

    enters is where the planted rows take effect: among the rows of a training from the beginning, there and in the
    standardisation fitted to them, or as the whole of a later update of a trained model.
    """

    enters: ClassVar[Enters]

    def count(self, train: Split) -> int:
        """How many rows it plants."""

    def poison(self, train: Split, victim: Victim) -> Split:
        """The rows of train as they were, and after them the planted ones, whose ids run down from -1."""


Status = Literal["ok", "warn", "red", "not_done", "not_applicable", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a diagnostic says: a stable rule id, a status, one claim in words, its numbers, and what to do.

    voids says that a passing robustness number must not be believed while this is red. What is not ok carries a command
    to dig further, and how often its rule was wrong about honest models, in words.
    """

    rule: str
    title: str
    status: Status
    claim: str
    numbers: Mapping[str, Value] = field(default_factory=dict)
    advice: str = ""
    severity: Literal["none", "low", "medium", "high"] = "none"
    voids: bool = False
    command: str = ""
    false_alarms: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a diagnostic reads about one variant under one threat. It names no attack, only roles.

    correct maps a role to an array (n,): whether a row is still classified correctly after that role's attack, or, of a
    target that draws, the share of the judge's answers that are; on the same rows in the same order for every role.
    probe holds the numbers of the direct probes of the model. unanswered counts rows that are robust although a
    candidate was answered with logits that are not finite. None: not done.
    """

    threat: Threat
    clean: np.ndarray[Any, Any]
    correct: Mapping[str, np.ndarray[Any, Any]]
    probe: Mapping[str, Any]
    classes: int
    stochastic: bool
    unanswered: int | None = None
    confined: bool = False
    """Whether rules keep an adversary without a budget from turning every input into every other."""
    at: Mapping[float, np.ndarray[Any, Any]] = field(default_factory=dict)
    """By eps, rows still correct after one and the same gradient attack alone."""
    courses: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    """By role, the best score (rows, questions) of followed rows that still stand, NaN after their last question."""
    sizes: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    """Without an eps: by role, the smallest misclassifying size (n,) that it found; 0 where wrong untouched."""
    adaptive: Mapping[str, np.ndarray[Any, Any] | None] = field(default_factory=dict)
    """The attacks that the model's own defenses say it must face here: rows still correct, None where not made."""
    abstained: np.ndarray[Any, Any] | None = None
    """Rows with an admissible misclassified candidate that the target's detector rejected; None without a detector."""
    twin: np.ndarray[Any, Any] | None = None
    """Rows that the model without its defenses gets right after the same gradient attacks; None where there is none."""


class Diagnostic(Protocol):
    """One rule: reads evidence, yields findings. A frozen dataclass whose fields are its thresholds."""

    rule: ClassVar[str]
    title: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]

    def __call__(self, evidence: Evidence) -> Iterable[Finding]:
        """Findings, one for each claim; at least one, also when all is well."""


@dataclass(frozen=True, slots=True)
class Job:
    """One unit of work. Its id is the content hash of its recipe, so equal work has an equal id.

    label is for people and variant says where the plan keeps what the recipe names by hash; neither is hashed.
    """

    id: str
    kind: str
    recipe: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    label: str = ""
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job left: JSON numbers and arrays; error is the message of the exception that ended it, if one did."""

    job: str
    numbers: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    error: str | None = None


def chain_text(chain: Sequence[Spec]) -> str:
    """A chain of defenses as text: ``swap(to=silu) | temperature``."""
    return " | ".join(map(str, chain))
