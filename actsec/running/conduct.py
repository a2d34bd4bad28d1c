"""What a stranger's model may not do to its surroundings while it is measured, and how that shows.

A model that changes its own weights is another model afterwards, and one that changes the number of threads moves the
last bit of every sum: neither job's numbers can be used. Draws from Python's or NumPy's global generator are made
repeatable, by seeding both for each job, and told.
"""

from __future__ import annotations

import contextlib
import pickle
import random
from collections.abc import Iterator

import numpy as np
import torch

from actsec.errors import ModelError
from actsec.running.restoring import restorations, unpack


@contextlib.contextmanager
def seeded(job_id: str) -> Iterator[list[str]]:
    """Python's and NumPy's global generators, begun anew for a job; the list names, at the end, those drawn from."""
    drawn: list[str] = []
    before = random.getstate(), np.random.get_state()  # noqa: NPY002  # the global one is what models use
    key = int(job_id[:8], 16)
    random.seed(key)
    np.random.seed(key)  # noqa: NPY002
    fresh = random.getstate(), _bits()
    try:
        yield drawn
    finally:
        drawn += [
            name for name, a, b in zip(("Python", "NumPy"), fresh, (random.getstate(), _bits()), strict=True) if a != b
        ]
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def _bits() -> bytes:
    return pickle.dumps(np.random.get_state())  # noqa: NPY002


@contextlib.contextmanager
def unchanged(threads: int) -> Iterator[None]:
    """Raise ModelError when a model restored in the block ends with other weights, or torch with other threads."""
    with restorations() as made:
        yield
        for target, weights in made:
            before, now = unpack(weights), target.model.state_dict()
            for name, _ in target.model.named_parameters():
                if name in now and not torch.equal(_raw(now[name]), _raw(before[name])):
                    raise ModelError(
                        f"{target.name} changed its own weights while it was measured: {name}",
                        "A forward pass must leave the parameters as they are.",
                    )
    if (count := torch.get_num_threads()) != threads:
        raise ModelError(
            f"the model changed the number of threads from {threads} to {count} while it was measured",
            "Leave torch.set_num_threads out of it, and give --threads.",
        )


def _raw(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor: NaN equals itself here."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
