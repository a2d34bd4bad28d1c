"""Weights into an architecture: the right nesting and prefix found, everything that does not fit reported."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from actsec.errors import ModelError, NoVerdict

_COUNTER = "num_batches_tracked"


def fit_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Load ``tensors`` into ``model`` in place and say in notes what had to be done to make the names match.

    A nesting or prefix (``state_dict.``, ``module.``, ``_orig_mod.``, ...) is left off when that, and nothing else,
    makes every name and shape match; a wrapper of the architecture likewise. Raises ModelError when nothing fits, or
    when two parts of the file fit (weights and their moving average): which one is audited is the owner's to say.
    """
    wanted = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    if not wanted:
        raise ModelError("the architecture has no parameters to load weights into", "Leave --weights out.")
    tied = _tied(wanted)
    fits = [reading for reading in _readings(wanted, tensors) if not any(_compare(wanted, tied, tensors, *reading))]
    if not fits:
        raise _misfit(wanted, tied, tensors)
    if len(fits) > 1:
        parts = ", ".join(repr(prefix.rstrip(".")) for prefix, _ in fits)
        raise ModelError(
            f"the file holds {len(fits)} sets of weights that fit: {parts}",
            f"Say which one is used in production: --weights FILE:{fits[-1][0].rstrip('.')}.",
        )
    prefix, wrapper = fits[0]
    chosen = {wrapper + key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    absent = [key for key in wanted if key not in chosen]
    notes = []
    if prefix:
        notes.append(f"weights were read from under {prefix.rstrip('.')!r}")
    if wrapper:
        notes.append(f"weights were loaded into {wrapper.rstrip('.')!r} of the architecture")
    if len(chosen) < len(tensors):
        notes.append(f"{len(tensors) - len(chosen)} other tensors of the file were left unread")
    if any(not key.endswith(_COUNTER) for key in absent):
        notes.append(f"tied to a tensor of another name: {_few([k for k in absent if not k.endswith(_COUNTER)])}")
    notes += _copy(model, wanted, chosen)
    return tuple(notes)


def check_finite(model: nn.Module) -> None:
    """Raises NoVerdict when a parameter is NaN or infinite, or a buffer NaN (attention masks hold infinities)."""
    for kind, named in (("weights", model.named_parameters()), ("buffers", model.named_buffers())):
        for name, tensor in named:
            if not tensor.is_floating_point() or tensor.is_meta:
                continue
            bad = tensor.isnan() if kind == "buffers" else ~tensor.isfinite()
            if bool(bad.any()):
                what = "NaN" if bool(tensor.isnan().any()) else "infinity"
                raise NoVerdict(
                    f"{kind} contain {what} in {name}: {int(bad.sum())} of {tensor.numel()} values",
                    "Training diverged or the file is damaged; no number about this model means anything.",
                )


def _readings(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Every (prefix in the file, wrapper in the architecture) under which some name of one is a name of the other."""
    readings = {("", "")}
    for key in (next(iter(wanted)), list(wanted)[-1]):
        readings |= {(name.removesuffix(key), "") for name in tensors if name.endswith("." + key)}
        for at in (i + 1 for i, letter in enumerate(key) if letter == "."):
            wrapper, inner = key[:at], key[at:]
            if all(name.startswith(wrapper) for name in wanted):
                ends = [name for name in tensors if name == inner or name.endswith("." + inner)]
                # A prefix that ends in the wrapper only takes off what the wrapper puts back.
                readings |= {(p, wrapper) for name in ends if not (p := name.removesuffix(inner)).endswith(wrapper)}
    return sorted(readings)


def _tied(wanted: Mapping[str, Tensor]) -> dict[str, set[str]]:
    """For each name, the names that share its memory: safetensors stores one of them."""
    places: dict[tuple[object, ...], set[str]] = {}
    for name, tensor in wanted.items():
        places.setdefault((tensor.data_ptr(), tuple(tensor.shape), tensor.stride()), set()).add(name)
    return {name: group for group in places.values() for name in group if len(group) > 1 and wanted[name].numel()}


def _compare(
    wanted: Mapping[str, Tensor], tied: Mapping[str, set[str]], tensors: Mapping[str, Tensor], prefix: str, wrapper: str
) -> tuple[list[str], list[str], list[str]]:
    """Names missing from the file, names the architecture lacks, and shapes that differ."""
    given = {wrapper + key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    missing = [
        key
        for key in wanted
        if key not in given and not key.endswith(_COUNTER) and not any(other in given for other in tied.get(key, ()))
    ]
    unexpected = [key for key in given if key not in wanted]
    shapes = [
        f"{key} is {list(given[key].shape)} in the file and {list(value.shape)} in the architecture"
        for key, value in wanted.items()
        if key in given and given[key].shape != value.shape
    ]
    return missing, unexpected, shapes


def _misfit(wanted: Mapping[str, Tensor], tied: Mapping[str, set[str]], tensors: Mapping[str, Tensor]) -> ModelError:
    """The error for weights of another architecture, told for the reading that comes nearest."""
    _, prefix, wrapper = min(
        (sum(map(len, _compare(wanted, tied, tensors, prefix, wrapper))), prefix, wrapper)
        for prefix, wrapper in _readings(wanted, tensors)
    )
    missing, unexpected, shapes = _compare(wanted, tied, tensors, prefix, wrapper)
    kinds = (("missing", missing), ("unexpected", unexpected))
    found = [f"{len(names)} {what}: {_few(names)}" for what, names in kinds if names]
    if shapes:
        found.append(f"{len(shapes)} of another shape: {_few(shapes, 2)}")
    under = f" (read under {prefix.rstrip('.')!r}, where most fit)" if prefix else ""
    return ModelError(
        f"the weights are of another architecture{under}: {'; '.join(found)}",
        "Name the architecture they were trained in, with the same options.",
    )


def _copy(model: nn.Module, wanted: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> list[str]:
    """Copy the values; notes name the number types that changed on the way."""
    changed: dict[tuple[str, str], int] = {}
    for name, tensor in chosen.items():
        if tensor.is_quantized or tensor.is_complex() or tensor.layout != torch.strided:
            raise ModelError(f"{name} is quantised, complex or sparse", "Give ordinary floating-point weights.")
        if tensor.dtype != wanted[name].dtype:
            pair = (str(tensor.dtype).removeprefix("torch."), str(wanted[name].dtype).removeprefix("torch."))
            changed[pair] = changed.get(pair, 0) + 1
    try:
        model.load_state_dict(chosen, strict=False)
    except RuntimeError as error:
        raise ModelError(f"the weights cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    return [f"{n} tensors stored as {a} are computed in {b}" for (a, b), n in changed.items()]


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
