"""Formats: one file, one ``render(report)`` that gives text or bytes."""
