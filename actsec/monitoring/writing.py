"""JSON lines that outlive their disk: each is flushed, and a failed write is one warning, never an exception."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any, TextIO

from actsec.errors import StoreError


class Lines:
    """A file of JSON lines: a path, which is appended to; an open text file, which is left open; or nothing."""

    def __init__(self, to: str | Path | TextIO | None) -> None:
        self.to = to
        self._file: FileIO | None = None
        self._warned = self._torn = False

    def open(self) -> None:
        """Open the path. Raises StoreError: so early it is a mistake that can be mended."""
        if isinstance(self.to, (str, Path)) and self._file is None:
            try:
                self._file = FileIO(self.to, "a")
            except OSError as problem:
                raise StoreError(f"{self.to} cannot be written: {problem.strerror}", "Name another file.") from None

    def write(self, items: Iterable[Any]) -> None:
        """Append dataclasses, one a line."""
        text = "".join(json.dumps(asdict(item), allow_nan=False) + "\n" for item in items)
        try:
            if self._file is not None:
                self._bytes(text.encode())
            elif self.to is not None and not isinstance(self.to, (str, Path)):
                self.to.write(text)
                self.to.flush()
        except (OSError, ValueError) as problem:  # ValueError: the file was closed
            if not self._warned:
                self._warned = True
                said = f"lines cannot be written ({problem}); the loop goes on, and so do the attempts"
                warnings.warn(f"ActivationMonitor: {said}", RuntimeWarning, stacklevel=4)

    def _bytes(self, data: bytes) -> None:
        """Unbuffered, so that nothing is left to fail later; a line that broke off ends before the next begins."""
        assert self._file is not None  # noqa: S101  # the caller looked
        data = b"\n" + data if self._torn else data
        while data:
            self._torn = True
            data = data[self._file.write(data) or 0 :]
        self._torn = False

    def close(self) -> None:
        """Close what ``open`` opened."""
        if self._file is not None:
            with suppress(OSError):  # every line was written, or warned of
                self._file.close()
            self._file = None
