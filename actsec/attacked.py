"""One attack on given examples: what ``actsec.attack`` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from actsec import geometry, goals, losses, moving, registry
from actsec import target as targets
from actsec.data.streamed import row_ids
from actsec.draws import Draws
from actsec.errors import BadOption, DataError, ThreatError
from actsec.forcing import beside
from actsec.health import tally
from actsec.planning import budgets
from actsec.result import Miscalibration, Share, saved_as
from actsec.running import attacking
from actsec.search import masks, proposals, straight_through, surrogates
from actsec.search.features import Table
from actsec.search.ledger import ALREADY_WRONG, FOUND, Verdicts
from actsec.search.oracle import bounded
from actsec.search.referee import attack_target, cases_of
from actsec.search.tables import constrained
from actsec.spec import Spec, parse
from actsec.types import MEMORY, Ask, Attack, Cases, Recipe, Region, Reply, Target, Threat
from actsec.verdict import miscalibrated, statistics
from actsec.verdict.threats import NOTHING

Array = NDArray[Any]
Images = Tensor | Array


@dataclass(frozen=True, slots=True)
class Attacked:
    """What one attack achieved on n examples.

    x (n, *shape) float32: the attacked inputs; success (n,) bool: right before, wrong after; size (n,) float64:
    distance in the threat's norm; still_correct: the share classified correctly after this attack alone, an upper bound
    on robust accuracy; verdicts: the referee's full record; sentence: the same in words; counted (n,) bool: rows that
    had something to reach (an input of the wanted class has not: its status says nothing); whole (n, *shape), where a
    grid was given: x as the whole numbers it is saved as.
    """

    x: Array
    success: Array
    size: Array
    correct_before: int
    still_correct: Share
    verdicts: Verdicts
    sentence: str
    counted: Array
    whole: Array | None = None
    miscalibration: Miscalibration | None = None
    """What moving the confidence did to calibration, beside noise (see moving), under that goal alone."""
    forced: tuple[beside.Forced, ...] = ()
    """What forcing units did, then noise and plain PGD at the same eps, under the goals of forcing alone."""


def attack(
    target: Target | nn.Module,
    x: Images,
    y: Images,
    attack: str | Spec | Attack[Any],  # the word for it
    *,
    eps: float | Images | None = None,
    threat: str | Threat | None = None,
    target_class: int | Images | None = None,
    mask: Array | None = None,
    grid: int | None = None,
    seed: int = 0,
    id: Images | None = None,
    table: Table | None = None,
    source: Target | None = None,
    memory: int = MEMORY,
    note: Callable[[Tensor, Ask, Reply], None] | None = None,
) -> Attacked:
    """Run one attack on examples x (n, *shape) in input units and labels y (n,); a module is loaded as a target.

    attack is a spec such as ``pgd(steps=200)`` or an attack object; threat such as ``linf:8/255`` or ``l2`` overrides
    eps, whose norm is the attack's first; eps may be one number a row, then threat gives the norm alone; target_class,
    one for all or one a row, asks for that very class, as the threats ``linf:8/255:class=3`` and ``:least_likely`` do;
    mask, boolean of an input's shape or of its height and width, is True where an input may change; grid is the number
    that stands for the box's upper end in whole-numbered data (255): what was found is judged again as saved so; source
    is the surrogate that ``transfer`` crafts on; memory, in MiB, bounds the activations of one call of the model, as an
    audit's does (at least 1); note sees every question, with the rows it is about, and its reply.
    Every success is judged by the target's own rule on a fresh float32 forward; the model is bit-equal afterwards.
    Raises ThreatError when the attack cannot run under the threat, BadOption for a memory below 1.

    table, the ``table`` of a data set whose rows x are, says what may change in each: bounds, steps, groups.
    """
    if memory < 1:
        raise BadOption(f"memory = {memory}", "Give at least 1, in MiB.")
    made: Attack[Any] | Recipe
    target = targets.of(target, x)
    made, name = _attack(attack)
    under, radii = _budget(made, name, eps, threat, len(y))
    goals.check(under, target.shape, target.bounds, len(target.classes))
    xs, ys = tensor(x, target.device, torch.float32), tensor(y, target.device, torch.int64)
    _check(target, xs, ys)
    target = bounded(target, xs, memory)
    if under.region and (reason := tally.kill_profile(target, xs[:2], xs[:2], region=under.region).reason):
        mend = "Units of relu die, those of tanh and sigmoid saturate, those of gelu and silu have zero tails."
        raise ThreatError(f"{name}: {reason}", mend)
    radius = under.eps if radii is None else radii.to(target.device)
    cases = constrained(cases_of(target, xs, ys, under.norm, radius, _ids(made, xs, id)), table)
    cases = masks.applied(cases, None if mask is None else masks.fitted(mask, tuple(target.shape)))
    cases = _aimed(goals.aimed(cases, under, target), target_class, len(target.classes))
    named = f"{name}@{under}"  # as an audit does, so that the same attack draws the same numbers
    brief, made = _brief(made, name), proposals.ready(made, target, cases, Draws(seed, named))
    if source is None:
        shape, device = tuple(target.shape), target.device
        source = surrogates.named(made, classes=target.classes, shape=shape, bounds=target.bounds, device=device)
    flat = attacking.Flat(cases, note)
    verdicts = attack_target(
        surrogates.ready(made, cases, source, (), seed, memory),
        target,
        cases,
        losses.goal_of(under, made, target.threshold),
        seed=seed,
        name=named,
        repeats=budgets.repeats("standard", target),
        search=straight_through.of(made, target),
        grid=grid,
        note=flat,
    )
    achieved = _achieved(brief, under, target, cases, proposals.paid(made, verdicts), grid, flat)
    if under.region is not None:
        return _with_effect(achieved, made, brief, under, target, cases, seed)
    return achieved if under.aim is None else _with_calibration(achieved, brief, under, target, cases, seed)


def _with_effect(
    found: Attacked, made: object, brief: str, under: Threat, target: Target, cases: Cases, seed: int
) -> Attacked:
    """The same with what forcing units did to them and to the labels."""
    assert under.region is not None  # noqa: S101  # the caller asked
    forced = beside.measure(made, found.verdicts, under, under.region, target, cases, seed)
    blackout = dict(parse(brief).options).get("aim") == "blackout"
    rise = _rise(brief, under.region, found.verdicts, forced[0].rise)
    sentence = f"{found.sentence}, {rise}; {beside.words(forced, under.region, blackout=blackout)}"
    return dataclasses.replace(found, forced=forced, sentence=sentence)


def _with_calibration(found: Attacked, brief: str, under: Threat, target: Target, cases: Cases, seed: int) -> Attacked:
    """The same with what moved confidence did to calibration."""
    made = moving.measure(brief, under, target, cases, found.verdicts, seed)
    sentence = f"{found.sentence}; {miscalibrated.words(made)}"
    return dataclasses.replace(found, miscalibration=made, sentence=sentence)


def _ids(made: Any, x: Tensor, id: Images | None) -> Tensor | None:
    """The rows' ids, those of their content for an attack that looks examples up by it; None counts from 0."""
    given = row_ids(x.cpu().numpy()) if id is None and hasattr(made, "content") else id
    given = given.view(np.int64) if isinstance(given, np.ndarray) else given
    return None if given is None else tensor(given, x.device)


