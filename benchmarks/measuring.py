"""Seconds, passes and memory, measured the same way for every library."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers import versions

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(slots=True)
class Passes:
    """Rows through the model, forwards and backwards."""

    forwards: int = 0
    backwards: int = 0


@contextlib.contextmanager
def counted(model: nn.Module) -> Iterator[Passes]:
    """Count the rows of every call of the model, and of every gradient that comes back to its output.

    The hook on the output sees each backward, also several through one graph, and works for any use of the model.
    """
    passes = Passes()

    def forward(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        passes.forwards += len(output)
        if output.requires_grad:
            output.register_hook(backward)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def backward(gradient: Tensor) -> None:
        passes.backwards += len(gradient)

    handle = model.register_forward_hook(forward)
    try:
        yield passes
    finally:
        handle.remove()


def seeded(seed: int) -> None:
    """Every global generator that a library may draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the libraries draw from numpy's global generator


def timed(attempt: Callable[[], list[Tensor]], seed: int, device: torch.device) -> tuple[float, list[Tensor]]:
    """Wall seconds of one run, and what it returned."""
    seeded(seed)
    _wait(device)
    start = time.perf_counter()
    found = attempt()
    _wait(device)
    return time.perf_counter() - start, found


@dataclass(slots=True)
class Peak:
    """The most memory in use at once beyond what was in use before, in MiB; None where it cannot be told."""

    mib: float | None = None
    before: float = 0.0


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Resident memory of this process on Linux (its high-water mark can be reset there), device memory on CUDA.

    Freed memory is first given back to the system, or what an earlier run left behind would hide what this one takes.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        peak.before = torch.cuda.memory_allocated() / 2**20
        yield peak
        peak.mib = torch.cuda.max_memory_allocated() / 2**20 - peak.before
        return
    known = _reset()
    if known:
        peak.before = _resident("VmRSS")
    yield peak
    if known:
        peak.mib = max(_resident("VmHWM") - peak.before, 0.0)


def _reset() -> bool:
    """Give freed memory back and set the high-water mark to what is in use now; whether that is possible here."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        _CLEAR.write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def _resident(key: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def environment(device: str) -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": versions(),
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or "unknown"
