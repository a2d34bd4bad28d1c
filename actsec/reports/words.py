"""How numbers and untrusted texts are said, once for every section and format."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from actsec.reports.blocks import Chip, Content, Tone, code, joined, muted, strong, struck
from actsec.result import AttackResult, Calibration, ClassShare, Kill, Share, ThreatResult, Variant, saved_as

LONG = 12
"""Lists longer than this are shown by their ends."""
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_STATE: dict[str, tuple[str, Tone]] = {
    "clean": ("no sign of masking", "good"),
    "randomised": ("randomised", "neutral"),
    "masked": ("masked", "bad"),
    "unchecked": ("not checked", "warn"),
}
_CHECK: dict[str, tuple[str, Tone]] = {
    "ok": ("ok", "good"),
    "warn": ("warning", "warn"),
    "red": ("red", "bad"),
    "not_done": ("not done", "neutral"),
    "not_applicable": ("not applicable", "neutral"),
    "error": ("crashed", "bad"),
}


def clean(text: str) -> str:
    r"""Text that cannot move a cursor, reorder a line or hide: ANSI sequences go, other controls become visible.

    Letters of every script stay as they are; only format characters that reorder or vanish (bidi marks and the like)
    are written out as ``\u202e``. Newlines and tabs become spaces.
    """
    if text.isprintable():
        return text
    text = _ANSI.sub("", text)
    return "".join(_visible(c) for c in text)


def _visible(c: str) -> str:
    if c in "\n\t\r":
        return " "
    if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"\\u{ord(c):04x}"
    return c


def percent(value: float, digits: int = 1) -> str:
    """0.041 as ``4.1 %``. Never rounds something to nothing or nearly all to all: 0.9999 is ``> 99.9 %``."""
    edge = 10.0**-digits
    text = f"{value * 100:.{digits}f}"
    if value > 0 and float(text) == 0:
        return f"< {edge:.{digits}f} %"
    if value < 1 and float(text) == 100:  # one hundred percent
        return f"> {100 - edge:.{digits}f} %"
    return f"{minus(text)} %"


def points(value: float) -> str:
    """A difference of two shares, signed, in percentage points."""
    return f"{signed(value)} points"


def signed(value: float) -> str:
    """A difference of two shares in percentage points, the number alone."""
    return minus(f"{value * 100:+.1f}")


def minus(number: str) -> str:
    """A written number with the minus sign in place of a hyphen; an exponent keeps its own."""
    return re.sub(r"(?<!e)-", "\N{MINUS SIGN}", number)


def interval(share: Share) -> str:
    """``95 % interval 3.0 to 5.5 %``, of a share."""
    return f"95 % interval {share.low * 100:.1f} to {share.high * 100:.1f} %"


def of(share: Share) -> str:
    """``41 of 1000``."""
    return f"{share.k} of {share.n}"


def share_cell(share: Share, *, believed: bool = True, bold: bool = False) -> Content:
    """A share for a table: ``4.1 %  41 of 1000 [3.0, 5.5]``; struck through when it must not be believed."""
    if share.n == 0:
        return "not done"
    value = percent(share.value)
    shown: Content = struck(value) if not believed else strong(value) if bold else value
    return joined((shown, muted(f"{of(share)} [{share.low * 100:.1f}, {share.high * 100:.1f}]")))


def doubt(threat: ThreatResult) -> str:
    """Why the worst case must not be believed; empty when nothing speaks against it.

    A worst case over attacks none of which finished only repeats the untouched accuracy: it is not a result either.
    """
    if not threat.believable:
        return threat.why or "a sanity check is red"
    if threat.worst_case.k and not any(a.counts and not a.baseline and a.error is None and a.n for a in threat.attacks):
        return "no attack finished"
    return ""


def measured(variant: Variant) -> bool:
    """Whether the variant was ever tried on untouched inputs; if not, its zeros are no numbers."""
    return bool(variant.clean.per_class) and variant.clean.accuracy.n > 0


def untouched_cell(variant: Variant) -> Content:
    """Accuracy on untouched inputs, for a table."""
    return share_cell(variant.clean.accuracy) if measured(variant) else "not done"


def worst_cell(threat: ThreatResult) -> Content:
    """The worst case of a threat, in bold; struck through, with the reason beside it, when it cannot be believed."""
    if threat.worst_case.n == 0:
        return "not done"
    why = doubt(threat)
    cell = share_cell(threat.worst_case, believed=not why, bold=True)
    return joined((cell, Chip("not believable", "bad"), why)) if why else cell


def state(threat: ThreatResult) -> Chip:
    """The masking verdict as a word."""
    if threat.believable and not threat.checks:
        return Chip(*_STATE["unchecked"])
    return Chip(*_STATE[threat.state])


def check(status: str) -> Chip:
    """The status of one check as a word."""
    return Chip(*_CHECK[status])


def number(value: Any, digits: int = 3) -> str:
    """A plain number, short but not rounded to nothing; None is a dash."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):  # exact below this
        return minus(f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}"))
    return minus(f"{value:.{digits}f}" if abs(value) >= 10.0 ** (1 - digits) else f"{value:.{digits}g}")


def pairs(numbers: Mapping[str, Any]) -> str:
    """``pgd = 41, fgsm = 118``; a table inside is written in brackets."""
    return ", ".join(
        f"{key} ({pairs(inner)})" if isinstance(inner, Mapping) else f"{key} = {value(inner)}"
        for key, inner in numbers.items()
        if inner not in ([], {})
    )


