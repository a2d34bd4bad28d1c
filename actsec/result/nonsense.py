"""How sure a model is where there is nothing to see."""

from __future__ import annotations

from dataclasses import dataclass

from actsec.result.shares import Share


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
