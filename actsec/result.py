"""What an audit found: the ``result`` half of report.json, as plain records.

Everything here is a function of the plan alone: no times, no hardware, no paths of the machine. Numbers that do not
exist are None with a reason beside them, never NaN. Shares carry k, n and their 95 % Wilson interval.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from actsec.health.vitals import Vitals

SCHEMA = 1


def saved_as(grid: int | None) -> str:
    """How data of so many steps between the ends of its box is saved, for people."""
    return {255: "8-bit images", 65535: "16-bit images"}.get(grid or 0, f"whole numbers from 0 to {grid}")


@dataclass(frozen=True, slots=True)
class Share:
    """k of n, with the 95 % Wilson interval (Clopper-Pearson at k = 0 or n)."""

    k: int
    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval of a number that is no share."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ClassShare:
    """Accuracy on one class."""

    name: str
    share: Share


@dataclass(frozen=True, slots=True)
class Clean:
    """Untouched inputs."""

    accuracy: Share
    balanced: float
    per_class: tuple[ClassShare, ...]
    worst_class: str
    missed: Share | None = None
    """The miss rate: the share of the plan's positive class that is called something else."""
    rejected: Share | None = None
    """Inputs that the model's detector refuses, which count as not correct; None without a detector."""


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of a reliability diagram."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidence against correctness. condition is ``clean`` or the attack that made the inputs.

    ece: top-label, equal-width bins [low, high), L1; null: what a perfectly calibrated model would show at this n.
    """

    condition: str
    n: int
    bins: int
    ece: float
    null_mean: float
    null_p95: float
    mce: float
    brier: float
    nll: float
    mean_confidence: float
    confidence_when_wrong: float | None
    wrong_above_90: Share
    reliability: tuple[Bin, ...]
    ece_low: float | None = None
    ece_high: float | None = None
    """The 95 % bootstrap interval of ece."""
    brier_interval: Interval | None = None
    nll_interval: Interval | None = None
    confidence_when_wrong_interval: Interval | None = None
    """Percentiles of the same bootstrap; of confidence_when_wrong None where few resamples hold a wrong answer."""


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
class SiteHealth:
    """One activation call on clean inputs. Fractions are None where the kind cannot have them."""

    name: str
    kind: str
    units: int
    dead: float | None
    permanently_dead: float | None
    saturated: float | None
    gradient_norm: float | None
    finite: bool


@dataclass(frozen=True, slots=True)
class SiteKill:
    """One site under dead-ReLU forcing: fractions of its units, means over examples."""

    name: str
    kind: str
    units: int
    dead_before: float
    dead_after: float
    killed: float
    revived: float


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
class KillEffect:
    """What forcing units did to the model, over n images.

    margin_before, margin_after: median of the label's decision logit less the best other; gradient_ratio: median norm
    of the cross-entropy's gradient after by before, None where it was 0; zero_gradients: share of images where it is
    exactly 0 after; blackouts: share of images at which a whole site went dark; critical_killed: share killed of the
    units with most effect on the label's logit, None where units do not die. The noise_ and pgd_ fields are the same
    under noise and plain PGD.
    """

    margin_before: float
    margin_after: float
    gradient_ratio: float | None
    zero_gradients: float
    blackouts: float
    noise_margin_after: float | None = None
    noise_gradient_ratio: float | None = None
    critical_killed: float | None = None
    noise_critical_killed: float | None = None
    pgd_critical_killed: float | None = None


@dataclass(frozen=True, slots=True)
class SiteBracket:
    """One site, of the units that are not in the region yet and that anything moves.

    attacked: the share that the attack forced together; certified: the share that no perturbation can force more than,
    None where there is no certificate; how: what certifies it. units are those looked at, ``of`` those of the site.
    """

    name: str
    kind: str
    units: int
    of: int
    attacked: float
    certified: float | None
    how: str


@dataclass(frozen=True, slots=True)
class Bracket:
    """An attack on units beside certificates, on n images: what was forced <= what can be <= what is certified.

    reason_exact, reason_intervals: why there is none of these, empty where there is. blackouts: of the first images the
    smallest change inside the box that kills the whole first site, None where none does; exact by a linear program
    (blackout_exact), else at least that. blackouts_anywhere: the same outside the box too, where it is exact.
    """

    n: int
    norm: str
    eps: float
    region: str
    sites: tuple[SiteBracket, ...]
    reason_exact: str
    reason_intervals: str
    blackouts: tuple[float | None, ...] = ()
    blackout_exact: bool = False
    blackouts_anywhere: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class PassedOn:
    """What the inputs that force one model's units did on another: labels changed of those it had right.

    net is the rise of its own units that are gone, None where none of them can be.
    """

    variant: str
    label_changed: Share | None
    net: float | None


@dataclass(frozen=True, slots=True)
class Kill:
    """Forcing units beside noise and plain PGD at the same eps. net is killed minus revived, of all units.

    applicable is False, with the reason, where no site can die. bracket holds it beside certificates; passed is what
    the same inputs did on other models of the audit with other activations.
    """

    threat: str
    applicable: bool
    reason: str
    n: int
    net: float | None
    net_low: float | None
    net_high: float | None
    noise_net: float | None
    pgd_net: float | None
    killed_of_active: float | None
    noise_killed_of_active: float | None
    label_changed: Share | None
    noise_label_changed: Share | None
    sites: tuple[SiteKill, ...]
    effect: KillEffect | None = None
    attack: str = ""
    bracket: Bracket | None = None
    passed: tuple[PassedOn, ...] = ()


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


@dataclass(frozen=True, slots=True)
class Corrupted:
    """Accuracy on images corrupted by chance, not by an adversary. setting is the physical parameter in words."""

    kind: str
    severity: int
    setting: str
    accuracy: Share


@dataclass(frozen=True, slots=True)
class Corruptions:
    """What corruptions do to one model, beside clean accuracy on the same images. Never part of a worst case."""

    n: int
    clean: Share
    rows: tuple[Corrupted, ...]


@dataclass(frozen=True, slots=True)
class NonsenseKind:
    """Confidence on one kind of nonsense inside the box. sure: at least 99 %.

    auroc_confidence, auroc_energy, auroc_entropy: how often a test image scores above one of these, by the probability
    of the decided class, by the logsumexp of the logits and by minus the entropy (0.5 is a coin); fpr95_...: the share
    of these that passes where 95 % of the test images do; None where the model has no such score. attractor is the
    class said most often. not_finite and rejected inputs have no answer and count as not confident.
    """

    kind: str
    mean_confidence: float
    above_90: Share
    sure: Share
    auroc_confidence: float | None
    auroc_energy: float | None
    attractor: str
    attracted: Share
    not_finite: int
    rejected: int = 0
    auroc_entropy: float | None = None
    fpr95_confidence: float | None = None
    fpr95_energy: float | None = None
    fpr95_entropy: float | None = None


@dataclass(frozen=True, slots=True)
class FarField:
    """Confidence at alpha times a noise image, far outside the box: means over rays, and the shares at 99 % or more.

    limited: rays along which one class's logit rises fastest, so that its probability tends to 1; agreed: those of them
    that are called that class at the largest alpha.
    """

    alphas: tuple[float, ...]
    confidence: tuple[float, ...]
    sure: tuple[Share, ...]
    limited: Share
    agreed: Share | None
    precision: str


@dataclass(frozen=True, slots=True)
class FooledClass:
    """How little a black image, and noise, must change (L-inf) to be taken for a class; None: none tried did.

    confidence is that of the class there, or the most it came to.
    """

    name: str
    black: float | None
    black_confidence: float
    noise: float | None
    noise_confidence: float


@dataclass(frozen=True, slots=True)
class Fooling:
    """Classes that a black image and noise are taken for, with the probability ``sure`` or more, within each eps."""

    attack: str
    sure: float
    eps: tuple[float, ...]
    black: tuple[Share, ...]
    noise: tuple[Share, ...]
    classes: tuple[FooledClass, ...]


@dataclass(frozen=True, slots=True)
class NonsensePicture:
    """One nonsense input that the model is sure of: row ``index`` of the array nonsense in examples.npz."""

    index: int
    what: str
    label: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Nonsense:
    """How sure a model is where there is nothing to see, beside how sure it is of test images.

    above_90 is over all kinds together, the same inputs for every variant.
    """

    n: int
    above_90: Share
    test_above_90: Share
    kinds: tuple[NonsenseKind, ...]
    far: FarField
    fooling: Fooling | None
    pictures: tuple[NonsensePicture, ...] = ()


@dataclass(frozen=True, slots=True)
class Variant:
    """One model of the audit: the audited one, a reference model, or one of them behind a chain of defenses."""

    id: str
    title: str
    base: str
    chain: str
    activation: str
    audited: bool
    kind: str
    claims: str
    parameters: int
    fingerprint: str
    fit: dict[str, Any]
    notes: tuple[str, ...]
    clean: Clean
    calibration: tuple[Calibration, ...]
    threats: tuple[ThreatResult, ...]
    sites: tuple[SiteHealth, ...]
    unresolved: tuple[str, ...]
    kills: tuple[Kill, ...]
    corruptions: Corruptions | None = None
    certificate: Certificate | None = None
    nonsense: Nonsense | None = None
    vitals: Vitals | None = None
    miscalibrations: tuple[Miscalibration, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant against its base on the same examples. low and high: 95 % paired bootstrap; p: exact McNemar.

    metric is ``clean_accuracy``, ``ece``, ``nonsense_above_90``, ``dead_units``, or, with ``@`` and a threat,
    ``robust_accuracy``, ``smallest_change`` (its median) or ``confidence_when_wrong``.
    """

    variant: str
    base: str
    metric: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    n: int
    p: float | None
    verdict: Literal["better", "worse", "no detectable difference", "not comparable"]


