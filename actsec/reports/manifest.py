"""The files of a run with their hashes, as ``sha256sum -c`` reads them."""

from __future__ import annotations

import hashlib
from pathlib import Path

NAME = "MANIFEST.sha256"
_LEFT_OUT = {NAME, ".lock"}
_VOLATILE = {"costs", "training"}
"""Folders of what differs from run to run."""


def files(folder: Path | str) -> tuple[tuple[str, str], ...]:
    """(sha256, path inside the folder) of every file a run keeps, in order; of none, nothing."""
    root = Path(folder)
    found = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    names = [(path, path.relative_to(root)) for path in found]
    kept = [(p, n) for p, n in names if n.parts[0] not in _VOLATILE | _LEFT_OUT and not n.name.startswith(".")]
    return tuple((hashlib.sha256(path.read_bytes()).hexdigest(), name.as_posix()) for path, name in kept)


def text(folder: Path | str) -> str:
    """The manifest of a folder: ``cd RUN && sha256sum -c MANIFEST.sha256`` checks it."""
    return "".join(f"{digest}  {name}\n" for digest, name in files(folder))


def summary(folder: Path | str) -> tuple[tuple[str, str], ...]:
    """What a report rests on: plan, record and examples one by one, the outcomes as one hash of their own manifest.

    Rendered reports are left out: a page cannot hold its own hash.
    """
    every = files(folder)
    single = [
        (name, digest) for digest, name in every if name in ("plan.toml", "run.json", "report.json", "examples.npz")
    ]
    outcomes = [f"{digest}  {name}\n" for digest, name in every if name.startswith("outcomes/")]
    if outcomes:
        whole = hashlib.sha256("".join(outcomes).encode()).hexdigest()
        single.append((f"outcomes/, the manifest of its {len(outcomes)} files", whole))
    return tuple(single)
