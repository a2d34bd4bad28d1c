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
from actsec.reports.figures import images
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
    most = words.number(int(found[0][1].far.alphas[-1]))
    yield Paragraph(
        "No input here shows anything: noise, test images with their pixels in another order, blanks and plain "
        "colours, and points far outside the box. A classifier cannot answer \N{LEFT DOUBLE QUOTATION MARK}none of "
        "these\N{RIGHT DOUBLE QUOTATION MARK}, so all it could do is be unsure. Far outside the box a network whose "
        "last pieces are linear is as sure as can be, of whichever class its logits grow fastest for (Hein et al. "
        "2019): it tends to certainty. Bounded activations end that, there; a temperature, a positive factor on the "
        f"logits, moves where certainty begins, not whether. Far away is a noise image times {most} here."
    )
    first_eps = _first_reached([n.fooling for _, n in found if n.fooling is not None])
    yield Items(tuple(_sentence(result, pair, first_eps) for pair in found))
    if missing := [v.title for v in result.variants if v.nonsense is None]:
        yield Paragraph(f"Not done for {', '.join(missing)}.")
    first = next((pair for pair in found if pair[0] is lookup.first(result)), found[0])
    yield from _pictures(report, *first)
    yield _rays(result, found)
    yield _kinds(*first)
    if len(found) > 1:
        yield _everyone(found)
    yield from _fooling(found, first)


def _sentence(result: Result, pair: Measured, first_eps: float | None) -> Content:
    variant, found = pair
    own = (v.nonsense for v in result.variants if not v.chain and v.base == variant.base)
    base = next(own, None) if variant.chain else None
    told: list[Content] = [strong(f"{variant.title}:"), _chip(found.far), _inside(found, base), _away(found.far, base)]
    return joined([*told, _blank(found.fooling, first_eps)] if found.fooling else told)


def _inside(found: Nonsense, base: Nonsense | None) -> str:
    here = words.percent(found.above_90.value) + (f", undefended {words.percent(base.above_90.value)}" if base else "")
    test = words.percent(found.test_above_90.value)
    return f"above 90 % sure of {words.of(found.above_90)} nonsense inputs ({here}) and of {test} of test images."


def _chip(far: FarField) -> Chip:
    kind = _kind_of(far)
    # Not "good": bounded far away, a model can be as sure as any of nonsense inside the box.
    return Chip(kind, "neutral" if kind == "bounded" else "warn")


def _kind_of(far: FarField) -> str:
    """Where confidence goes far away: to certainty along every ray, along some, or along none."""
    if far.limited.k == 0:
        return "bounded"
    return "tends to certainty" if far.limited.k == far.limited.n else "tends to certainty along some rays"


def _away(far: FarField, base: Nonsense | None) -> str:
    """Far outside the box; of a defense, whether it changed anything in kind."""
    here = f"Far away {words.percent(far.confidence[-1])} sure"
    if base is None:
        rays = f"none of {far.limited.n}" if far.limited.k == 0 else words.of(far.limited)
        return f"{here}; one logit outgrows the others along {rays} rays."
    same = "unchanged in kind" if _kind_of(far) == _kind_of(base.far) else "a change in kind"
    return f"{here}, undefended {words.percent(base.far.confidence[-1])}: {same}."


def _first_reached(made: list[Fooling]) -> float | None:
    """The smallest eps at which a black image is taken for a class by any variant; None where none ever was."""
    return min((eps for f in made for eps, share in zip(f.eps, f.black, strict=True) if share.k), default=None)


def _blank(fooling: Fooling, first_eps: float | None) -> str:
    """The classes that a black image is taken for, at the same eps for every variant and at the largest."""
    sure, last = words.percent(fooling.sure, 0), fooling.eps[-1]
    best = f"the most was {words.percent(max(c.black_confidence for c in fooling.classes))}."
    if first_eps is None:
        return f"A black image changed by up to {last:g} is taken for no class at {sure}; {best}"
    reached = dict(zip(fooling.eps, fooling.black, strict=True))
    told = ", ".join(
        f"by at most {eps:g} for {words.of(reached[eps])}" for eps in dict.fromkeys((first_eps, last)) if eps in reached
    )
    end = "." if fooling.black[-1].k else f"; {best}"
    return f"Classes that a black image is taken for at {sure} or more, changed {told}{end}"


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
    ordered = sorted(found, key=lambda pair: pair[0] is not lookup.first(result))
    figure = rays([Line(v.title, n.far) for v, n in ordered], 1 / max(len(result.data.classes), 1))
    return Figures((figure,))


def _kinds(variant: Variant, found: Nonsense) -> Block:
    rows = tuple(_kind_row(kind) for kind in found.kinds)
    return Table(
        f"{variant.title} on nonsense inside the box, with 95 % Wilson intervals. AUROC: how often a test image "
        "scores higher by confidence, energy (logsumexp of the logits) or minus the entropy; 0.5 is a coin. FPR95: the "
        "share of nonsense that passes where 95 % of test images do",
        (
            "nonsense",
            "mean confidence",
            "above 90 %",
            "99 % or more",
            "AUROC, FPR95 by confidence",
            "by energy",
            "by entropy",
            "called most",
        ),
        rows,
        numeric=(1,),
    )


def _separable(auroc: float | None, fpr95: float | None) -> Content:
    if auroc is None:
        return words.number(None)
    passing = "FPR95 not measured" if fpr95 is None else f"FPR95 {words.percent(fpr95)}"
    return joined((words.number(auroc), muted(passing)))


def _kind_row(kind: NonsenseKind) -> tuple[Content, ...]:
    name: Content = kind.kind
    if kind.not_finite:
        name = joined((name, Chip(f"{kind.not_finite} not finite", "bad")))
    if kind.rejected:
        name = joined((name, Chip(f"{kind.rejected} rejected", "good")))
    return (
        name,
        words.percent(kind.mean_confidence),
        words.share_cell(kind.above_90),
        words.share_cell(kind.sure),
        _separable(kind.auroc_confidence, kind.fpr95_confidence),
        _separable(kind.auroc_energy, kind.fpr95_energy),
        _separable(kind.auroc_entropy, kind.fpr95_entropy),
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
        f"Every variant on the same {found[0][1].n} nonsense inputs: how many it is above 90 % sure of; by kind its "
        f"mean confidence and that count; at {most} times noise, and along how many rays it tends to certainty",
        ("variant", "above 90 %", *kinds, "far away"),
        tuple(rows),
        of=tuple(variant.id for variant, _ in found),
    )


def _mean_cell(kind: NonsenseKind) -> Content:
    return joined((words.percent(kind.mean_confidence), muted(words.of(kind.above_90))))


def _far_cell(far: FarField) -> Content:
    told: list[Content] = [words.percent(far.confidence[-1]), muted(f"{words.of(far.limited)} rays")]
    if far.agreed is not None and far.agreed.k < far.agreed.n:
        told.append(muted(f"{words.of(far.agreed)} there already"))
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
        of=tuple(v.id for v, _ in made),
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
