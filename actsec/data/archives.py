"""Reading ``.npz`` files: no pickle is ever opened, and nothing is allocated before the declared sizes are known.

Members are looked up by name and read in place: no path of an archive is ever written, and an archive inside an archive
is not opened.
"""

from __future__ import annotations

import difflib
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from actsec.data.limits import check_size
from actsec.errors import DataError, Unsafe

Array = npt.NDArray[Any]
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,  # from numpy, for a header it tries to read as one of Python 2
    EOFError,
    OSError,
    ValueError,
    RuntimeError,  # an encrypted member
    NotImplementedError,  # a compression nobody can undo
)
_HOW = "Write the file with np.savez(path, x=x, y=y)."
NAMES_LIMIT = 64 * 2**20
"""Bytes that the names of classes may take."""
RATIO, RATIO_FROM = 100, 256 * 2**20
"""An array of more bytes than the second may unpack to at most the first times its size in the archive."""
_HEADER = 10_000  # characters: numpy's own limit, which it applies after reading as many as the header claims
_WRITTEN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy writes; other compressions allocate as they are told


def read_npz(path: Path, limit: int) -> tuple[Array, Array, tuple[str, ...] | None, tuple[str, ...]]:
    """``x``, ``y``, the names in ``classes`` if there are any, and notes on what was left unread.

    Each member's header is compared with the size the archive declares and with ``limit`` (bytes) before its data is
    read, so a small file cannot claim the memory. Raises DataError, or Unsafe for arrays of Python objects.
    """
    _check_kind(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {i.filename.removesuffix(".npy"): i for i in archive.infolist() if i.filename.endswith(".npy")}
            if any(i.filename.endswith("data.pkl") for i in archive.infolist()):
                raise Unsafe(f"{path} is a PyTorch file, which holds a pickle", _HOW)
            if len({i.filename for i in archive.infolist()}) != len(archive.infolist()):
                raise DataError(f"{path} holds two members of one name", _HOW)
            for key in ("x", "y"):
                if key not in members:
                    raise _no_key(path, key, list(members))
            arrays = {
                key: _member(archive, members[key], key, min(limit, NAMES_LIMIT) if key == "classes" else limit)
                for key in ("x", "y", "classes")
                if key in members
            }
    except _DAMAGED as error:
        raise DataError(f"{path} cannot be read: {error}", f"The file is damaged or incomplete. {_HOW}") from error
    ignored = sorted(set(members) - set(arrays))
    notes = (f"arrays left unread: {', '.join(ignored)}",) if ignored else ()
    return arrays["x"], arrays["y"], _names(arrays.get("classes")), notes


def read_lone(path: Path, limit: int, mend: str) -> Array:
    """The one array of a .npy or .npz file, its size checked like that of ``read_npz``'s members before it is read.

    mend says how to write the file. Raises DataError, or Unsafe for pickles and arrays of Python objects.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(6)
            file.seek(0)
            if _pickled(magic):
                raise Unsafe(f"{path} is a pickle: opening it would execute code", mend)
            if magic == npy.MAGIC_PREFIX:
                shape, dtype = _header(file)
                _check_member(path.name, shape, dtype, limit)
                if math.prod(shape) * dtype.itemsize != path.stat().st_size - file.tell():
                    raise ValueError(f"shape {shape} and type {dtype} do not fill it")
                file.seek(0)
                return np.asarray(npy.read_array(file, allow_pickle=False))
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            if len(members) != 1:
                raise DataError(f"{path} holds {len(members)} arrays: which one?", mend)
            return _member(archive, members[0], members[0].filename.removesuffix(".npy"), limit)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}", "Check the path.") from None
    except _DAMAGED as error:
        raise DataError(f"{path} cannot be read: {error}", f"The file is damaged or incomplete. {mend}") from error


def _pickled(magic: bytes) -> bool:
    return magic[:1] == b"\x80" and magic[1:2] in b"\x02\x03\x04\x05"


def _check_kind(path: Path) -> None:
    """Tell by the first bytes what is not a zip archive."""
    try:
        with path.open("rb") as file:
            magic = file.read(6)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "Check the path and its permissions.") from error
    if not magic:
        raise DataError(f"{path} is empty", _HOW)
    if magic == npy.MAGIC_PREFIX:
        raise DataError(f"{path} holds a single array, x and y are needed", _HOW)
    if _pickled(magic):
        raise Unsafe(f"{path} is a pickle: opening it would execute code", _HOW)
    if magic[:2] != b"PK":
        raise DataError(f"{path} is not an .npz file", _HOW)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str, limit: int) -> Array:
    if info.compress_type not in _WRITTEN:
        raise ValueError(f"{key} is compressed in a way that numpy does not write")
    if info.file_size > max(RATIO_FROM, RATIO * info.compress_size):
        raise DataError(
            f"{archive.filename}: {key} unpacks from {info.compress_size:,} to {info.file_size:,} bytes; above "
            f"{RATIO_FROM:,} bytes at most {RATIO} times the stored size is read",
            "This may be a zip bomb. If the array is yours, store it as it is: np.savez, not np.savez_compressed.",
        )
    with archive.open(info) as file:
        shape, dtype = _header(file)
        _check_member(key, shape, dtype, limit)
        declared = info.file_size - file.tell()
        if math.prod(shape) * dtype.itemsize != declared:
            raise ValueError(f"{key} of shape {shape} and type {dtype} does not fill the {declared} bytes it has")
    with archive.open(info) as file:
        return np.asarray(npy.read_array(file, allow_pickle=False))


def _check_member(key: str, shape: tuple[int, ...], dtype: np.dtype[Any], limit: int) -> None:
    if dtype.hasobject:
        raise Unsafe(
            f"{key} is an array of Python objects, which is a pickle: opening it would execute code",
            f"Store {key} as numbers, for example {key}.astype('float32').",
        )
    check_size(key, shape, dtype, limit)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(file)
    form, reader = ("<H", npy.read_array_header_1_0) if version == (1, 0) else ("<I", npy.read_array_header_2_0)
    told = file.read(struct.calcsize(form))
    if len(told) == struct.calcsize(form) and struct.unpack(form, told)[0] > _HEADER:
        raise ValueError(f"an array's header claims {struct.unpack(form, told)[0]:,} bytes, {_HEADER:,} are read")
    file.seek(-len(told), 1)
    shape, _, dtype = reader(file)
    if any(side < 0 for side in shape):
        raise ValueError(f"an array of shape {shape}")
    return shape, dtype


def _names(array: Array | None) -> tuple[str, ...] | None:
    if array is None:
        return None
    if array.ndim != 1 or array.dtype.kind != "U":
        raise DataError(
            f"classes has type {array.dtype} and shape {array.shape}", "Store names: np.array(['cat', 'dog'])."
        )
    return tuple(map(str, array))


def read_arrays(content: IO[bytes], limit: int, without: Collection[str] = ()) -> dict[str, Array]:
    """Every array of an .npz file that actsec wrote, each checked like a member of ``read_npz``'s.

    ``without`` names arrays that are left unread. Raises ValueError for whatever is wrong, objects and sizes included.
    """
    try:
        with zipfile.ZipFile(content) as archive:
            members = archive.infolist()
            if len({info.filename for info in members}) != len(members):
                raise ValueError("two members of one name")
            if sum(info.file_size for info in members) > limit:
                raise ValueError(f"it unpacks to more than {limit:,} bytes")
            # A member is held against its share of the file; check_size counts every number as four bytes or more.
            named = {info.filename.removesuffix(".npy"): info for info in members}
            wanted = {key: info for key, info in named.items() if key not in without}
            return {key: _member(archive, info, info.filename, 4 * limit) for key, info in wanted.items()}
    except (*_DAMAGED, DataError, Unsafe) as error:
        raise ValueError(str(error)) from error


def _no_key(path: Path, key: str, found: list[str]) -> DataError:
    listed = ", ".join(sorted(found)) or "none"
    usual = {"x": ["X", "images", "data", "inputs", "x_test"], "y": ["Y", "labels", "targets", "target", "y_test"]}[key]
    near = [name for name in found if name in usual] or difflib.get_close_matches(key, found, n=1, cutoff=0.4)
    source = f"data[{near[0]!r}]" if near else "..."
    guess = f"Did you mean {near[0]!r}? " if near else ""
    return DataError(
        f"{path} has no array {key!r}; it has: {listed}",
        f"{guess}Rename it: data = np.load(path); np.savez('new.npz', {key}={source}, ...).",
    )
