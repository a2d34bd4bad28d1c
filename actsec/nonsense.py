"""Confidence where there is nothing to see: noise, scrambled images, blanks, and inputs far outside the box.

    found = actsec.nonsense.measure(target, x)        # how sure is it of nonsense?
    fooled = actsec.fool(target)                      # how little must a blank change before it is sure of a class?

A classifier has no answer "this is nothing", so what it says of nonsense shows whether its confidence means anything.
A network of piecewise-linear activations is ever surer the further it goes along a ray (Hein, Andriushchenko &
Bitterwolf 2019, theorem 3.1); dividing the logits by a temperature only moves the place where that happens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actsec import registry
from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.losses import Confident
from actsec.search.ledger import ALREADY_WRONG, FOUND
from actsec.search.oracle import Oracle, frozen
from actsec.search.referee import attack_target
from actsec.spec import Spec
from actsec.types import Cases, Target, pad_zero, read_head

Array = NDArray[Any]

KINDS = ("uniform noise", "gaussian noise", "permuted pixels", "blank")
"""What the codes of ``Nonsense.kind`` mean. The first blanks are black, grey, white and the mean image."""
NOT_FINITE, REJECTED = -1, -2
ROWS = 200
STATISTICS = 1000
"""The mean image and its deviation are those of the first so many images."""

ALPHAS = (1.0, 10.0, 100.0, 1e4, 1e6)
RAYS = 32
_UNIQUE = 1e-5
"""One logit outgrows the others when it gains more on them than this share of the largest: above float32's rounding."""

STARTS = ("black", "noise")
FOOLING = {
    "quick": "fooling(steps=20)",
    "standard": "fooling(steps=40, restarts=2)",
    "thorough": "fooling(steps=100, restarts=3)",
}
FOOLING_EPS = (0.1, 0.25, 0.5, 1.0)
FOOLING_CLASSES = 10
SURE = 0.99


@dataclass(frozen=True, slots=True)
class Nonsense:
    """What a target says of nonsense inputs, rows first.

    confidence (n,) float64: the probability of the decided class, 0 where there is no answer; label (n,) int64: that
    class, REJECTED where the target's detector abstains, NOT_FINITE where the logits are not; energy (n,): logsumexp of
    the logits, NaN where there is no answer and for a stochastic target; entropy (n,): that of the probabilities in
    nats, NaN where there is no answer; kind (n,) int64 indexes KINDS; shown (kinds,
    *shape): of each kind the input that the target is surest of, row by row in surest.
    """

    confidence: Array
    label: Array
    energy: Array
    entropy: Array
    kind: Array
    shown: Array
    surest: Array


@dataclass(frozen=True, slots=True)
class Rays:
    """Confidence along alpha * u for noise images u, far outside the box.

    confidence (0 where a detector abstains), label (rays, alphas); limit (rays,): the class whose logit rises fastest
    out there, towards which a piecewise-linear network tends, -1 where none does alone or the detector abstains: then
    the confidence stays below 1. precision is float64, or float32 where the model cannot be run in float64: logits are
    then rounded to 1e-7 of their size, which blurs a limit but not its class.
    """

    confidence: Array
    label: Array
    limit: Array
    precision: str


def measure(target: Target, x: Tensor, id: Tensor | None = None, *, seed: int = 0, repeats: int = 1) -> Nonsense:
    """Confidence on ROWS inputs of each kind inside the box: the same for every target of this shape and box.

    x (n, *shape): images whose mean and deviation the Gaussian noise has and whose pixels are permuted, with row ids
    (n,). repeats draws of a stochastic target are averaged. Cost: 4 * ROWS * repeats forwards.
    """
    made, kind = inputs(x, torch.arange(len(x)) if id is None else id, target.bounds, seed)
    plain = target.having(threshold=None)
    with frozen(target.model):
        decided, refused = Oracle(plain, 0, repeats, seed, "nonsense").decided(made)
    drawn = decided.double().cpu()
    logits = drawn[0] if repeats == 1 else torch.log_softmax(drawn, -1).logsumexp(0) - float(np.log(repeats))
    finite, refused = torch.isfinite(logits).all(1), refused.double().mean(0).cpu() > 0.5
    label, answered = target.decide(logits), finite & ~refused
    probability = torch.softmax(logits, 1).gather(1, label[:, None])[:, 0]
    confidence = torch.where(answered, probability, 0.0).numpy()
    energy = torch.where(answered & (repeats == 1), logits.logsumexp(1), torch.nan)
    log_p = logits.log_softmax(1)
    # A probability of 0 adds nothing; its log is minus infinity.
    entropy = torch.where(answered, -(log_p.exp() * log_p).nan_to_num(0.0).sum(1), torch.nan)
    codes = kind.numpy()
    surest = np.array([np.flatnonzero(codes == k)[confidence[codes == k].argmax()] for k in range(len(KINDS))])
    return Nonsense(
        confidence,
        torch.where(answered, label, torch.where(finite, REJECTED, NOT_FINITE)).numpy(),
        energy.numpy(),
        entropy.numpy(),
        codes,
        made[torch.from_numpy(surest)].cpu().numpy(),
        surest,
    )


