"""What attacks did: one by one, along a curve, at a threat, and what checks say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from actsec.result.shares import Calibration, ClassShare, Share


@dataclass(frozen=True, slots=True)
class Course:
    """How an attack went on over the rows it followed: after each of these questions the median of each row's best.

    score is above 0 where the median row succeeded; size is its smallest success, None while there is none.
    """

    rows: int
    questions: tuple[int, ...]
    score: tuple[float | None, ...]
    size: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """One of our attacks beside ART's counterpart on n images that neither found wrong already, by row.

    missed are those that no attack of ours broke; ratio, for smallest changes, is the median of theirs over ours.
    """

    threat: str
    ours: str
    theirs: str
    n: int
    both: int
    neither: int
    only_ours: tuple[int, ...]
    only_theirs: tuple[int, ...]
    missed: tuple[int, ...]
    ratio: float | None
    rejected: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AttackResult:
    """One attack on one variant. still_correct counts misclassified-clean as not correct: an upper bound on its own.

    saved: of what was found, how much still succeeds when saved as the whole numbers the data came in.
    """

    attack: str
    name: str
    role: str
    n: int
    still_correct: Share
    success: Share
    median_size: float | None
    size_reason: str
    confidence_when_fooled: float | None
    forwards: float
    backwards: float
    refused: int
    rejected: int
    baseline: bool
    counts: bool
    error: str | None = None
    flat: int = 0
    """Examples whose cross-entropy was flat in float32, so that the attack climbed the margin instead."""
    search: str = ""
    """The faster stand-in that the attack asked, and how far it agrees with the model, which judged; empty: none."""
    saved: Share | None = None
    course: Course | None = None


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Robust accuracy at one eps, over every candidate of every attack that fits inside it."""

    eps: float
    share: Share
    noise: Share | None


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the sanity panel. status as in types.Finding; value and limit in words a reader can check."""

    rule: str
    title: str
    status: Literal["ok", "warn", "red", "not_done", "not_applicable", "error"]
    claim: str
    numbers: dict[str, Any]
    advice: str
    voids: bool
    command: str = ""
    """What to type to dig further, of a check that is not ok."""
    false_alarms: str = ""
    """How often the rule spoke of honest models, in words."""


@dataclass(frozen=True, slots=True)
class Smallest:
    """The median smallest change that any attack found, over n examples right untouched, failures as infinity.

    low and high are order statistics that hold the median with at least 95 % (binomial); high is None where infinite.
    """

    value: float
    low: float
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class ThreatResult:
    """Everything about one variant under one threat.

    worst_case is per example over every candidate of every attack; believable is False when a check voids a pass;
    state is the masking verdict. Under a goal other than misclassify an example is still correct while no candidate
    reached the goal; left_out counts those that had none to reach. saved: of the examples fooled, how many an attack
    fools with whole numbers as the data is saved in.
    """

    threat: str
    norm: str
    eps: float | None
    echo: str
    worst_case: Share
    per_class: tuple[ClassShare, ...]
    attacks: tuple[AttackResult, ...]
    curve: tuple[CurvePoint, ...]
    checks: tuple[Check, ...]
    state: Literal["clean", "randomised", "masked", "unchecked"]
    believable: bool
    why: str
    missed: Share | None = None
    """The miss rate at the worst case: the share of the positive class that is called something else."""
    goal: str = "misclassify"
    left_out: int = 0
    saved: Share | None = None
    smallest: Smallest | None = None


@dataclass(frozen=True, slots=True)
class Miscalibration:
    """Confidence moved and the label left, on the first n test inputs: what that does to calibration.

    aim: over, under, worst (up where the label is wrong, down where it is right) or random (towards a confidence drawn
    for each input). before, after and noise are of the same inputs: untouched, after the attack, and after noise at the
    same eps under the same goal, None where not done; an input whose confidence could not be moved is the untouched
    one. moved and noise_moved count those that could. accuracy is the same before and after: changed counts labels that
    are not, and is 0 unless something is broken. forwards and backwards: means over inputs.
    """

    threat: str
    aim: Literal["over", "under", "worst", "random"]
    attack: str
    n: int
    accuracy: Share
    changed: int
    before: Calibration
    after: Calibration
    noise: Calibration | None
    moved: Share
    noise_moved: Share | None
    forwards: float
    backwards: float


@dataclass(frozen=True, slots=True)
class CertifiedRadius:
    """Accuracy in L2 at one eps: certified against every attack, and left by one, on the same images.

    contradicted counts images that are certified and fell: about alpha of them may by chance, more mean a fault.
    """

    eps: float
    certified: Share
    attacked: Share
    contradicted: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """What randomised smoothing certifies of one model on n images.

    Each from n0 noisy copies that name a class and ``draws`` that bound its probability, wrong with probability at
    most alpha. votes is how many copies answer in use; clean is certified and right at radius 0; median_radius
    counts an image that is wrong or abstained on as 0. reason says why there is no certificate; the rest is then empty.
    """

    reason: str
    n: int = 0
    std: float = 0.0
    votes: int = 0
    n0: int = 0
    draws: int = 0
    alpha: float = 0.0
    attack: str = ""
    clean: Share | None = None
    abstained: Share | None = None
    median_radius: float = 0.0
    radii: tuple[CertifiedRadius, ...] = ()