def _achieved(
    brief: str, under: Threat, target: Target, cases: Cases, verdicts: Verdicts, grid: int | None, flat: attacking.Flat
) -> Attacked:
    """The verdicts as the caller reads them."""
    counted, every = goals.counted(cases).cpu().numpy(), verdicts.status.cpu().numpy()
    status = every[counted]
    before = int(np.sum(status != ALREADY_WRONG))
    wrong = verdicts.wrong.cpu().numpy().astype(np.float64)[counted]
    reached = np.isin(status, (FOUND, ALREADY_WRONG))
    if aimed := bool((cases.target >= 0).any()) or under.confidence is not None:
        wrong = reached.astype(np.float64)
    elif not target.stochastic:
        wrong[~reached] = 0.0
    still = statistics.share(round(float(np.sum(1 - wrong))), len(status)) if len(status) else NOTHING
    said = _sentence(brief, under, counted, before, still, verdicts, aimed=aimed)
    return Attacked(
        x=verdicts.x.cpu().numpy(),
        success=(every == FOUND) & counted,
        size=verdicts.size.cpu().numpy(),
        correct_before=before,
        still_correct=still,
        verdicts=verdicts,
        sentence=said + _saved(verdicts, grid) + flat.said("; "),
        counted=counted,
        whole=None if grid is None else _levels(cases, verdicts.x, grid),
    )


