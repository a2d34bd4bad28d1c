"""What became of the units: their health, what killed them, and what no attack can exceed."""

from __future__ import annotations

from dataclasses import dataclass

from actsec.result.shares import Share


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