def inputs(x: Tensor, id: Tensor, bounds: tuple[float, float], seed: int) -> tuple[Tensor, Tensor]:
    """Nonsense (m, *shape) float32 inside the box, and its kind (m,) int64 by KINDS, on the CPU of x's device."""
    low, high = bounds
    shape, row = tuple(x.shape[1:]), torch.arange(ROWS, device=x.device)
    draws, known = Draws(seed, "nonsense"), x[:STATISTICS].double()
    mean, deviation = known.mean(0), known.std(0, unbiased=False)
    uniform = low + (high - low) * draws.named("uniform").uniform(row, 0, shape)
    gaussian = (mean + deviation * draws.named("gaussian").normal(row, 0, shape)).clamp(low, high).to(x.dtype)
    plain = (shape[0], 1, 1) if len(shape) == 3 else (1,) * len(shape)
    blank = (low + (high - low) * draws.named("blank").uniform(row, 0, plain)).expand(-1, *shape).clone()
    for i, level in enumerate((low, (low + high) / 2, high)):
        blank[i] = level
    blank[3] = mean.clamp(low, high).to(x.dtype)
    made = (uniform, gaussian, permuted(x[:ROWS], id[:ROWS].to(x.device), draws.named("permuted")), blank)
    kind = [torch.full((len(part),), k) for k, part in enumerate(made)]
    return torch.cat(made), torch.cat(kind)


def permuted(x: Tensor, id: Tensor, draws: Draws) -> Tensor:
    """Each image (n, channels, h, w) with its pixels in another order, colours kept; each vector with its features."""
    flat = x.flatten(2) if x.dim() == 4 else x.flatten(1)[:, None]
    order = draws.bits(id, 0, (flat.shape[2],)).argsort(dim=1, stable=True)
    return flat.gather(2, order[:, None].expand_as(flat)).reshape(x.shape)


def far(target: Target, seed: int = 0) -> Rays:
    """Confidence along RAYS noise images u of the box, at alpha * u for ALPHAS, on a float64 copy of the model.

    limit comes from the rise f(2 alpha u) - f(alpha u) at the largest alpha: of a piecewise-linear model whose last
    pieces lie nearer it is alpha times the Jacobian applied to u, alpha V u of theorem 3.1. A stochastic target draws
    the same numbers at every alpha. Cost: 6 * RAYS forwards in float64.
    """
    low, high = target.bounds
    row = torch.arange(RAYS, device=target.device)
    u = low + (high - low) * Draws(seed, "nonsense/far").uniform(row, 0, tuple(target.shape)).double()
    exact, precision = _precise(target, u, seed)
    with frozen(exact.model):
        logits = [_logits(exact, alpha * u, precision, seed) for alpha in (*ALPHAS, 2 * ALPHAS[-1])]
    with frozen(target.model):
        refused = torch.stack([_refused(target, alpha * u) for alpha in ALPHAS], 1)
    rise = logits[-1] - logits[-2]
    two = rise.topk(2, 1).values
    alone = two[:, 0] - two[:, 1] > _UNIQUE * logits[-1].abs().amax(1)
    stacked = torch.stack(logits[:-1], 1)
    label = target.decide(stacked)
    confidence = torch.softmax(stacked, -1).gather(-1, label[..., None])[..., 0]
    limit = torch.where(alone & torch.isfinite(rise).all(1) & ~refused[:, -1], rise.argmax(1), -1)
    confidence = torch.where(torch.isfinite(stacked).all(-1) & ~refused, confidence, 0.0)
    return Rays(confidence.cpu().numpy(), label.cpu().numpy(), limit.cpu().numpy(), precision)


def _precise(target: Target, u: Tensor, seed: int) -> tuple[Target, str]:
    """The target on a float64 copy of its model; the target itself where that cannot be made or run."""
    try:
        made = target.having(model=copy.deepcopy(target.model).double())
        with frozen(made.model):
            _logits(made, u[:1], "float64", seed)
    except Exception:  # noqa: BLE001  # a stranger's model may hold float32 constants, or refuse to be copied
        return target, "float32"
    return made, "float64"


def _logits(target: Target, x: Tensor, precision: str, seed: int) -> Tensor:
    """The model's own logits (n, classes) as float64, without the rounding to float32 of Target.logits."""
    x = x.to(torch.float64 if precision == "float64" else torch.float32)
    torch.manual_seed(seed)  # only a stochastic target draws; the caller has frozen the generator
    with torch.no_grad():
        z = read_head(target.model(target.normalization(x) if target.normalization else x.clone()), target.output)
    z = z.double()
    return pad_zero(z.reshape(-1, 1)) if z.dim() == 1 or z.shape[1] == 1 else z


def _refused(target: Target, x: Tensor) -> Tensor:
    """Whether the target's detector abstains on inputs (n, *shape): (n,) bool."""
    with torch.no_grad():
        score = target.rejection(x.float())
    return torch.zeros(len(x), dtype=torch.bool, device=x.device) if score is None else ~(score <= 0)


