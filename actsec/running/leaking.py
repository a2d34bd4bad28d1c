"""Does the model keep more with every call? Then a long search ends where memory does."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from actsec.types import Target

WARM = 2
"""Calls in which a model may fill what it keeps once: a table, its last activations."""
CALLS = 4


class _Made(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its modes untyped
    """Follows, weakly, the memory of every tensor that an operation gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(given):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                followed = StorageWeakRef(storage)  # type: ignore[no-untyped-call]  # as are its weak references
                self.seen[storage._cdata] = (followed, storage.nbytes())  # noqa: SLF001  # its identity
        return given

    def alive(self) -> int:
        """Bytes of it that somebody still holds."""
        held = [(key, value) for key, value in self.seen.items() if not value[0].expired()]  # type: ignore[no-untyped-call]
        self.seen = dict(held)
        return sum(size for _, size in self.seen.values())


def kept_by_call(target: Target, x: Tensor) -> int | None:
    """How many bytes more of tensors the model holds after each call with x (n, *shape); 0 when it lets go of all.

    The least growth of CALLS calls, a forward and a backward each, behind WARM: what is kept once, or in a window of
    fewer calls, is no leak. None where the calls cannot be followed. What is kept in other than tensors is not seen.
    """
    try:
        # A cycle that Python's collector takes is no leak. It is slow, and asked only where something seems to be held.
        return _growth(target, x) and _growth(target, x, gc.collect)
    except Exception:  # noqa: BLE001  # what a stranger's model raises under watch says nothing of its memory
        return None


def _growth(target: Target, x: Tensor, between: Callable[[], object] = lambda: None) -> int:
    made, held = _Made(), []
    with made:
        for _ in range(WARM + CALLS):
            leaf = x.detach().clone().requires_grad_(True)
            with torch.enable_grad():
                logits = target.logits(leaf)
                if logits.requires_grad:
                    torch.autograd.grad(logits.sum(), leaf, allow_unused=True)
            target.rejection(leaf.detach())
            del leaf, logits
            between()
            held.append(made.alive())
    return max(min(after - before for before, after in zip(held[WARM - 1 :], held[WARM:], strict=False)), 0)
