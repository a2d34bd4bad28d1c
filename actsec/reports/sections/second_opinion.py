"""What ART says to the same images: where the two disagree, image by image."""

from __future__ import annotations

from collections.abc import Iterator

from actsec.reports import words
from actsec.reports.blocks import Block, Chip, Content, Heading, Paragraph, Table, joined, muted
from actsec.reports.load import Report
from actsec.result import SecondOpinion


def section(report: Report) -> Iterator[Block]:
    """One row for each of our attacks with a counterpart; rows of images that only one of the two broke."""
    found = report.result.second_opinions
    yield Heading("Second opinion")
    if not found:
        yield Paragraph("Not asked for: --second-opinion runs ART's counterpart of each attack on a sample.")
        return
    yield Paragraph(
        "The counterpart of each attack in the Adversarial Robustness Toolbox ran on the first images, and its images "
        "were judged by the same referee: one outside the threat is rejected. What it broke counts in the worst case. "
        "An image that only ART broke is a weakness of our attack."
    )
    yield Table(
        "Both attacks on the same images, by row of the sample",
        ("attack", "ART's counterpart", "threat", "images", "both", "only ours", "only ART's", "neither", "remarks"),
        tuple(_row(opinion) for opinion in found),
        numeric=(3, 4, 7),
        of=tuple(opinion.ours for opinion in found),
    )


def _row(opinion: SecondOpinion) -> tuple[Content, ...]:
    names = (words.spec(opinion.ours), words.spec(opinion.theirs), opinion.threat)
    if opinion.error is not None:
        return (*names, "", "", "", "", "", joined((Chip("no result", "bad"), opinion.error)))
    return (
        *names,
        words.number(opinion.n),
        words.number(opinion.both),
        _images(opinion.only_ours),
        _images(opinion.only_theirs),
        words.number(opinion.neither),
        _remarks(opinion),
    )


def _images(rows: tuple[int, ...]) -> Content:
    if not rows:
        return "0"
    return joined((words.number(len(rows)), muted(f"rows {words.value(rows)}" if len(rows) > 1 else f"row {rows[0]}")))


def _remarks(opinion: SecondOpinion) -> Content:
    parts: list[Content] = []
    if opinion.missed:
        parts.append(Chip(f"{len(opinion.missed)} broken by no attack of ours", "warn"))
    if opinion.ratio is not None:
        parts.append(f"its changes are {words.number(opinion.ratio)} times as large (median)")
    if opinion.rejected:
        parts.append(f"{words.plural(opinion.rejected, 'candidate')} outside the threat, rejected")
    return joined(parts, "; ") if parts else ""