AdviceLabel = Literal[
    "recommended",
    "calibration only",
    "stability only",
    "costs more than it gives",
    "no detectable effect",
    "not checked",
    "looks better, is masking",
    "not tested",
]
"""What may be said of a defense, best first."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One defense in the ranking. sentence is plain words with its numbers.

    variant is the id of the variant, of an untested defense its name. effects: accuracies on the half of the images
    that the choice did not see, everything else on all. p is that of its robust accuracy at the first threat, corrected
    for how many fixes were compared (Holm). passes, of one image, are what fitting it took, or would take where it is
    not tested; parameters are those it adds.
    """

    variant: str
    label: AdviceLabel
    sentence: str
    estimate: str
    effects: tuple[Comparison, ...] = ()
    p: float | None = None
    passes: int | None = None
    parameters: int | None = None


@dataclass(frozen=True, slots=True)
class Taxon:
    """What a catalog calls the thing a finding is about. edition is that of the catalog in which name was read."""

    scheme: Literal["ATLAS", "OWASP-ML", "NISTAML", "CWE"]
    edition: str
    id: str
    name: str
    url: str


@dataclass(frozen=True, slots=True)
class ChecklistRow:
    """An item of the evaluation checklist of Carlini et al. 2019. evidence is empty unless it is done."""

    number: int
    item: str
    status: Literal["done", "not done", "not applicable"]
    evidence: str


