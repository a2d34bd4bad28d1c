"""A second opinion: ART's counterpart of each attack on a sample of the same images, judged by the same referee.

``--second-opinion`` adds to the plan, for every attack on the first model that has one, the counterpart of ART on the
first images. What it finds counts in the worst case like any candidate. Image by image the report says what only one
of the two broke: an image that only ART breaks is a weakness of our attack, shown and not explained away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec import registry
from actsec.planning.jobs import EXPERIMENTS, variants
from actsec.planning.plan import Plan, Trial
from actsec.result import SecondOpinion
from actsec.spec import Spec, Value, parse
from actsec.types import Threat
from actsec.verdict.gathering import ALREADY_WRONG, FOUND, Gathered, Tried

ROLE = "second_opinion"
IMAGES = 20
"""Images of a second opinion, at most."""
TOGETHER = 32
"""Images ART handles at once."""


def asked(plan: Plan) -> Plan:
    """The plan with the trials of a second opinion, where it asks for one and has none yet."""
    if not plan.second_opinion:
        return plan
    first = variants(plan)[0].name
    made = dict.fromkeys(
        Trial(str(other), trial.threat, min(IMAGES, trial.samples), ROLE, (first,))
        for trial in plan.attacks
        if (not trial.variants or first in trial.variants) and (other := counterpart(trial)) is not None
    )
    return plan.having(attacks=(*plan.attacks, *(trial for trial in made if trial not in plan.attacks)))


def counterpart(trial: Trial) -> Spec | None:
    """What ART has for an attack of the plan, with settings as equal as can be; None when it has nothing."""
    threat = Threat.parse(trial.threat)
    aimed = threat.goal == "misclassify" or threat.target is not None
    if trial.role in {*EXPERIMENTS, "noise", ROLE} or not aimed:
        return None
    option = dict(registry.canonical("attacks", trial.attack).options)
    made = _counterpart(parse(trial.attack).name, option, threat)
    if made is None or threat.norm not in registry.find("attacks", f"art/{made[0]}").norms:
        return None
    return Spec(f"art/{made[0]}", tuple(made[1].items()))


def _counterpart(name: str, option: dict[str, Value], threat: Threat) -> tuple[str, dict[str, Value]] | None:
    eps, batch = threat.eps or 0.0, {"batch_size": TOGETHER}
    steps, restarts = option.get("steps"), option.get("restarts", 1)
    if not eps:
        return ("CarliniL2Method", {"max_iter": 10, **batch}) if threat.norm == "l2" else None
    if name == "fgsm":
        return "FastGradientMethod", dict(batch)
    if name == "pgd" and option["loss"] == "cross_entropy" and isinstance(steps, int):
        size = option["step_size"] if isinstance(option["step_size"], float) else 2.5 * eps / steps
        return "ProjectedGradientDescent", {
            "eps_step": min(size, eps),
            "max_iter": steps,
            "num_random_init": restarts if option["random_start"] else 0,
            **batch,
        }
    if name in ("pgd", "apgd", "autoattack", "cascade"):
        loss = "cross_entropy" if option.get("loss") == "cross_entropy" else "difference_logits_ratio"
        rounds = steps if isinstance(steps, int) else 20
        made = {"max_iter": rounds, "nb_random_init": restarts, "loss_type": loss, **batch}
        return "AutoProjectedGradientDescent", made
    if name == "square":
        return "SquareAttack", {"max_iter": option["queries"], "p_init": option["p"], **batch}
    # Its differential evolution asks 400 times a generation, one image at a time.
    return ("PixelAttack", {"max_iter": 5}) if name == "one_pixel" and threat.norm == "l0" else None


def opinions(g: Gathered, plan: Plan) -> tuple[SecondOpinion, ...]:
    """Every attack of the first model beside its counterpart, image by image."""
    if not plan.second_opinion:
        return ()
    theirs = {(t.trial.attack, t.trial.threat): t for t in g.tried if t.trial.role == ROLE}
    pairs = [(t, counterpart(t.trial)) for t in g.tried]
    return tuple(
        _compared(g, ours, theirs[str(other), ours.trial.threat])
        for ours, other in pairs
        if other is not None and (str(other), ours.trial.threat) in theirs
    )


def _compared(g: Gathered, ours: Tried, theirs: Tried) -> SecondOpinion:
    first, second = (str(registry.brief("attacks", parse(t.trial.attack))) for t in (ours, theirs))
    problem = next((t.error or "not finished" for t in (ours, theirs) if not t.usable), None)
    if problem is not None:
        return SecondOpinion(ours.trial.threat, first, second, 0, 0, 0, (), (), (), None, 0, problem)
    n = min(len(t.arrays["status"]) for t in (ours, theirs))
    open_ = np.array([t.arrays["status"][:n] != ALREADY_WRONG for t in (ours, theirs)]).all(0)
    ours_found, theirs_found = (t.arrays["status"][:n] == FOUND for t in (ours, theirs))
    alone = g.wrong_under(ours.threat, n, [t for t in g.tried if t.trial.role != ROLE]) < 0.5
    both = open_ & ours_found & theirs_found
    ratio = None
    if ours.threat.eps is None and both.any():
        ratio = float(np.median(theirs.arrays["size"][:n][both] / ours.arrays["size"][:n][both]))
    return SecondOpinion(
        threat=ours.trial.threat,
        ours=first,
        theirs=second,
        n=int(open_.sum()),
        both=int(both.sum()),
        neither=int((open_ & ~ours_found & ~theirs_found).sum()),
        only_ours=_rows(open_ & ours_found & ~theirs_found),
        only_theirs=_rows(open_ & ~ours_found & theirs_found),
        missed=_rows(open_ & theirs_found & alone),
        ratio=ratio,
        rejected=int(theirs.arrays["rejected"][:n].sum()),
    )


def _rows(which: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(row) for row in np.flatnonzero(which))
