"""Galleries of models that only look robust, and of honest ones, that the masking battery is judged by."""

from __future__ import annotations

from benchmarks.galleries.first import FIRST
from benchmarks.galleries.second import SECOND

GALLERIES = {"first": FIRST, "second": SECOND}
