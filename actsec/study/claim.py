"""Whether "poisoned data causes gradient obfuscation, weakening deep layers" holds of a network and a poison, by rule.

The claim has two halves, and both must be seen, beyond the clean twin and beyond the random control:

    obfuscation   the gradient attack leaves more rows correct, and more than the attacks without gradients (by scores,
                  transfer) leave on the same rows
    weakening     more units dead on all clean rows or saturated, or G, first layer's gradient over the last's, lower

Seen is p < 0.05: of each requirement the largest p counts, and Holm's correction is over all networks and poisons of a
study. A half is ruled out where the 95 % interval of a requirement, over the twin, ends below its margin. So:

    holds                      both halves are seen
    does not hold              a half is ruled out; or every network was destroyed, by a training that broke off or an
                               accuracy near chance: a network that answers nothing hides nothing
    no detectable difference   neither
    not comparable             the clean twin did not learn, or training broke off in some seeds only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec.study.comparing import Pair, compare
from actsec.study.harm import Harm
from actsec.study.poison import Cell
from actsec.verdict.statistics import holm

Array = NDArray[Any]
MARGIN = 0.05
"""An effect on a share that is held for nothing where the interval ends below it."""
FLOW = 0.3
"""The same for the decimal logarithm of G: half of it."""
CHANCE = 2.0
"""A network is near chance below twice the accuracy of guessing."""
HOLDS, FAILS, UNKNOWN, UNLIKE = "holds", "does not hold", "no detectable difference", "not comparable"
POISONED, TWIN, CONTROL = "poisoned", "clean twin", "random control"


@dataclass(frozen=True, slots=True)
class Effect:
    """One requirement: the poisoned networks less their twins, and less their controls; None where it is not a number.

    up is what the claim asks: a rise beyond margin.
    """

    name: str
    margin: float
    over_twin: Pair | None
    over_control: Pair | None

    @property
    def p(self) -> float:
        """The larger of both p, 1 where the effect does not rise."""
        pairs = [self.over_twin, self.over_control]
        return max(pair.p if pair is not None and pair.difference > 0 else 1.0 for pair in pairs)

    @property
    def ruled_out(self) -> bool:
        """Whether any rise over the twin is below the margin."""
        return self.over_twin is not None and self.over_twin.high < self.margin


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of the claim for one network and poison. p is corrected over all of the study; 1: not compared."""

    activation: str
    depth: int
    poison: str
    word: str
    sentence: str
    p: float
    effects: tuple[Effect, ...]


def values(of: Sequence[Harm], read: Callable[[Harm], Any]) -> list[Array] | None:
    """What ``read`` gives of each seed, as rows for ``comparing``; None where any has nothing finite."""
    found = [read(each) for each in of]
    if any(value is None or not np.isfinite(value).all() for value in found):
        return None
    return [np.atleast_1d(np.asarray(value, np.float64)) for value in found]


def gradient_rows(found: Harm) -> Array | None:
    """1 where a row stands against the gradient attack (n,)."""
    return found.rows.get("pgd")


def hidden_rows(found: Harm) -> Array | None:
    """Gradient attack less the best without gradients, row by row (n,): above 0 where gradients mislead."""
    if "pgd" not in found.rows:
        return None
    free: Array = np.minimum(found.rows["square"], found.rows["transfer"])
    return found.rows["pgd"] - free


def _less_flow(found: Harm) -> float | None:
    return None if found.flow is None else -found.flow


REQUIRED: tuple[tuple[str, float, Callable[[Harm], Any]], ...] = (
    ("rows standing against PGD", MARGIN, gradient_rows),
    ("rows standing against PGD beyond square and transfer", MARGIN, hidden_rows),
    ("silenced units", MARGIN, lambda found: found.silent),
    ("fall of log10 G", FLOW, _less_flow),
)


def effects(cell: Cell) -> tuple[Effect, ...]:
    """The four requirements of the claim, measured at once after the poison."""
    found = []
    for name, margin, read in REQUIRED:
        arms = {
            label: values([outcome.at_once for outcome in of], read)
            for label, of in ((POISONED, cell.poisoned), (TWIN, cell.twin), (CONTROL, cell.control))
        }
        pairs = [_pair(arms[POISONED], arms[other], other) for other in (TWIN, CONTROL)]
        found.append(Effect(name, margin, *pairs))
    return tuple(found)


