"""Weight files, read without executing them, and fitted into an architecture.

The kind of a file is told by its first bytes, never by its name. Tensors alone are read: safetensors, and PyTorch's zip
format under the weights-only unpickler. Everything else that PyTorch and joblib write is a program: it is described
without being run, and refused unless it is trusted by name.

``weights_only`` narrows what a pickle may call; it is no sandbox and has had holes (CVE-2025-32434 up to torch 2.5.1,
CVE-2026-24747 below 2.10), so pickles need torch 2.10 and safetensors is what every refusal advises.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import json
import math
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actsec.errors import ModelError, Unsafe, unknown
from actsec.loading.building import RECIPE
from actsec.loading.pickled import called

HOW = (
    "Convert it where you trust it: safetensors.torch.save_file(model.state_dict(), 'w.safetensors'). "
    "To run it here all the same, give --trust-model; the report will say so."
)
_NAMES = {
    "torchscript": "a TorchScript program",
    "pt2": "an exported program (.pt2), whose parts are pickles",
    "package": "a torch.package archive, which holds Python code",
    "legacy": "a PyTorch file in the format before 1.6, a bare pickle",
    "pickle": "a pickle",
    "compressed": "a compressed file such as joblib writes, a pickle inside",
    "unknown": "of no kind that is known to hold tensors alone",
}
_LEGACY = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x04\x22\x4d\x18", b"]\x00\x00")
_HEADER = 100_000_000  # bytes: the longest header safetensors allows
_DEPTH = 3  # of nested dictionaries
_WEAKENS = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True, slots=True)
class WeightFile:
    """What was read: tensors by their dotted path in the file (``state_dict.conv.weight``), on the CPU.

    format is safetensors, torch, or the kind that was trusted; sha256 is of the bytes that were read; trusted says that
    opening the file executed it.
    """

    name: str
    tensors: dict[str, Tensor]
    format: str
    sha256: str
    notes: tuple[str, ...] = ()
    trusted: bool = False


def read_weights(path: str | Path, *, trust: bool = False) -> WeightFile:
    """The tensors of a file. ``file.pt:ema`` reads what lies under ``ema`` alone.

    trust opens what executes code, which is noted. Raises ModelError (missing, damaged, no tensors) or Unsafe. The file
    is read once, so the hash is of what was loaded; takes about twice the file's size in memory.
    """
    place, part = locate(path)
    data = _bytes(place)
    kind = _kind(data, place)
    if kind not in ("safetensors", "torch"):
        if not trust:
            raise Unsafe(f"{place} is {_NAMES[kind]}: opening it could execute code{_found(data, kind)}", HOW)
        loaded, executed = _execute(data, kind, place), True
    else:
        loaded, executed = _load(data, kind, place, trust)
    tensors: dict[str, Tensor] = {}
    left: list[str] = []
    _flatten(loaded, "", tensors, left, _DEPTH)
    notes = [f"{place.name} executed code when it was opened (trusted: --trust-model)"] if executed else []
    if left:
        notes.append(f"left unread in {place.name}, no tensors: {_few(left)}")
    if part:
        tensors = _part(tensors, part, place)
    if not tensors:
        raise ModelError(f"{place} holds no named tensors", "Save model.state_dict().")
    digest = hashlib.sha256(data).hexdigest()
    return WeightFile(place.name, tensors, kind, digest, tuple(notes), executed)


def locate(path: str | Path) -> tuple[Path, str]:
    """The file of ``file.pt:ema``, and what is read of it. Raises Unsafe for an address."""
    text = str(path)
    if "://" in text:
        raise Unsafe(f"{text} is an address, and nothing is fetched", "Download the file, check it, and give its path.")
    place = Path(text).expanduser()
    head, mark, part = text.rpartition(":")
    if mark and not place.exists() and Path(head).expanduser().is_file():
        return Path(head).expanduser(), part
    return place, ""


def _bytes(place: Path) -> bytes:
    if place.name == RECIPE and place.is_file():
        raise ModelError(f"{place} is one file of a hardened model", f"Give its folder: --weights {place.parent}/")
    if not place.is_file():
        if place.exists():
            raise ModelError(f"{place} is not a file", "Give the weight file itself.")
        around = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        near = difflib.get_close_matches(place.name, around, n=1)
        raise ModelError(
            f"there is no weight file {str(place)!r}",
            f"Did you mean {str(place.parent / near[0])!r}?" if near else "Check the path.",
        )
    try:
        return place.read_bytes()
    except OSError as error:
        raise ModelError(f"{place} cannot be read: {error.strerror}", "Check its permissions.") from error
    except MemoryError as error:
        raise ModelError(f"{place} does not fit in memory", "Give a smaller model or a larger machine.") from error


def _kind(data: bytes, place: Path) -> str:
    """The kind of a file by its bytes. Raises ModelError for what is plainly something else."""
    head = data[:64]
    if not data:
        raise ModelError(f"{place} is empty", "The download or the save was interrupted.")
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{place} is a Git LFS pointer, not the weights", "Run git lfs pull.")
    if head.lstrip()[:9].lower() in (b"<!doctype", b"<html>") or head.lstrip()[:5].lower() == b"<html":
        raise ModelError(f"{place} is a web page, not weights", "The download gave an error page; fetch it again.")
    if head[:6] == b"\x93NUMPY":
        raise ModelError(f"{place} is a NumPy array, not weights", "Give weights with names: model.state_dict().")
    if head[:4] == b"PK\x03\x04":
        return _zip_kind(data, place)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _HEADER:
        return "safetensors"
    if head[:1] == b"\x80":
        return "legacy" if head[2:14] == _LEGACY else "pickle"
    zlib = head[:1] == b"x" and int.from_bytes(head[:2], "big") % 31 == 0
    if zlib or head.startswith(_COMPRESSED):
        return "compressed"
    return "pickle" if called(data) else "unknown"


def _zip_kind(data: bytes, place: Path) -> str:
    """Which of the zip formats it is. The sizes it declares are checked before anything is read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ModelError(f"{place} is a damaged zip file: {error}", _AGAIN) from error
    names = {"/" + m.filename.partition("/")[2] for m in members}
    if any(n == "/constants.pkl" or n.startswith("/code/") for n in names):
        return "torchscript"
    if {"/archive_format", "/serialized_exported_program.json"} & names or any(
        m.filename.startswith("serialized_exported_program") for m in members
    ):
        return "pt2"
    if "/.data/extern_modules" in names:
        return "package"
    if "/data.pkl" not in names:
        if any(m.filename.endswith(".npy") for m in members):
            raise ModelError(f"{place} is an .npz archive of arrays, not weights", "Give a state dict or safetensors.")
        return "unknown"
    declared = sum(m.file_size for m in members)
    if declared > len(data):
        raise ModelError(
            f"{place} says it unpacks to {declared:,} bytes and has {len(data):,}: PyTorch never compresses weights",
            "The file is damaged or made to exhaust memory. Save it again with torch.save(model.state_dict(), path).",
        )
    if len({m.filename for m in members}) != len(members):
        raise ModelError(f"{place} holds two members of one name", "Save it again with torch.save.")
    return "torch"


