"""The state of a training as bytes, so that a training ended at any moment goes on from its last epoch, bit for bit.

What is not among the weights is here too: the optimizer's momenta, the generators of order and noise, the curves so
far, and what perturbations and guards remember. A safetensors file; nothing in it is executed when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(slots=True)
class Memory:
    """What must outlive an interruption beside weights and optimizer: JSON numbers and tensors, by name."""

    numbers: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def packed(numbers: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> bytes:
    """Numbers and named groups of tensors as the bytes of a safetensors file. Tensors that share memory are apart."""
    from safetensors.torch import save

    flat = {
        f"{part}:{key}": value.detach().cpu().contiguous().clone()
        for part, tensors in parts.items()
        for key, value in tensors.items()
    }
    flat["numbers"] = torch.frombuffer(bytearray(json.dumps(numbers).encode()), dtype=torch.uint8)
    return save(flat)


def unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """What ``packed`` packed; groups that were empty are missing."""
    from safetensors.torch import load

    flat = load(content)
    numbers = json.loads(bytes(flat.pop("numbers").tolist()))
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in flat.items():
        part, _, key = name.partition(":")
        parts.setdefault(part, {})[key] = value
    return numbers, parts