def _aimed(cases: Cases, target_class: int | Images | None, classes: int) -> Cases:
    """The cases with the class asked for, one for all or one a row (-1: any wrong one). Raises ThreatError."""
    if target_class is None:
        return cases
    if bool((cases.target >= 0).any()):
        raise ThreatError("the threat names a class and so does target_class", "Give one of them.")
    one = isinstance(target_class, int)
    wanted = target_class if isinstance(target_class, int) else tensor(target_class, cases.y.device, torch.int64)
    every = torch.zeros_like(cases.y) + wanted
    if not (0 if one else -1) <= int(every.min()) <= int(every.max()) < classes:
        raise ThreatError(
            f"target_class runs from {int(every.min())} to {int(every.max())}, the target has {classes} classes",
            "Classes count from 0.",
        )
    return dataclasses.replace(cases, target=every)


def _saved(verdicts: Verdicts, grid: int | None) -> str:
    """How much of what was found holds when saved as whole numbers, in words."""
    asked = int((verdicts.on_grid >= 0).sum())
    if grid is None or not asked:
        return ""
    return f"; {int((verdicts.on_grid == 1).sum())} of {asked} found still succeed as {saved_as(grid)}"


def _levels(cases: Cases, x: Tensor, grid: int) -> Array:
    """Attacked inputs as whole numbers 0 to grid, of the smallest type that holds them, inside ball and box."""
    low, high = geometry.reach(cases)
    level = ((geometry.gridded(cases, x, grid).double() - low) / (high - low) * grid).round()
    return level.cpu().numpy().astype(np.uint8 if grid < 256 else np.uint16)


def _check(target: Target, x: Tensor, y: Tensor) -> None:
    """Refuse inputs of another shape or outside the target's box, where nothing would be admissible, and odd labels."""
    low, high = target.bounds
    shape, given = tuple(target.shape), tuple(x.shape[1:])
    if shape and given != shape:
        last = len(given) == 3 and (given[2], given[0], given[1]) == shape
        mend = "Channels come first: x.permute(0, 3, 1, 2)." if last else "Give inputs of that shape."
        raise DataError(f"inputs have shape {given}, the target takes {shape}", mend)
    if len(x) != len(y) or not len(x):
        raise DataError(f"{len(x)} inputs with {len(y)} labels", "Give one label for each input, and at least one.")
    if not bool(((x >= low) & (x <= high)).all()):
        least, most = float(x.min()), float(x.max())
        raise DataError(
            f"inputs lie in [{least:g}, {most:g}], outside the target's [{low:g}, {high:g}]",
            "Divide them by 255, or load the target with bounds=(0, 255) if it takes them so."
            if (low, high) == (0, 1) and least >= 0 and 1 < most <= 255
            else "Scale them, or load the target with the bounds its inputs have.",
        )
    if not 0 <= int(y.min()) <= int(y.max()) < len(target.classes):
        raise DataError(
            f"labels run from {int(y.min())} to {int(y.max())}, the target has {len(target.classes)} classes",
            "Labels count from 0.",
        )


def _brief(made: Attack[Any], name: str) -> str:
    """The attack without the options at their defaults."""
    fields = dataclasses.fields(made)  # type: ignore[arg-type]  # a dataclass
    changed = tuple((f.name, getattr(made, f.name)) for f in fields if getattr(made, f.name) != f.default)
    return str(Spec(parse(name).name, changed))