@dataclass(frozen=True, slots=True)
class FollowedOn(Confident):
    """``Confident`` of a target with a detector: a start that it rejects is no success, and the row goes on."""

    settles: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Fooled:
    """What ``fool`` reached, one row for each start and class.

    start (m,) int64 indexes STARTS, target (m,) int64; eps (m,) float64: the smallest L-inf change of the start at
    which the class had the confidence asked for, infinity for none; confidence (m,): that of the class on x, 0 where
    there is no answer; x (m, *shape): the input so found, or the best attempt; forwards, backwards (m,) int64.
    """

    start: Array
    target: Array
    eps: Array
    confidence: Array
    x: Array
    forwards: Array
    backwards: Array


def fool(
    target: Target,
    *,
    classes: Sequence[int] | None = None,
    eps: Sequence[float] | None = None,
    confidence: float = SURE,
    attack: str | Spec = FOOLING["standard"],
    seed: int = 0,
    repeats: int = 1,
) -> Fooled:
    """Make a blank (all at the lower bound) and noise look like each class, within an L-inf ball around them.

    classes: all, or FOOLING_CLASSES spread over them where there are more; eps: radii tried, in input units, the box's
    width times FOOLING_EPS where not given; every success counts for its own size, which may be smaller. Each start,
    class and radius is one row of an ordinary attack under the goal ``confident``, judged by the referee. Where a
    detector abstains a success must be accepted, and rows are followed to their last step. Cost: at most starts *
    classes * radii * steps forwards and backwards for each restart. Raises BadOption.
    """
    low, high = target.bounds
    count = len(target.classes)
    chosen = spaced(count) if classes is None else tuple(classes)
    radii = tuple(e * (high - low) for e in FOOLING_EPS) if eps is None else tuple(eps)
    if not chosen or not all(0 <= c < count for c in chosen):
        raise BadOption(f"classes {list(chosen)}: the target has {count}", "Classes count from 0; give at least one.")
    if not radii or not all(e > 0 for e in radii):
        raise BadOption(f"eps {list(radii)}", "Give radii above 0, in input units.")
    if not 0.5 <= confidence < 1:
        raise BadOption(f"confidence {confidence}", "Give a probability from 0.5 to 1, such as 0.99.")
    pairs = torch.cartesian_prod(torch.arange(len(STARTS)), torch.tensor(chosen)).to(target.device)
    rows = _rows(target, pairs, radii, seed)
    verdicts = attack_target(
        registry.build("attacks", attack),
        target,
        rows,
        (Confident if target.rejects is None else FollowedOn)(confidence, target.threshold),
        seed=seed,
        name=f"{attack}@nonsense",
        repeats=repeats,
    )
    reached = (verdicts.status == FOUND) | (verdicts.status == ALREADY_WRONG)
    size = torch.where(reached, verdicts.size, torch.inf).reshape(len(pairs), -1)
    undo = target.having(threshold=None if target.threshold is None else 1 - target.threshold)
    own = undo.decision_logits(verdicts.logits.double())
    sure = torch.softmax(own, 1).gather(1, rows.target[:, None]).nan_to_num(0.0).reshape(size.shape)
    # The smallest success; of none, the radius at which the class came nearest.
    best = torch.where(torch.isfinite(size).any(1), size.argmin(1), sure.argmax(1))[:, None]
    x = verdicts.x.reshape(*size.shape, *target.shape)
    return Fooled(
        start=pairs[:, 0].cpu().numpy(),
        target=pairs[:, 1].cpu().numpy(),
        eps=size.amin(1).cpu().numpy(),
        confidence=sure.gather(1, best)[:, 0].cpu().numpy(),
        x=x[torch.arange(len(pairs)), best[:, 0]].cpu().numpy(),
        forwards=verdicts.forwards.reshape(size.shape).sum(1).cpu().numpy(),
        backwards=verdicts.backwards.reshape(size.shape).sum(1).cpu().numpy(),
    )


def spaced(count: int) -> tuple[int, ...]:
    """Every class, or FOOLING_CLASSES of them at equal distances."""
    return tuple(dict.fromkeys(np.linspace(0, count - 1, min(count, FOOLING_CLASSES)).round().astype(int).tolist()))


def _rows(target: Target, pairs: Tensor, radii: Sequence[float], seed: int) -> Cases:
    """One row for each pair (start, class) and radius. A row has no true class: its label is its target."""
    low, high = target.bounds
    row = pairs[:, 0] * len(target.classes) + pairs[:, 1]
    noise = low + (high - low) * Draws(seed, "nonsense/start").uniform(row, 0, tuple(target.shape))
    blank = pairs[:, 0].reshape(-1, *(1,) * len(target.shape)) == STARTS.index("black")
    one = Cases(
        id=row,
        x=torch.where(blank, torch.full_like(noise, low), noise),
        y=pairs[:, 1],
        target=pairs[:, 1],
        eps=torch.zeros(len(pairs), dtype=torch.float64, device=pairs.device),
        norm="linf",
        low=low,
        high=high,
    )
    many = one.repeated(len(radii))
    return replace(many, eps=torch.tensor(radii, dtype=torch.float64, device=pairs.device).repeat(len(pairs)))
