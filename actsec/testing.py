"""``assert_robust``: an attack as a test of one's own test suite; the pytest plugin gives it as a fixture as well.

    from actsec.testing import assert_robust

    def test_the_model_holds_at_8_255():
        assert_robust(model, (x, y), "pgd(steps=20)", eps=8/255, at_least=0.3)

It is decided by the 95 % interval of the share still correct: passed when that lies above the limit, NotRobust when it
lies below, Undecided when it holds the limit. One attack is an upper bound, not an audit: `actsec audit` is one.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from actsec.errors import BadOption

if TYPE_CHECKING:
    from torch import nn

    from actsec.api import Data
    from actsec.result import Share
    from actsec.types import Target

NOISE = "noise(draws=10)"
"""What an attack that works beats: ten forwards an example."""
MOST = 10_000_000


class NotRobust(AssertionError):
    """The whole 95 % interval of the share still correct lies below the limit."""


class Undecided(AssertionError):
    """Nothing is known: the interval holds the limit, or the number cannot be believed."""


def assert_robust(
    model: str | Target | nn.Module,
    data: str | Data,
    attack: str = "cascade",
    *,
    at_least: float,
    eps: float | None = None,
    threat: str | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> Share:
    """The share of examples still correct after an attack, when it is at least a limit; an AssertionError otherwise.

    model is what ``actsec.load`` takes, a module or a Target; data is (x, y), x (n, *shape) in input units and y (n,),
    or a name such as ``digits``; samples is how many examples are attacked, in the order given, all where left out.
    eps, or a threat such as ``l2:0.5``. Misclassified untouched examples count as not correct. The model is bit-equal
    afterwards. Beside the attack costs 10 forwards an example, of noise.

    Raises NotRobust; Undecided where the interval holds the limit, noise of the same size breaks more than the attack,
    or the untouched accuracy cannot be told from chance; BadOption, ThreatError, DataError, ModelError.
    """
    __tracebackhide__ = True
    from actsec import attacked
    from actsec import target as targets
    from actsec.types import Threat

    if not 0 <= at_least <= 1:
        raise BadOption(f"at_least = {at_least:g} is no share", "Give a number from 0 to 1: 0.3 is 30 %.")
    x, y = _examples(data, samples)
    target = targets.of(model, x)
    found = attacked.attack(target, x, y, attack, eps=eps, threat=threat, seed=seed)
    under = Threat.parse(threat) if threat else Threat("linf", eps)
    noise = attacked.attack(target, x, y, NOISE, eps=eps, threat=threat, seed=seed)
    still, n = found.still_correct, len(y)
    said = (
        f"{attack} at {under if threat else f'eps {eps:g}'}: {still.k} of {still.n} still correct "
        f"({still.value:.1%}, 95 % interval {still.low:.1%} to {still.high:.1%}), {found.correct_before} before; "
        f"asked for at least {at_least:.1%}"
    )
    dig = f"to dig: {_dig(model, data, eps, threat)}"
    from actsec.verdict.statistics import share

    chance = 1 / max(len(target.classes), 2)
    if share(found.correct_before, n).low <= chance:
        raise Undecided(
            f"no verdict: the untouched accuracy cannot be told from chance ({chance:.1%})\n  {said}\n  {dig}"
        )
    if still.high < at_least:
        few = "\n  most are wrong untouched: look at normalisation, channel order and labels first"
        raise NotRobust(f"{said}{few if 2 * found.correct_before < n else ''}\n  {dig}")
    if noise.still_correct.k < still.k:
        why = (
            f"random noise of the same size leaves only {noise.still_correct.k} correct: the attack does not work here"
        )
        raise Undecided(f"no verdict: {why}\n  {said}\n  {dig}")
    if still.low < at_least:
        raise Undecided(f"no verdict: the interval holds the limit, {_more(still, at_least)}\n  {said}\n  {dig}")
    return still


def _examples(data: str | Data, samples: int | None) -> tuple[Any, Any]:
    if not isinstance(data, str):
        return data[0][:samples], data[1][:samples]
    from actsec.data import Splits, load

    loaded = load(data)
    test = loaded.test if isinstance(loaded, Splits) else loaded
    return test.x[:samples], test.y[:samples]


def _dig(model: object, data: object, eps: float | None, threat: str | None) -> str:
    """What to type to learn more: a command where names were given, else a line of Python."""
    norm, _, size = (threat or "").partition(":")
    asked = eps if threat is None else float(size) if norm == "linf" and size else None
    if isinstance(model, str) and isinstance(data, str):
        words = ["actsec", "audit", "--model", model, "--data", data]
        return shlex.join([*words, *(() if asked is None else ("--eps", f"{asked:g}"))])
    options = "" if asked is None else f", eps={asked:g}"
    return f"actsec.audit(model, (x, y){options}).report('report.html')"


def _more(still: Share, limit: float) -> str:
    """How many examples would decide it, if the share stayed what it is."""
    from actsec.verdict.statistics import share

    n = still.n
    while n < MOST:
        n = n + max(n // 20, 1)
        found = share(round(still.value * n), n)
        if not found.low < limit <= found.high:
            return f"about {n} examples would decide it"
    return "and it lies too near for any number of examples"