def value(thing: Any) -> str:
    """Any JSON value on one line."""
    if isinstance(thing, Mapping):
        return pairs(thing)
    if isinstance(thing, Sequence) and not isinstance(thing, str):
        if len(thing) > LONG:
            return f"{value(thing[0])} \N{HORIZONTAL ELLIPSIS} {value(thing[-1])} ({len(thing)} values)"
        return ", ".join(value(item) for item in thing) or "none"
    return "none" if thing is None else number(thing)


def sentence(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def plural(count: int, one: str, many: str = "") -> str:
    """``1 model``, ``2 models``."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def ece(found: Calibration) -> str:
    """ECE as it must always be printed: with bins, n and what a perfectly calibrated model would show."""
    return (
        f"ECE {found.ece:.3f} ({found.bins} bins, n = {found.n}; "
        f"null {found.null_mean:.3f}, up to {found.null_p95:.3f})"
    )


def ece_cell(found: Calibration | None) -> Content:
    """ECE for a narrow table, whole: value, bins, n and null."""
    if found is None:
        return "not done"
    bounds = f"{found.bins} bins, n = {found.n}"
    return joined((f"{found.ece:.3f}", muted(bounds), muted(f"null {found.null_mean:.3f}, up to {found.null_p95:.3f}")))


def beside_null(found: Calibration) -> Chip:
    """Whether the ECE stands out of what chance alone gives at this n."""
    if found.ece > found.null_p95:
        return Chip("above the null", "warn")
    return Chip("not above the null", "good")


def budget(plan: Mapping[str, Any]) -> str:
    """``at budget quick``, or ``at this budget`` where the plan names none."""
    name = plan.get("budget")
    return f"at budget {name}" if isinstance(name, str) else "at this budget"


def correct_before(variant: Variant, threat: ThreatResult) -> int | None:
    """How many of the worst case's examples were correct untouched; None when the result does not say."""
    n = threat.worst_case.n
    if variant.clean.accuracy.n == n and threat.goal == "misclassify":
        return variant.clean.accuracy.k
    return next((a.success.n for a in threat.attacks if a.n == n and a.error is None), None)


def worked_line(variant: Variant, threat: ThreatResult) -> str:
    """``1000 tested, 931 correct before, 41 still correct after``."""
    before = correct_before(variant, threat)
    if threat.worst_case.n == 0:
        return "nothing tested"
    if threat.goal != "misclassify":
        left = f" ({threat.left_out} of the wanted class left out)" if threat.left_out else ""
        middle = f"{before} not there before, " if before is not None else ""
        return f"{threat.worst_case.n} tested{left}, {middle}{threat.worst_case.k} not driven there"
    middle = f"{before} correct before, " if before is not None else ""
    return f"{threat.worst_case.n} tested, {middle}{threat.worst_case.k} still correct after"


def stands(threat: ThreatResult) -> tuple[str, str]:
    """What an example is called that no attack moved, and one there was something to move: by the threat's goal."""
    return ("still correct", "correct before") if threat.goal == "misclassify" else ("not reached", "not there before")


def saved(found: Share, grid: int | None) -> str:
    """``13 of 14 found still succeed when saved as 8-bit images``."""
    return f"{of(found)} found still succeed when saved as {saved_as(grid)}"


def smallest(attack: AttackResult) -> Content:
    """The median smallest change that works, or the reason why there is none."""
    if attack.median_size is None:
        return attack.size_reason or "not measured"
    return number(attack.median_size)


def name_of(variant: Variant) -> Content:
    """A variant as it is called in tables."""
    return joined((variant.title, Chip("audited"))) if variant.audited else variant.title


def exit_meaning(exit_code: int, *, gates: bool) -> str:
    """What the exit code of the run said, in words."""
    if exit_code == 0 and not gates:
        return "No gate set: exit 0 means finished"
    meanings = {
        0: "every gate met",
        1: "a gate failed",
        2: "the request could not be carried out",
        3: "no verdict: inconclusive, or a check invalidates a number",
        4: "refused as unsafe",
        5: "actsec itself failed",
        130: "interrupted, everything finished is stored",
    }
    return f"Exit {exit_code}: {meanings.get(exit_code, 'unknown')}"


def inputs(found: Calibration) -> str:
    """Which inputs a calibration speaks of: ``untouched``, or the attack that made them."""
    return "untouched" if found.condition == "clean" else found.condition


def weakest(classes: Sequence[ClassShare]) -> ClassShare | None:
    """The class with the lowest share, of those that were tested at all."""
    return min((c for c in classes if c.share.n), key=lambda c: c.share.value, default=None)


_FORCED = {"kill": "dead", "saturate": "saturated", "zero_tail": "to zero"}
"""What becomes of units under each goal."""


def forced(kills: Iterable[Kill]) -> str:
    """What the units of these attacks were forced to be: ``Units forced dead``, ``Units forced dead or saturated``."""
    goals = {kill.threat.rpartition(":")[2] for kill in kills}
    return f"Units forced {' or '.join(word for goal, word in _FORCED.items() if goal in goals) or 'dead'}"


def not_applicable(kill: Kill) -> str:
    """Why dead-ReLU forcing says nothing here."""
    return kill.reason if kill.reason.startswith("not applicable") else f"not applicable: {kill.reason}"


def spec(text: str) -> Content:
    """A spec such as ``pgd(steps=40)``, as typed."""
    return code(text)


def corruption(kind: str) -> str:
    """The name of a corruption as people write it: JPEG in capitals."""
    return "JPEG" if kind == "jpeg" else kind.replace("_", " ")
