"""The libraries that are measured, one a file, behind one function.

``prepare(spec, question)`` turns ``LinfPGD(steps=40)`` into a call of that library: everything that a user would do
once (wrapping the model, making the attack, converting the images) is done here and not timed; the call is.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import torch
from torch import Tensor, nn

from actsec.spec import Spec
from actsec.types import Norm

PEERS = {
    "actsec": ("ours", "actsec"),
    "bare": ("bare", "torch"),
    "art": ("art", "adversarial-robustness-toolbox"),
    "foolbox": ("foolbox", "foolbox"),
    "torchattacks": ("torchattacks", "torchattacks"),
    "adv-lib": ("adv_lib", "adv-lib"),
    "autoattack": ("autoattack", "autoattack"),
}
"""Name in the tables: module in this folder, and the distribution whose version is recorded."""

Attempt = Callable[[], list[Tensor]]
"""One run of an attack: images (n, *shape) for each eps asked, or one tensor where none was."""


class Missing(Exception):
    """The library cannot be imported here."""


@dataclass(frozen=True, slots=True)
class Question:
    """What every library is asked: the same frozen model in eval mode, images, labels and batch size.

    x (n, *shape) float32 in [0, 1]; eps in input units (pixels for l0), empty for the smallest change. settle says
    whether examples that are broken may leave early, and stand_in which dtype a faster copy of the model may search in
    (none: no copy): choices that only actsec has.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    classes: int
    norm: Norm
    eps: tuple[float, ...]
    batch: int
    seed: int = 0
    settle: bool = True
    stand_in: str = ""

    def pieces(self) -> list[tuple[Tensor, Tensor]]:
        """Images and labels in batches, for libraries that take one batch at a time."""
        return list(zip(torch.split(self.x, self.batch), torch.split(self.y, self.batch), strict=True))


def prepare(peer: str, spec: Spec, question: Question) -> Attempt:
    """The call to be timed. Raises Missing where the library is not installed; what the library raises otherwise."""
    try:
        module = importlib.import_module(f"benchmarks.peers.{PEERS[peer][0]}")
    except ImportError as error:
        raise Missing(f"{peer} is not installed ({error}); try: python -m benchmarks setup") from error
    attempt: Attempt = module.prepare(spec, question)
    return attempt


def versions() -> dict[str, str]:
    """The installed version of every library, or "not installed"."""
    found = {}
    for peer, (_, distribution) in PEERS.items():
        try:
            found[peer] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found[peer] = "not installed"
    return found