@dataclass(frozen=True, slots=True)
class EvidenceRow:
    """What this run shows of a requirement, in words with the number; it never says that a requirement is met."""

    framework: str
    reference: str
    about: str
    url: str
    status: Literal["measured", "not done"]
    evidence: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding about the model, its data or the audit itself.

    cause and evidence are those of activation health (ACT-A): why it is so, by rule, and what was measured.
    """

    rule: str
    severity: Literal["low", "medium", "high"]
    variant: str
    claim: str
    advice: str
    cause: str = ""
    evidence: str = ""
    taxa: tuple[Taxon, ...] = ()


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate and how it was decided; n is what its value was counted on."""

    gate: str
    variant: str
    value: float | None
    low: float | None
    high: float | None
    limit: float
    outcome: Literal["passed", "failed", "no verdict"]
    why: str
    n: int | None = None
    samples: int | None = None
    """Without a verdict for want of samples: about how many would decide, if the value stays what it is."""


@dataclass(frozen=True, slots=True)
class AcceptedFinding:
    """A finding that the plan accepts up to and with a day (YYYY-MM-DD): it changes no number and no picture.

    state is as of the day the report was made: only what is ``accepted`` is out of the gates.
    """

    finding: str
    until: str
    reason: str
    state: Literal["accepted", "expired", "nothing found"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table that an attack changed, in the column's own units; change is in training deviations.

    A one-hot group is one cell, from a category to another, and its change is 0.
    """

    feature: str
    before: str
    after: str
    change: float


@dataclass(frozen=True, slots=True)
class Example:
    """One attacked input; its images are rows ``index`` of examples.npz (arrays original, attacked)."""

    index: int
    variant: str
    attack: str
    threat: str
    true: str
    before: str
    before_confidence: float
    after: str
    after_confidence: float
    size: float
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """One split of the data."""

    name: str
    n: int
    counts: dict[str, int]
    sha256: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, and what the adversary may do to it, in its own units; std is the training table's."""

    name: str
    group: str | None
    low: float
    high: float
    std: float
    step: float | None
    immutable: bool
    direction: str | None


@dataclass(frozen=True, slots=True)
class Executed:
    """Code of others that the audit executed: what it is for, whose it is, and the sha256 of its file.

    origin is the name of a file, or a module and the distribution with its version that brought it; sha256 is None
    where there is no file to hash. What the file imports is not hashed.
    """

    what: str
    origin: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Data:
    """The data the audit used."""

    name: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    bounds: tuple[float, float]
    grid: int | None
    splits: tuple[SplitInfo, ...]
    notes: tuple[str, ...]
    columns: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """The whole result. headline is the verdict in plain sentences, most important first."""

    schema: int
    actsec: str
    plan: dict[str, Any]
    plan_id: str
    command: str
    status: Literal["complete", "partial"]
    headline: tuple[str, ...]
    heading: str
    model: dict[str, Any]
    data: Data
    variants: tuple[Variant, ...]
    comparisons: tuple[Comparison, ...]
    advice: tuple[Advice, ...]
    problems: tuple[Problem, ...]
    gates: tuple[GateResult, ...]
    not_done: tuple[str, ...]
    examples: tuple[Example, ...]
    exit_code: int
    limits: tuple[str, ...] = field(default=())
    second_opinions: tuple[SecondOpinion, ...] = ()
    mask: str = ""
    accepted: tuple[AcceptedFinding, ...] = ()
    checklist: tuple[ChecklistRow, ...] = ()
    evidence: tuple[EvidenceRow, ...] = ()
    executed: tuple[Executed, ...] | None = None
