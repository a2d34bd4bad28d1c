"""Proofs to hold attacks against: the certificate that the tests keep, on the images that fell."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.scenes import ROOT, Absent, scene


def contradicted(name: str, images: int, fallen: Sequence[int], eps: float) -> list[int] | None:
    """Those of the fallen images that are certified at eps, of which there must be none; None if it cannot be told."""
    described = importlib.util.spec_from_file_location("fast_lin", ROOT / "tests" / "fast_lin.py")
    if described is None or described.loader is None or not Path(str(described.origin)).exists():
        return None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    try:
        found = scene(name, Path())
    except Absent:
        return None
    x, y = found.first(images)
    chosen = torch.tensor(list(fallen), dtype=torch.int64)
    sure = module.certified(found.model.model, x[chosen], y[chosen], eps, dtype=torch.float32)
    return [index for index, certain in zip(fallen, sure.tolist(), strict=True) if certain]
