"""What a checkup measured, as blocks: units, pre-activations, gradients, causes; pictures first, then tables."""

from __future__ import annotations

from collections.abc import Iterator

from actsec.health.vitals import Flow, InputGradients, Outliers, Spread, Units, Vitals
from actsec.reports import words
from actsec.reports.blocks import Block, Content, Figures, Fold, Heading, Paragraph, Table
from actsec.reports.figures.flow import flow
from actsec.reports.figures.units import card

MOST_CARDS = 60
"""Sites drawn; of more, those with the most units that never live. The table has them all."""


def blocks(found: Vitals, title: str) -> Iterator[Block]:
    """The units of every site, gradients by layer and by the input, and what it cost."""
    yield from _units(found, title)
    yield from _flow(found.flow, title)
    yield from _inputs(found.inputs)
    yield from _outliers(found)
    yield Paragraph(
        f"Measured with {words.number(found.forwards)} forwards and {words.number(found.backwards)} backwards of one "
        "image; no attack."
    )


def _units(found: Vitals, title: str) -> Iterator[Block]:
    yield Heading("Units, and where their pre-activations lie", 3)
    if not found.units:
        yield Paragraph("No site was watched.")
        return
    yield Paragraph(
        "Each bar holds all units of a site, those that live on the fewest images first and darkest. Below it, the "
        "pre-activations of at most 4096 of them (heights by square root), with a dashed line where the activation "
        "bends or saturates."
    )
    drawn = sorted(range(len(found.units)), key=lambda at: (-_never(found.units[at]), at))[:MOST_CARDS]
    cards = tuple(card(found.units[at], at + 1) for at in sorted(drawn))
    yield Figures(cards, small=True)
    if len(drawn) < len(found.units):
        yield Paragraph(
            f"{len(drawn)} of {len(found.units)} sites are drawn, those with the most units that never live."
        )
    rows = tuple(_row(units, at) for at, units in enumerate(found.units, 1))
    columns: tuple[str, ...] = ("site", "kind", "units", "never live", "on less than half", "on half or more", "on all")
    columns += ("pre-activation 5 %", "50 %", "95 %", "mean", "std", "bends at", "gone, fresh weights", "cause")
    caption = f"Units of {title}: on how many images they live, and their pre-activation"
    table = Table(caption, columns, rows, tuple(range(2, 12)))
    yield Fold(f"The units of {words.plural(len(found.units), 'site')} in numbers", (table,))


def _never(units: Units) -> float:
    return 0.0 if units.live is None else units.live[0] / max(units.count, 1)


def _row(units: Units, place: int) -> tuple[Content, ...]:
    live: tuple[Content, ...] = ("cannot",) * 4
    if units.live is not None:
        groups = (units.live[:1], units.live[1:6], units.live[6:-1], units.live[-1:])
        live = tuple(words.percent(sum(group) / max(units.count, 1)) for group in groups)
    quantiles = ("not finite",) * 3 if units.quantiles is None else tuple(words.number(q) for q in units.quantiles)
    moments = tuple("not finite" if value is None else words.number(value) for value in (units.mean, units.std))
    bends = " and ".join(words.number(mark) for mark in units.marks) or "nowhere"
    born = "not measured" if units.born is None else words.percent(units.born)
    cause = "none looked for" if units.cause is None else f"{units.cause.name}: {units.cause.evidence}"
    name = f"{place}  {units.site}"
    return (name, units.kind, words.number(units.count), *live, *quantiles, *moments, bends, born, cause)


def _flow(found: Flow, title: str) -> Iterator[Block]:
    yield Heading("Gradients by layer", 3)
    fresh = f"not measured: {found.reason}" if found.reason else "not measured"
    if found.fresh is not None and found.fresh_low is not None and found.fresh_high is not None:
        fresh = f"{words.number(found.fresh)} ({words.number(found.fresh_low)} to {words.number(found.fresh_high)})"
    broken = sum(bool(layer.not_finite) for layer in found.layers)
    none = f"none, NaN or infinite at {broken} of {len(found.layers)} layers," if broken else "not measured"
    trained = none if found.trained is None else words.number(found.trained)
    yield Paragraph(
        f"First layer over last: {trained} as it is; {fresh} with fresh weights. Below 0.001 gradients vanish, above "
        "1000 they explode. Fresh weights are each layer's own default, which may not be how this model began."
    )
    if (figure := flow(found)) is not None:
        yield Figures((figure,))
    rows = tuple(
        (
            f"{at}  {layer.name}",
            _norm(layer.trained, layer.not_finite),
            *(_norm(value, layer.fresh_not_finite) for value in (layer.fresh, layer.fresh_low, layer.fresh_high)),
        )
        for at, layer in enumerate(found.layers, 1)
    )
    columns = ("layer", "as it is", "fresh, median", "fresh, least", "fresh, most")
    table = Table(f"Norm of the loss's gradient by the weights of each layer of {title}", columns, rows, (1, 2, 3, 4))
    if rows:
        yield Fold(f"The gradients of {words.plural(len(rows), 'layer')} in numbers", (table,))


def _norm(value: float | None, broken: int) -> str:
    """A norm; how often it was not finite stands beside what the other draws gave."""
    if value is None:
        return f"not finite ({broken})" if broken else "not measured"
    return f"{words.number(value)} (not finite: {broken})" if broken else words.number(value)


def _inputs(found: InputGradients) -> Iterator[Block]:
    yield Heading("Gradients by the input", 3)
    if found.reason:
        yield Paragraph(f"Not measured: {found.reason}.")
        return
    zeros = f"{found.zero_cross_entropy} for the cross-entropy, {found.zero_margin} for the margin"
    yield Paragraph(f"Exactly 0 on {zeros}, of {found.n} images.")
    if found.not_finite:
        yield Paragraph(f"NaN or infinite on {found.not_finite} images, which the table leaves out.")
    told = (
        ("norm of the gradient (L2)", found.norm),
        (f"departure from the tangent over a random step of {found.reach:g}", found.bend),
        ("cosine of the gradients at both ends of the step", found.turn),
    )
    rows = tuple((name, *_spread(spread)) for name, spread in told)
    flat = f"; {found.flat} flat images are left out of the departure" if found.flat else ""
    caption = f"The cross-entropy around {found.n} images, quantiles over images{flat}"
    yield Table(caption, ("what", "5 %", "25 %", "50 %", "75 %", "95 %"), rows, (1, 2, 3, 4, 5))


def _spread(found: Spread | None) -> tuple[Content, ...]:
    if found is None:
        return ("none",) * 5
    return tuple(words.number(q) for q in (found.q05, found.q25, found.median, found.q75, found.q95))


def _outliers(found: Vitals) -> Iterator[Block]:
    rule = f"{found.test.factor:g} or more times as far from the median row as half of the rows"
    train = "training data was not given" if found.train is None else _far(found.train, "training rows")
    yield Paragraph(f"Outliers, {rule}: {_far(found.test, 'images looked at')}; {train}.")


def _far(found: Outliers, what: str) -> str:
    return f"{found.found} of {words.number(found.n)} {what} (the furthest {words.number(found.worst)} times)"
