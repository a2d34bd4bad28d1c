"""report.json: ``result`` (the same bytes for the same plan) and ``environment`` (times, hardware)."""

from __future__ import annotations

from actsec.reports import load
from actsec.reports.load import Report


def render(report: Report) -> str:
    """The JSON text. Raises StoreError when the result holds NaN or could not be read back."""
    return load.to_json(report)