def _load(data: bytes, kind: str, place: Path, trust: bool) -> tuple[Any, bool]:
    """The object of a file that needs no trust, and whether opening it executed code after all (a trusted pickle)."""
    if kind == "safetensors":
        return _safetensors(data, place), False
    if _torch_version() < (2, 10):
        raise Unsafe(
            f"{place} is a pickle, and torch {torch.__version__} reads pickles with a known hole (CVE-2026-24747)",
            f"Install torch 2.10 or newer. {HOW}",
        )
    try:
        with warnings.catch_warnings(action="ignore"), _strict():
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True, mmap=False), False
    except pickle.UnpicklingError as error:
        if trust:
            return _execute(data, kind, place), True
        refused = _unsafe_globals(data)
        calls = f"would call {_few(refused)} when opened; a state dict calls nothing"
        raise Unsafe(
            f"{place} {calls if refused else 'is a pickle that the weights-only reader cannot follow'}", HOW
        ) from error
    except Exception as error:  # the reader raises whatever a damaged file makes it meet
        raise _damaged(place, error) from error


@contextlib.contextmanager
def _strict() -> Iterator[None]:
    """The weights-only reader as torch ships it, whatever the environment or another library asked of it.

    weights_only is passed at the call, which TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD cannot turn off in the versions read; the
    variable is taken away all the same, and so is what other code declared safe to call. TORCH_FORCE_WEIGHTS_ONLY_LOAD,
    which makes loading stricter, stays.
    """
    switch, declared = os.environ.pop(_WEAKENS, None), torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(declared)
        if switch is not None:
            os.environ[_WEAKENS] = switch


