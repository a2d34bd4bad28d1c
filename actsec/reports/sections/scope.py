"""What was audited: the threat model, the model and the data."""

from __future__ import annotations

from collections.abc import Iterator

from actsec.reports import words
from actsec.reports.blocks import Block, Content, Fold, Heading, Items, Note, Paragraph, Table, code
from actsec.reports.load import Report
from actsec.result import Data, Result, ThreatResult


def section(report: Report) -> Iterator[Block]:
    """Threats with eps echoed in units a reader can picture; the model; the splits with their hashes."""
    result = report.result
    yield Heading("Scope")
    yield from _threats(result)
    yield from _model(result)
    yield from _data(result.data)


def _threats(result: Result) -> Iterator[Block]:
    seen: dict[str, ThreatResult] = {}
    for variant in result.variants:
        for threat in variant.threats:
            seen.setdefault(threat.threat, threat)
    yield Heading("Threat model", 3)
    if not seen:
        yield Paragraph("No threat was tried: not done.")
        return
    rows: list[tuple[Content, ...]] = [
        (
            code(name),
            threat.norm,
            f"{threat.eps:.6g}" if threat.eps is not None else "the smallest that works",
            threat.echo,
            words.number(threat.worst_case.n),
            ", ".join(dict.fromkeys(a.name for a in threat.attacks)) or "not done",
        )
        for name, threat in seen.items()
    ]
    yield Table(
        "What the adversary may do. Results under different threats are never mixed.",
        ("threat", "norm", "eps", "which is", "examples", "attacks"),
        tuple(rows),
        numeric=(2, 4),
    )
    if result.mask:
        yield Paragraph(f"A mask holds for every attack: {result.mask}.")
    yield Paragraph(
        "The adversary knows the model with its weights and any defense on it; "
        "success is any wrong label, decided by the model's own rule, where the threat says nothing else."
    )


def _model(result: Result) -> Iterator[Block]:
    yield Heading("Model", 3)
    rows: list[tuple[Content, ...]] = [(key, words.value(value)) for key, value in result.model.items()]
    if rows:
        yield Table("The audited model", ("what", "value"), tuple(rows))
    variants: list[tuple[Content, ...]] = [
        (
            words.name_of(variant),
            variant.activation,
            code(variant.chain) if variant.chain else "none",
            words.number(variant.parameters),
            words.pairs(variant.fit) or "\N{EN DASH}",
            code(variant.fingerprint),
        )
        for variant in result.variants
    ]
    table = Table(
        "Every variant: the models, and the models behind defenses",
        ("variant", "activation", "defenses", "parameters", "fitting", "fingerprint"),
        tuple(variants),
        numeric=(3,),
    )
    yield Fold(f"{words.plural(len(variants), 'variant')}, each with its fingerprint", (table,))
    for variant in result.variants:
        if variant.notes:
            yield Note(variant.title, " ".join(variant.notes))


def _data(data: Data) -> Iterator[Block]:
    yield Heading("Data", 3)
    shape = " \N{MULTIPLICATION SIGN} ".join(map(str, data.shape))
    grid = f", on a grid of {data.grid + 1} levels" if data.grid else ""
    low, high = (words.number(bound) for bound in data.bounds)
    yield Paragraph(f"{data.name}: inputs {shape} in [{low}, {high}]{grid}; {len(data.classes)} classes.")
    rows: list[tuple[Content, ...]] = []
    for split in data.splits:
        counts = list(split.counts.values())
        spread = f"{min(counts)} to {max(counts)}" if counts else "not counted"
        rows.append((split.name, words.number(split.n), spread, code(split.sha256)))
    yield Table("Splits of the data", ("split", "examples", "per class", "sha256"), tuple(rows), numeric=(1, 2))
    if data.notes:
        yield Items(data.notes)
