"""The sentence beside a label of advice: the numbers it rests on, what it costs before what it gives."""

from __future__ import annotations

from actsec.reports import words
from actsec.result import AdviceLabel, Comparison
from actsec.verdict.labels import LEVEL, Seen, sized

SHOWN = 0.0005
"""What else changed is named when it would not be printed as +0.000, or of shares as +0.0 points."""
_ELSEWHERE = "it is easier to fool elsewhere"


def sentence_of(seen: Seen, label: AdviceLabel) -> str:
    """The label's numbers in one sentence; what costs half the clean accuracy says so first."""
    parts = [_robust(seen), f"clean accuracy {_change(seen.clean)}"]
    if seen.halved:
        parts = [f"it costs half of the clean accuracy or more, {_change(seen.clean)}", _robust(seen)]
    elif label == "costs more than it gives" or (label == "recommended" and seen.elsewhere):
        parts = _price(seen)
    if label == "looks better, is masking" and not seen.void:
        parts.append("it changed no decision on untouched images, so the attacks missed what it seems to gain")
    elif seen.void:
        parts.append(f"the checks void that: {seen.void.rstrip('.')}")
    elif seen.inflated:
        parts.append("the audited model's own number is void, and too high")
    parts = _doubted(seen, parts)
    if seen.kinds == {"calibration"}:
        labels = "no decision changed" if not seen.changed else f"{seen.changed} decisions changed"
        ece = "calibration was not measured" if seen.ece is None else f"ECE {_numbers(seen.ece)}"
        said = [ece, f"{labels}, so it is no defense" if not seen.changed else labels]
        plain = label in ("calibration only", "no detectable effect") and not seen.halved
        parts = [*said, *(parts[:1] if plain and seen.changed else () if plain else parts)]
    elif "robustness" not in seen.kinds:
        untrained = "no weight was trained" if not seen.trained else "it is for training"
        parts.append(f"{untrained}, so no robustness is credited to it")
        if seen.dead is not None:
            parts.append(f"dead units {_change(seen.dead)}")
    told = seen.elsewhere if any(_ELSEWHERE in part for part in parts) else ()
    parts += [
        f"also {which}: {', '.join(named)}" for which in ("worse", "better") if (named := _named(seen, which, told))
    ]
    return f"{seen.name}: {'; '.join(parts)}."


def _doubted(seen: Seen, parts: list[str]) -> list[str]:
    """The same behind what speaks against relying on a gain, and before what a detector refuses."""
    if seen.unchecked and seen.gained:
        parts = [*parts]
        parts.insert(1 if seen.halved else 0, f"not to be relied on: {seen.unchecked.rstrip('.')}")
    refused = f"it refuses {words.percent(seen.refused)} more of the untouched inputs, which count as wrong"
    return [*parts, *([refused] if seen.refused > 0 else [])]


def _price(seen: Seen) -> list[str]:
    """What a fix costs before what it gives: clean accuracy where that is the price, else the threat that falls."""
    clean, robust = f"clean accuracy {_change(seen.clean)}", _robust(seen)
    dear = seen.dear if seen.gained else seen.clean.high < 0 and seen.p_clean < LEVEL
    if dear or not seen.elsewhere:
        lost = not dear and seen.robust.high < 0
        return [robust, clean] if lost else [clean, robust]
    which = [f"{_title(c)} {_numbers(c) if sized(c) else _change(c)}" for c in seen.elsewhere]
    return [f"{_ELSEWHERE}: {', '.join(which)}", robust, clean]


def _title(c: Comparison) -> str:
    return c.metric.replace("_above_90", " above 0.9").replace("_", " ").replace("@", " at ")


def _named(seen: Seen, verdict: str, but: tuple[Comparison, ...] = ()) -> list[str]:
    """What else was detected, so that no label hides a price or a gain of another kind; ``but`` is said already."""
    told = {"calibration": {"ece"}, "stability": {"dead_units"}}
    said = set().union(*(told.get(kind, set()) for kind in seen.kinds)) if len(seen.kinds) == 1 else set()
    new = (c for c in seen.besides if c.verdict == verdict and c.metric not in said and c not in but)
    return [_short(c) for c in new if abs(c.difference) >= SHOWN]


def _short(c: Comparison) -> str:
    """``dead units +13.9 points``."""
    return f"{_title(c)} {words.minus(f'{c.difference:+.3f}') if sized(c) else words.points(c.difference)}"


def _robust(seen: Seen) -> str:
    threat = seen.robust.metric.partition("@")[2]
    p = "p < 0.001" if seen.p < 0.001 else f"p = {seen.p:.3f}"
    corrected = f", {p} corrected for {seen.fixes} fixes" if seen.fixes > 1 else f", {p}"
    return f"robust accuracy at {threat} {_change(seen.robust, corrected)} on {seen.robust.n} images kept to confirm it"


def _change(c: Comparison, more: str = "") -> str:
    """``+29.3 points (50.0 to 79.3 %, 95 % interval +20.0 to +38.7)``."""
    return (
        f"{words.points(c.difference)} ({100 * c.before:.1f} to {100 * c.after:.1f} %, 95 % interval "
        f"{words.signed(c.low)} to {words.signed(c.high)}{more})"
    )


def _numbers(c: Comparison) -> str:
    change, low, high = (words.minus(f"{value:+.3f}") for value in (c.difference, c.low, c.high))
    return f"{c.before:.3f} to {c.after:.3f} (change {change}, 95 % interval {low} to {high})"