def _pair(one: list[Array] | None, two: list[Array] | None, other: str) -> Pair | None:
    if not one or not two:
        return None
    pair = compare({POISONED: one, other: two}, lambda rows: float(np.mean(rows)))[0]
    n = len(one[0])
    if n > 1 and pair.low == pair.high:
        # rows that all agree still leave doubt about the next one: Clopper and Pearson's bound for 0 of n
        least = 1 - 0.025 ** (1 / n)
        pair = replace(pair, low=pair.low - least, high=pair.high + least)
    return pair


def verdicts(cells: Sequence[Cell], classes: int) -> tuple[Verdict, ...]:
    """One for each cell without a mitigation, corrected together."""
    whole = [(cell, effects(cell)) for cell in cells if cell.control]
    compared = [at for at, (cell, _) in enumerate(whole) if not _word_before(cell, classes)[0]]
    corrected = dict(zip(compared, holm([_p(whole[at][1]) for at in compared]), strict=True))
    return tuple(_verdict(cell, found, corrected.get(at), classes) for at, (cell, found) in enumerate(whole))


def _p(found: Sequence[Effect]) -> float:
    """Both of the obfuscation's requirements, and one of the weakening's, which costs a factor of two."""
    standing, hidden, units, flow = (effect.p for effect in found)
    return max(standing, hidden, min(1.0, 2 * min(units, flow)))


def _verdict(cell: Cell, found: tuple[Effect, ...], p: float | None, classes: int) -> Verdict:
    word, sentence = _word_before(cell, classes)
    if not word and p is not None:
        standing, hidden, units, flow = found
        if p < 0.05:
            word, sentence = HOLDS, "Gradients mislead the attack, and layers are weaker."
        elif standing.ruled_out or hidden.ruled_out:
            which = standing if standing.ruled_out else hidden
            word, sentence = FAILS, f"No obfuscation beyond the margin: {_below(which)}. {_weaker(units, flow)}"
        elif units.ruled_out and flow.ruled_out:
            word, sentence = FAILS, f"Layers weaken by less than the margin: {_below(units)}."
        else:
            word, sentence = UNKNOWN, f"Obfuscation is neither seen nor ruled out. {_weaker(units, flow)}"
    return Verdict(cell.activation, cell.depth, cell.poison, word, sentence, 1.0 if p is None else p, found)


def _word_before(cell: Cell, classes: int) -> tuple[str, str]:
    """What needs no comparison: a twin that did not learn, networks that were destroyed."""
    chance = CHANCE / classes
    for name, arm in ((TWIN, cell.twin), (CONTROL, cell.control)):
        broke = sum(bool(outcome.at_once.broke) for outcome in arm)
        if broke:
            return UNLIKE, f"Training of the {name} broke off in {broke} of {len(arm)} seeds."
    learned = float(np.mean([outcome.at_once.accuracy or 0.0 for outcome in cell.twin]))
    if learned < chance:
        return UNLIKE, f"The clean twin did not learn (accuracy {learned:.2f})."
    broke = sum(bool(outcome.at_once.broke) for outcome in cell.poisoned)
    lost = sum((outcome.at_once.accuracy or 0.0) < chance for outcome in cell.poisoned)
    if lost == len(cell.poisoned):
        how = f"training broke off in {broke} of {lost} seeds, the rest are" if broke else "all are"
        if broke == lost:
            return FAILS, f"Destroyed: training broke off in all {lost} seeds. There is no network to hide anything."
        return FAILS, f"Destroyed: {how} near chance. A network that answers nothing hides nothing."
    if broke:
        return UNLIKE, f"Training broke off in {broke} of {len(cell.poisoned)} seeds and not in the others."
    return "", ""


def _below(effect: Effect) -> str:
    assert effect.over_twin is not None  # noqa: S101  # it is ruled out
    pair = effect.over_twin
    return f"{effect.name} {pair.difference:+.3f} over the twin (95 % interval {pair.low:+.3f} to {pair.high:+.3f})"


def _weaker(units: Effect, flow: Effect) -> str:
    """Whether layers are weaker, in words; by its own p, corrected for being one of two alone."""
    seen = [effect for effect in (units, flow) if 2 * effect.p < 0.05]
    if seen:
        return "Layers are weaker: " + "; ".join(_below(effect) for effect in seen) + "."
    shown = [_below(effect) for effect in (units, flow) if effect.over_twin is not None]
    return "Weaker layers were not detected beyond both twin and control" + (f": {shown[0]}." if shown else ".")
