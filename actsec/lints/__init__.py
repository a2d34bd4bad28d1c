"""Lints, one rule a file: each reads an architecture, trained or not, and says what usually goes wrong with it."""

from __future__ import annotations
