"""Diagnostics, one rule a file: each reads evidence and says ok, warn, red or not done. verdict.sanity runs them."""

from __future__ import annotations

if __name__ != "actsec.diagnostics":
    raise ImportError("import this package as actsec.diagnostics")
