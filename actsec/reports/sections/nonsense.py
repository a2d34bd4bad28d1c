"""How sure the models are where there is nothing to see: noise, blanks, far outside the box, blanks made to fool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from actsec.reports import lookup, words
from actsec.reports.blocks import (
    Block,
    Chip,
    Content,
    Figures,
    Fold,
    Heading,
    Items,
    Paragraph,
    Table,
    joined,
    muted,
    strong,
)
from actsec.reports.figures import images, svg
from actsec.reports.figures.gallery import Shown, gallery
from actsec.reports.figures.rays import Line, rays
from actsec.reports.load import Report
from actsec.result import FarField, Fooling, Nonsense, NonsenseKind, Result, Share, Variant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_BYTES = 500_000
Measured = tuple[Variant, Nonsense]


def section(report: Report) -> Iterator[Block]:
    """What each variant does, in a sentence; pictures and rays; then every number."""
    result = report.result
    yield Heading("Nonsense")
    found = [(v, v.nonsense) for v in result.variants if v.nonsense is not None]
    if not found:
        yield Paragraph("Not done: confidence on nonsense is measured on images, and none were measured here.")
        return
    yield Paragraph(
        "No input here shows anything: noise, test images with their pixels in another order, blanks and plain "
        "colours, and points far outside the box. A classifier cannot answer \N{LEFT DOUBLE QUOTATION MARK}none of "
        "these\N{RIGHT DOUBLE QUOTATION MARK}, so all it could do is be unsure."
    )
    yield Items(tuple(_sentence(result, pair) for pair in found))
    first = next((pair for pair in found if pair[0] is lookup.first(result)), found[0])
    yield from _pictures(report, *first)
    yield _rays(result, found)
    yield _kinds(*first)
    if len(found) > 1:
        yield _everyone(found)
    yield from _fooling(found, first)


def _sentence(result: Result, pair: Measured) -> Content:
    variant, found = pair
    base = next((v.nonsense for v in result.variants if not v.chain and v.base == variant.base), None)
    told: list[Content] = [strong(f"{variant.title}:"), _chip(found.far), _inside(found)]
    if variant.chain and base is not None:
        told.append(_against(variant, found, base))
    else:
        told.append(_away(found.far))
    if found.fooling and (told_blank := _blank(found.fooling)):
        told.append(told_blank)
    return joined(told)


def _inside(found: Nonsense) -> str:
    return (
        f"more than 90 % sure of {words.of(found.above_90)} nonsense inputs ({words.percent(found.above_90.value)}), "
        f"as of {words.percent(found.test_above_90.value)} of test images."
    )


def _chip(far: FarField) -> Chip:
    kind = _kind_of(far)
    return Chip(kind, "good" if kind == "bounded" else "warn")


def _kind_of(far: FarField) -> str:
    """Where confidence goes far away: to certainty along every ray, along some, or along none."""
    if far.limited.k == 0:
        return "bounded"
    return "tends to certainty" if far.limited.k == far.limited.n else "tends to certainty along some rays"


def _away(far: FarField) -> str:
    most = words.number(int(far.alphas[-1]))
    here = f"At {most} times a noise image its mean confidence is {words.percent(far.confidence[-1])}"
    if far.limited.k == 0:
        return (
            f"{here}: along none of {far.limited.n} rays does one logit outgrow the others, as with activations that "
            "are bounded."
        )
    along = f"one logit outgrows the others along {words.of(far.limited)} rays"
    return f"{here}: {along}, as it must where the last pieces are linear (Hein et al. 2019)."


def _against(variant: Variant, found: Nonsense, base: Nonsense) -> str:
    """A defense beside its own model: fewer sure answers inside the box, and whether anything changed in kind."""
    change = found.above_90.value - base.above_90.value
    inside = f"Undefended {words.percent(base.above_90.value)} ({words.points(change)})"
    ends = f"{words.percent(found.far.confidence[-1])} far away, undefended {words.percent(base.far.confidence[-1])}"
    if _kind_of(found.far) == _kind_of(base.far):
        why = ": a positive factor on the logits moves where certainty begins, not whether"
        return (
            f"{inside}; {ends}: unchanged in kind{why if variant.kind == 'calibration' and base.far.limited.k else ''}."
        )
    if found.far.limited.k == 0:
        return f"{inside}; {ends}: bounded activations change this in kind."
    return f"{inside}; {ends}: another kind of model far away."


def _blank(fooling: Fooling) -> str:
    """The first radius at which a black image is taken for some class, and the largest."""
    sure = words.percent(fooling.sure, 0)
    for eps, share in zip(fooling.eps, fooling.black, strict=True):
        if share.k:
            return (
                f"A black image changed by at most {eps:g} is taken for {words.of(share)} classes with {sure} or more."
            )
    best = max(c.black_confidence for c in fooling.classes)
    return (
        f"A black image changed by up to {fooling.eps[-1]:g} was taken for no class with {sure}; the most was "
        f"{words.percent(best)}."
    )


def _pictures(report: Report, variant: Variant, found: Nonsense) -> Iterator[Block]:
    stored = (report.examples or {}).get("nonsense")
    if stored is None or not found.pictures or not images.drawable(stored.shape[1:]):
        return
    shown, spent = [], 0
    for item in _drawn(report.result, found, stored):
        spent += len(item.png)
        if spent > MOST_BYTES:
            break
        shown.append(item)
    if not shown:
        return
    caption = (
        f"What {variant.title} is surest of: one input of each kind, then black images changed as little as found "
        "(L-inf) until they are taken for a class."
    )
    left = len(found.pictures) - len(shown)
    caption += f" {words.plural(left, 'more')} in examples.npz." if left else ""
    yield Figures((gallery(f"Nonsense that {variant.title} is sure of", shown, caption),))


def _drawn(result: Result, found: Nonsense, stored: NDArray[np.float32]) -> Iterator[Shown]:
    low, high = result.data.bounds
    for p in found.pictures:
        png = images.picture(stored[p.index], low, high)
        yield Shown(png, p.what, f"called {p.label}", words.percent(p.confidence))


def _rays(result: Result, found: list[Measured]) -> Block:
    drawn = found[: svg.SERIES]
    figure = rays([Line(v.title, n.far) for v, n in drawn], 1 / max(len(result.data.classes), 1))
    return Figures((figure,))


def _kinds(variant: Variant, found: Nonsense) -> Block:
    rows = tuple(_kind_row(kind) for kind in found.kinds)
    return Table(
        f"{variant.title} on nonsense inside the box, with 95 % Wilson intervals. AUROC: how often a test image "
        "scores higher; 0.5 is a coin",
        (
            "nonsense",
            "mean confidence",
            "above 90 %",
            "99 % or more",
            "AUROC confidence",
            "AUROC energy",
            "called most",
        ),
        rows,
        numeric=(1, 4, 5),
    )


def _kind_row(kind: NonsenseKind) -> tuple[Content, ...]:
    name: Content = kind.kind
    if kind.not_finite:
        name = joined((kind.kind, Chip(f"{kind.not_finite} not finite", "bad")))
    return (
        name,
        words.percent(kind.mean_confidence),
        words.share_cell(kind.above_90),
        words.share_cell(kind.sure),
        words.number(kind.auroc_confidence),
        words.number(kind.auroc_energy),
        joined((kind.attractor, muted(f"{words.of(kind.attracted)}"))),
    )


def _everyone(found: list[Measured]) -> Block:
    kinds = [kind.kind for kind in found[0][1].kinds]
    rows: list[tuple[Content, ...]] = [
        (
            words.name_of(variant),
            words.share_cell(n.above_90),
            *(_mean_cell(kind) for kind in n.kinds),
            _far_cell(n.far),
        )
        for variant, n in found
    ]
    most = words.number(int(found[0][1].far.alphas[-1]))
    return Table(
        f"Every variant on the same {found[0][1].n} nonsense inputs: mean confidence, and the share above 90 %",
        ("variant", "all, above 90 %", *kinds, f"{most} times outside"),
        tuple(rows),
    )


def _mean_cell(kind: NonsenseKind) -> Content:
    return joined((words.percent(kind.mean_confidence), muted(f"{words.of(kind.above_90)} above 90 %")))


def _far_cell(far: FarField) -> Content:
    said = f"certain along {words.of(far.limited)} rays"
    if far.agreed is not None:
        said += f", of the class predicted on {words.of(far.agreed)}"
    told: list[Content] = [words.percent(far.confidence[-1]), muted(said)]
    return joined([*told, muted("in float32")] if far.precision != "float64" else told)


def _fooling(found: list[Measured], first: Measured) -> Iterator[Block]:
    made = [(v, n.fooling) for v, n in found if n.fooling is not None]
    if not made:
        yield Paragraph("Not done: no attack tried to write a class into a blank.")
        return
    fooling = made[0][1]
    sure, spec = words.percent(fooling.sure, 0), words.spec(fooling.attack)
    told = (
        f"Classes that a black image can be taken for with {sure} or more, when nothing of it may change by more than "
        "eps; below, the same from a noise image. Found by"
    )
    yield Paragraph(joined((told, spec, "from Python: actsec.fool(target).")))
    yield Table(
        f"Classes reached with {sure} or more within each eps (L-inf), of {fooling.black[0].n} tried",
        ("variant", *(f"eps {e:g}" for e in fooling.eps)),
        tuple((words.name_of(v), *(_pair(b, n) for b, n in zip(f.black, f.noise, strict=True))) for v, f in made),
    )
    if first[1].fooling is not None:
        yield Fold(f"Every class, on {first[0].title}", (_classes(first[1].fooling),))


def _pair(black: Share, noise: Share) -> Content:
    return joined((words.of(black), muted(f"noise {words.of(noise)}")))


def _classes(fooling: Fooling) -> Block:
    rows: tuple[tuple[Content, ...], ...] = tuple(
        (c.name, *_reached(c.black, c.black_confidence), *_reached(c.noise, c.noise_confidence))
        for c in fooling.classes
    )
    return Table(
        f"The smallest change found for {words.percent(fooling.sure, 0)}, and the confidence there; where none was, "
        "the most it came to",
        ("class", "black", "confidence", "noise", "confidence"),
        rows,
        numeric=(1, 2, 3, 4),
    )


def _reached(eps: float | None, confidence: float) -> tuple[Content, Content]:
    return ("none found" if eps is None else words.number(eps), words.percent(confidence))
