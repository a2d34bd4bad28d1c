"""Random numbers that do not depend on who else is in the batch.

Every number is a pure function of (seed, name, row id, step, stream, position): a counter-based generator, here two
rounds of the splitmix64 finaliser (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") in
64-bit integers, which gives the same bits on every device, at every chunk size and in every order. It serves
experiments, not cryptography. A torch.Generator cannot do this: it is one stream, so a row's numbers would depend on
the rows before it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of one job, addressed by row id and step."""

    seed: int
    name: str = ""

    def bits(self, row: Tensor, step: Tensor | int, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        """Int64 tensor (n, *shape) of well-mixed bits for the row ids ``row`` (n,) at ``step`` (an int or (n,))."""
        size = math.prod(shape)
        key = _mix(row.to(torch.int64) + _as_int64(_digest(self.seed, self.name)))
        key = _mix(key + _GOLDEN * (torch.as_tensor(step, device=row.device).to(torch.int64) * 64 + stream + 1))
        position = torch.arange(1, size + 1, device=row.device, dtype=torch.int64)
        return _mix(_mix(key[:, None] + _GOLDEN * position[None])).reshape(-1, *shape)

    def uniform(self, row: Tensor, step: Tensor | int, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        """Float32 (n, *shape) in [0, 1): the 24 highest bits, so every value is exact."""
        top = _shift(self.bits(row, step, shape, stream), 40)
        return top.to(torch.float32) * 2.0**-24

    def sign(self, row: Tensor, step: Tensor | int, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        """Float32 (n, *shape) of -1 and +1, fair."""
        return 1.0 - 2.0 * _shift(self.bits(row, step, shape, stream), 63).to(torch.float32)

    def normal(self, row: Tensor, step: Tensor | int, shape: tuple[int, ...], stream: int = 0) -> Tensor:
        """Float32 (n, *shape) of standard normals, by the inverse distribution function at 52 bits: always finite."""
        top = _shift(self.bits(row, step, shape, stream), 12).to(torch.float64)
        normal: Tensor = torch.special.ndtri((top + 0.5) * 2.0**-52)
        return normal.to(torch.float32)

    def integers(self, row: Tensor, step: Tensor | int, shape: tuple[int, ...], below: int, stream: int = 0) -> Tensor:
        """Int64 (n, *shape) in [0, below); the bias is below / 2**53."""
        top = _shift(self.bits(row, step, shape, stream), 11).to(torch.float64)
        return (top * 2.0**-53 * below).to(torch.int64)

    def named(self, name: str) -> Draws:
        """An independent family of numbers under the same seed."""
        return Draws(self.seed, f"{self.name}/{name}")


def _digest(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8], "big")


def _as_int64(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift(value: Tensor, by: int) -> Tensor:
    """Logical right shift; torch's own shift of int64 carries the sign."""
    return (value >> by) & ((1 << (64 - by)) - 1)


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * _FIRST
    value = (value ^ _shift(value, 27)) * _SECOND
    return value ^ _shift(value, 31)