def _sentence(
    name: str, threat: Threat, counted: Array, before: int, still: Share, verdicts: Verdicts, *, aimed: bool
) -> str:
    n = int(counted.sum())
    if threat.region is not None:
        return f"{name} at {threat}: {n} tested"
    if threat.aim is not None:
        moved = int((verdicts.status == FOUND).sum())
        return f"{name} at {threat}: {n} tested, confidence moved on {moved} and the label on none"
    text = f"{name} at {threat}: {n} tested, {before} correct before, {still.k} still correct after"
    if aimed:
        text = f"{name} at {threat}: {n} tested, {before} not there before, {still.k} not driven there"
        left_out = len(counted) - n
        text += f" ({left_out} of the wanted class left out)" if left_out else ""
    if threat.eps is None and before:
        open_ = (verdicts.status != ALREADY_WRONG) & torch.from_numpy(counted).to(verdicts.status.device)
        size = torch.where(verdicts.status == FOUND, verdicts.size, torch.inf)[open_]
        median = float(size.median())
        text += f"; half of them fall to a change of {threat.norm} size {median:.4g} or less"
    return text


def _rise(name: str, region: Region, verdicts: Verdicts, rise: float) -> str:
    """What came of forcing units, by what the attack aimed at."""
    options = dict(parse(name).options)
    if options.get("aim") == "blackout":
        return f"a whole site dead on {int((verdicts.score > 0).sum())}"
    gone = {"dead": "dead share", "saturated": "saturated share", "zero_tail": "share in a zero tail"}[region]
    where = "critical units" if options.get("aim") == "critical" else "units"
    where += f" of site {options['site']}" if options.get("site") is not None else ""
    signs = "killed minus revived" if region == "dead" else "forced there minus come back"
    return f"{gone} of {where} {rise:+.3f} net ({signs})"


def _attack(attack: str | Spec | Attack[Any]) -> tuple[Attack[Any], str]:
    if isinstance(attack, (str, Spec)):
        spec = parse(attack) if isinstance(attack, str) else attack
        return registry.build("attacks", spec), str(registry.canonical("attacks", spec))
    options = {f.name: getattr(attack, f.name) for f in dataclasses.fields(attack)}  # type: ignore[arg-type]  # a dataclass
    return attack, str(Spec(type(attack).__module__.rpartition(".")[2], tuple(options.items())))


def _budget(
    made: Attack[Any], name: str, eps: float | Images | None, threat: str | Threat | None, n: int
) -> tuple[Threat, Tensor | None]:
    """The threat, and the budget of each row (n,) float64 where they differ: then the threat has the largest."""
    if eps is None or isinstance(eps, (str, float, int)):
        return _threat(made, name, eps, threat), None
    radii = torch.as_tensor(eps, dtype=torch.float64, device="cpu").flatten()
    if len(radii) != n or not bool((torch.isfinite(radii) & (radii > 0)).all()):
        raise ThreatError(f"eps holds {len(radii)} numbers for {n} inputs", "Give one positive number for each.")
    under = _threat(made, name, float(radii.max()), None) if threat is None else Threat.parse(str(threat))
    if threat is not None and under.eps is not None:
        raise ThreatError(f"{under} and an eps for each input", f"Give threat={under.norm!r}, or leave eps out.")
    return _threat(made, name, None, dataclasses.replace(under, eps=float(radii.max()))), radii


def _threat(made: Attack[Any], name: str, eps: float | None, threat: str | Threat | None) -> Threat:
    if threat is None:
        minimal = "minimal" in made.roles or bool(getattr(made, "sizes", ()))
        if not minimal and eps is None:
            raise ThreatError(f"{name} needs an eps", "Give eps=8/255, or threat='l2:0.5'.")
        goal = getattr(made, "goal", "misclassify")
        if isinstance(eps, str):
            raise ThreatError(f"eps {eps!r} is a text", f"Give a number, or threat='{made.norms[0]}:{eps}'.")
        threat = Threat(made.norms[0], None if minimal else eps, goal)
    under = Threat.parse(threat) if isinstance(threat, str) else threat
    if under.norm not in made.norms:
        raise ThreatError(f"{name} works in {', '.join(made.norms)}, not in {under.norm}", "Use a norm of its own.")
    return under


def tensor(value: Images, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """What a caller gave, an array or a tensor, on a device; of its own type where none is asked for."""
    given = torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
    return given.to(device=device, dtype=dtype or given.dtype)
