"""What a target is: its fingerprint, its description, and what an eps means to it."""

from __future__ import annotations

import hashlib
import inspect
import math
from typing import Any

import torch
from torch import nn

from actsec.loading.normalizing import show_normalization
from actsec.search import attributes
from actsec.search.oracle import frozen
from actsec.types import Norm, Target

_KNOWN = ("torch", "torchvision", "actsec")
"""Packages whose source is named by their version, which every report states."""


def fingerprint(target: Target) -> str:
    """sha256 of all that decides the target's answers.

    Tensors (name, dtype, shape, bytes), the structure with each module's class, settings and source, normalisation,
    bounds, decision rule and output field. The same on every machine. Global variables and functions that a forward
    method calls are not seen.
    """
    digest = hashlib.sha256()

    def add(*parts: object) -> None:
        digest.update(repr(parts).encode() + b"\n")

    rule = (target.bounds, target.normalization, target.threshold, target.output, target.shape, target.classes)
    add("actsec-target-1", *rule)
    if target.rejects is not None:
        add("rejects", getattr(target.rejects, "__qualname__", type(target.rejects).__qualname__))
    for name, module in target.model.named_modules(remove_duplicate=False):
        add(name, type(module).__qualname__, "" if list(module.children()) else module.extra_repr(), *_settings(module))
        add(_source(type(module)))
    for group in (target.model.named_parameters, target.model.named_buffers):
        for name, tensor in group(remove_duplicate=False):
            add(name, str(tensor.dtype), tuple(tensor.shape))
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def describe(target: Target) -> dict[str, Any]:
    """What a report says about the target: sizes, activation calls by kind, device, decision rule, fingerprint.

    Costs one or two forwards of one row, when the input shape is known.
    """
    from actsec import activations

    kinds: dict[str, int] = {}
    if target.shape:
        low, high = target.bounds
        example = torch.full((1, *target.shape), (low + high) / 2, device=target.device)
        with frozen(target.model):
            found = activations.find(target.model, target.normalization(example) if target.normalization else example)
        for site in found:
            kinds[site.kind] = kinds.get(site.kind, 0) + 1
    parameters = list(target.model.parameters())
    return {
        "name": target.name,
        "architecture": type(target.model).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "activations": dict(sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0]))),
        "input_shape": list(target.shape),
        "bounds": list(target.bounds),
        "normalization": None if target.normalization is None else show_normalization(target.normalization),
        "classes": list(target.classes),
        "decision": "largest logit" if target.threshold is None else f"class 1 above probability {target.threshold:g}",
        "stochastic": target.stochastic,
        "device": str(target.device),
        "fingerprint": fingerprint(target),
    }


def echo_eps(eps: float, target: Target, norm: Norm = "linf") -> str:
    """An eps in all its units: ``2/255 of [0, 1] = 2 grey levels = 0.034 after your normalisation``.

    Grey levels are 255ths of the range, said of images only; the last part is said when the target normalises. l2 and
    l1 are spread evenly over the input for comparison; l0 counts pixels (features, when the input is no image).
    """
    low, high = target.bounds
    box = f"[{low:g}, {high:g}]"
    image = len(target.shape) == 3
    if norm == "l0":
        total = math.prod(target.shape[1:] if image else target.shape)
        unit = "pixel" if image else "feature"
        chosen = unit if eps == 1 else unit + "s"
        share = _short(100 * eps / max(total, 1))
        return f"{eps:g} of {total} {unit}s ({share} %), the chosen {chosen} free in {box}"
    total = max(math.prod(target.shape), 1)
    each = eps if norm == "linf" else eps / math.sqrt(total) if norm == "l2" else eps / total
    parts = [f"{_text(eps)} of {box}"]
    if norm != "linf":
        parts = [f"{norm} {_text(eps)} in {box}", f"{_short(each)} a value, spread evenly over {total}"]
    level = 255 * each / (high - low)
    said = f"{_short(level)} grey level{'' if _short(level) == '1' else 's'}"
    parts.append(said if image else f"{_short(level / 2.55)} % of the range")
    if target.normalization is not None:
        sizes = sorted({_short(each / std) for std in target.normalization.std}, key=float)
        between = sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        parts.append(f"{between} after your normalisation")
    return " = ".join(parts)


def _text(eps: float) -> str:
    """k/255 where eps is near one, as people write it; else two significant digits more than needed to tell it."""
    levels = eps * 255
    if abs(levels - round(levels)) < 1e-6 and 0 < round(levels) < 255:
        return f"{round(levels)}/255"
    return f"{eps:.6g}"


def _short(value: float) -> str:
    """Two significant digits; whole numbers whole."""
    if abs(value - round(value)) < 1e-9 * max(1.0, abs(value)):
        return str(round(value))
    return f"{value:.1f}" if value >= 10 else f"{float(f'{value:.2g}'):g}"


def _settings(module: nn.Module) -> list[tuple[str, str]]:
    """The plain attributes of a module: numbers, texts, and functions by name. ``self.scale = 1000`` is among them."""
    found = []
    for name, value in sorted(vars(module).items()):
        if not attributes.public(name):
            continue
        if isinstance(value, (*attributes.PLAIN, list)):
            found.append((name, repr(value)))
        elif callable(value) and not isinstance(value, nn.Module):
            found.append((name, getattr(value, "__qualname__", type(value).__qualname__)))
    return found


def _source(kind: type) -> str:
    """The source of a class of the user's, so that an edited forward is another model; "" where there is none."""
    if kind.__module__.partition(".")[0] in _KNOWN:
        return ""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""
