"""The evidence page: what was tested, who answers for it, hashes of what it rests on, and what it is evidence for."""

from __future__ import annotations

from collections.abc import Iterator

from actsec.planning.conditions import PEOPLE, evidence_of
from actsec.reports import manifest
from actsec.reports.blocks import Block, Chip, Content, Heading, Paragraph, Table, code
from actsec.reports.evidence import EDITION, evidence
from actsec.reports.load import Report

BLANK = "\N{HORIZONTAL BAR}" * 12


def section(report: Report) -> Iterator[Block]:
    """Names as the plan gives them, blank lines where it does not."""
    result = report.result
    given = evidence_of(result.plan.get("evidence", ()))
    yield Heading("Evidence")
    yield Paragraph(
        "For a file that others read later. What the plan's [evidence] table does not say is left blank, to be filled "
        "in by hand. Nothing here says that a requirement is met."
    )
    about = ("system", "version", "purpose")
    yield Table("What was tested", ("what", "as stated"), tuple((key, given.get(key, BLANK)) for key in about))
    yield Table(
        "Who answers for it",
        ("role", "name", "date", "signature"),
        tuple((role, given.get(role, BLANK), BLANK, BLANK) for role in PEOPLE),
    )
    rows: list[tuple[Content, ...]] = [
        (
            each.framework,
            each.reference,
            each.about,
            Chip(each.status, "good" if each.status == "measured" else "warn"),
            each.evidence or "\N{EN DASH}",
        )
        for each in result.evidence or evidence(result)
    ]
    yield Table(
        f"What this run is evidence for (table of {EDITION}; references, in our words)",
        ("document", "where", "about", "status", "what was measured"),
        tuple(rows),
    )
    sources = dict.fromkeys((each.framework, each.url) for each in result.evidence or evidence(result))
    yield Paragraph(f"Sources: {'; '.join(f'{name}: {url}' for name, url in sources)}.")
    found = manifest.summary(report.folder) if report.folder else ()
    if found:
        caption = f"sha256 of what this report rests on; {manifest.NAME} in the run's folder has every file"
        yield Table(caption, ("file", "sha256"), tuple((name, code(digest)) for name, digest in found))
    else:
        yield Paragraph("Hashes of the run's files: not done, for this page was made without its folder.")
