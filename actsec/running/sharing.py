"""The folder of a run that may be handed on: every format of a redacted report, the plan without paths, a manifest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from actsec.planning.plan import Plan, Trial
from actsec.planning.reading import write as toml
from actsec.reports import manifest
from actsec.reports.load import Report, write
from actsec.reports.redacting import PATHS, Scrub, scrubber

NAME = "share"
FILES = {
    "json": "report.json",
    "html": "report.html",
    "md": "report.md",
    "sarif": "actsec.sarif",
    "junit": "junit.xml",
    "terminal": "report.txt",
}
_HEAD = "# What was run, without paths, names and secrets (--no-examples). It cannot be run from here.\n"


def share(report: Report, plan: Plan, folder: Path) -> Path:
    """Write ``folder``/share from a report that ``redacting.redacted`` made. Raises StoreError where it cannot."""
    place = folder / NAME
    place.mkdir(parents=True, exist_ok=True)
    for form, name in FILES.items():
        write(report, place / name, form)
    (place / "plan.toml").write_text(_HEAD + toml(without_paths(plan)), encoding="utf-8")
    (place / manifest.NAME).write_text(manifest.text(place), encoding="utf-8")
    return place


def without_paths(plan: Plan) -> Plan:
    """The plan with every text scrubbed but what its evidence states on purpose."""
    scrub = scrubber(str(getattr(plan, key)) for key in PATHS if getattr(plan, key) is not None)
    found = {f.name: _scrubbed(getattr(plan, f.name), scrub) for f in dataclasses.fields(plan) if f.name != "evidence"}
    return plan.having(**found)


def _scrubbed(value: object, scrub: Scrub) -> object:
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Trial):
        return dataclasses.replace(value, attack=scrub(value.attack), variants=tuple(map(scrub, value.variants)))
    return tuple(_scrubbed(each, scrub) for each in value) if isinstance(value, tuple) else value