def _safetensors(data: bytes, place: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        length = int.from_bytes(data[:8], "little")
        _check_header(json.loads(data[8 : 8 + length]), len(data) - 8 - length)
        return load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError, RuntimeError) as error:
        raise _damaged(place, error) from error


def _check_header(header: dict[str, Any], size: int) -> None:
    """Every tensor lies inside the file and has as many bytes as its shape asks. Raises ValueError."""
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        shape = entry["shape"]
        if not 0 <= begin <= end <= size or min(shape, default=0) < 0 or math.prod(shape) > 8 * (end - begin):
            raise ValueError(f"tensor {name!r} of shape {shape} is not inside the file")


_AGAIN = "The file is damaged or cut short; fetch or save it again."


def _damaged(place: Path, error: BaseException) -> ModelError:
    said = str(error).strip().splitlines()
    return ModelError(f"{place} cannot be read: {said[0][:200] if said else type(error).__name__}", _AGAIN)


def _torch_version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def _unsafe_globals(data: bytes) -> list[str]:
    """What the weights-only reader will not call, listed without running it."""
    try:
        refused = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))
    except Exception:  # noqa: BLE001  # a pickle that torch cannot walk: our own walk follows
        refused = []
    return sorted(refused) or [n for n in _called(data, "torch") if not n.startswith(("torch.", "collections."))]


def _called(data: bytes, kind: str) -> list[str]:
    if kind in ("legacy", "pickle"):
        return called(data)
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return []
    names: list[str] = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            if member.filename.endswith(".pkl") and member.file_size <= len(data):
                names += called(archive.read(member))
    return sorted(set(names))


def _found(data: bytes, kind: str) -> str:
    """What was found in it, for the refusal."""
    try:
        names = _called(data, kind)
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError):
        names = []
    return f" (it calls {_few(names)})" if names else ""


def _execute(data: bytes, kind: str, place: Path) -> Any:
    """Open a file that runs code. Only reached with trust."""
    if kind in ("unknown", "package"):
        raise ModelError(f"{place} is {_NAMES[kind]}", "actsec reads safetensors and PyTorch state dicts.")
    try:
        if kind == "torchscript":
            loaded = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
        elif kind == "pt2":
            loaded = torch.export.load(io.BytesIO(data))
        elif kind in ("torch", "legacy"):
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)  # nosec B614  # it is trusted by name
        else:
            import joblib  # type: ignore[import-untyped]  # it ships none

            loaded = joblib.load(io.BytesIO(data))
    except Exception as error:  # code of the file's own may raise anything
        raise ModelError(
            f"{place} fails when it is opened: {type(error).__name__}: {error}", "Convert it to safetensors."
        ) from error
    return loaded if isinstance(loaded, Mapping) or not hasattr(loaded, "state_dict") else _state(loaded)


def _state(loaded: Any) -> Any:
    state = loaded.state_dict
    return state() if callable(state) else state


def _flatten(value: Any, path: str, tensors: dict[str, Tensor], left: list[str], depth: int) -> None:
    """Tensors of nested dictionaries by dotted path; what is neither goes to ``left``."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
    elif isinstance(value, Mapping) and depth and value and all(isinstance(key, str) for key in value):
        for key, inner in value.items():
            _flatten(inner, f"{path}.{key}" if path else key, tensors, left, depth - 1)
    elif hasattr(value, "dtype") and hasattr(value, "shape") and not path.endswith("rng_state"):
        tensors[path] = torch.as_tensor(value)
    else:
        left.append(path or type(value).__name__)


def _part(tensors: dict[str, Tensor], part: str, place: Path) -> dict[str, Tensor]:
    chosen = {key.removeprefix(part + "."): value for key, value in tensors.items() if key.startswith(part + ".")}
    if not chosen:
        raise ModelError(
            f"{place} holds nothing under {part!r}",
            unknown("part", part, {key.partition(".")[0] for key in tensors if "." in key}).mend,
        )
    return chosen


def _few(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
