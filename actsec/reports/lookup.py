"""Which part of a result a section speaks of."""

from __future__ import annotations

from actsec.result import Calibration, Result, ThreatResult, Variant


def first(result: Result) -> Variant | None:
    """The variant the verdict speaks of: the first audited one; None when nothing finished."""
    return next((v for v in result.variants if v.audited), next(iter(result.variants), None))


def model_name(result: Result) -> str:
    """What to call the model in a title: its name without the folders it lies in, the factory behind it kept."""
    name = str(result.model.get("name", "model"))
    head, colon, factory = name.rpartition(":") if ".py:" in name else (name, "", "")
    return f"{head.rstrip('/').replace(chr(92), '/').rpartition('/')[2]}{colon}{factory}"


def undefended(result: Result) -> tuple[Variant, ...]:
    """The models themselves, before any defense."""
    return tuple(v for v in result.variants if not v.chain)


def defended(result: Result, model: Variant) -> tuple[Variant, ...]:
    """The variants that put defenses on the same model."""
    return tuple(v for v in result.variants if v.chain and v.base == model.base)


def main_threat(variant: Variant) -> ThreatResult | None:
    """The threat of the headline: the first with a bound, else the first."""
    return next((t for t in variant.threats if t.eps is not None), next(iter(variant.threats), None))


def threat(variant: Variant, name: str) -> ThreatResult | None:
    """What the variant showed under a threat."""
    return next((t for t in variant.threats if t.threat == name), None)


def threats(result: Result) -> tuple[str, ...]:
    """Every threat of the result, in the order met."""
    return tuple(dict.fromkeys(t.threat for v in result.variants for t in v.threats))


def condition(variant: Variant, *, clean: bool) -> Calibration | None:
    """Calibration on untouched inputs, or on the first kind of attacked ones."""
    return next((c for c in variant.calibration if (c.condition == "clean") == clean), None)


def title(result: Result, variant: str) -> str:
    """The title of the variant of an id; the id itself when there is none."""
    return next((v.title for v in result.variants if v.id == variant), variant)


def chain(result: Result, variant: str) -> str:
    """The defenses of the variant of an id, or its title where it has none."""
    return next((v.chain or v.title for v in result.variants if v.id == variant), variant)
