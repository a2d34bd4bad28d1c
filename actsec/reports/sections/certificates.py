"""What no attack in L2 can change behind randomised smoothing, beside what an attack left of the same images."""

from __future__ import annotations

from collections.abc import Iterator

from actsec.reports import words
from actsec.reports.blocks import Block, Code, Content, Heading, Note, Paragraph, Table, code, joined
from actsec.reports.load import Report
from actsec.reports.next_command import placed, runs
from actsec.result import Certificate, Variant

HOW = "actsec audit plan.toml --defenses 'smoothing(std=0.25, finetune=10)'"


def section(report: Report) -> Iterator[Block]:
    """Every smoothed variant: how it was certified, then certified and attacked accuracy by radius."""
    found = [(v, v.certificate) for v in report.result.variants if v.certificate is not None]
    yield Heading("Certificates")
    if not found:
        yield Paragraph(
            "Not done: no variant was smoothed. Every robust accuracy of this report is an upper bound, what attacks "
            "left. Randomised smoothing gives a lower one in L2:"
        )
        yield Code(placed(HOW), f"To certify {runs(placed(HOW))}")
        return
    yield Paragraph(
        "A certified image keeps its class under every change within the radius in L2, whatever the attack. This "
        "speaks of the vote of all noisy copies there could be, of which an answer in use takes a few. Certified "
        "accuracy is a lower bound and attacked accuracy an upper one: the truth lies between. Abstentions count as "
        "wrong, and nothing is certified in another norm."
    )
    for variant, certificate in found:
        if certificate.reason:
            yield Note(f"{variant.title}: no certificate", certificate.reason, "warn")
        else:
            yield from _certified(variant, certificate)


def _certified(variant: Variant, found: Certificate) -> Iterator[Block]:
    yield Paragraph(_how(variant, found))
    rows = tuple(
        (
            words.number(at.eps),
            words.share_cell(at.certified, bold=True),
            words.share_cell(at.attacked),
            words.number(at.contradicted),
        )
        for at in found.radii
    )
    yield Table(
        f"{variant.title}: accuracy in L2 on {found.n} images, with 95 % Wilson intervals",
        ("radius, in input units", "certified, at least", "left by the attack, at most", "certified and fell"),
        rows,
        numeric=(0, 3),
    )
    worst = max((at.contradicted for at in found.radii), default=0)
    if worst > max(1, 3 * found.alpha * found.n):
        yield Note(
            "Certified images fell",
            f"{worst} certified images fell to the attack; by chance about {found.alpha * found.n:.1g} of {found.n} "
            "would. The certificates of this variant are not to be believed: report this as a fault of actsec.",
            "bad",
        )


def _how(variant: Variant, found: Certificate) -> Content:
    noise = (
        f": Gaussian noise of std {words.number(found.std)} in input units. {found.n0} noisy copies name the class and "
        f"{words.number(found.draws)} fresh ones bound its probability (Clopper and Pearson); each certificate is "
        f"wrong with probability at most {found.alpha:g} (Cohen, Rosenfeld & Kolter 2019). "
        f"An answer in use is the vote of {found.votes}. "
    )
    shares = ""
    if found.clean is not None and found.abstained is not None:
        shares = (
            f"Certified and right at radius 0: {words.percent(found.clean.value)} ({words.of(found.clean)}); "
            f"abstained: {words.percent(found.abstained.value)}; median radius {words.number(found.median_radius)}. "
        )
    judged = " in L2 on averaged draws, judged by as many fresh copies."
    return joined((variant.title, noise, shares, "The attack beside it is ", code(found.attack), judged), "")
