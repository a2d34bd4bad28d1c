"""Example inputs as PNG: the original, the attacked one, and their difference made visible."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def drawable(shape: tuple[int, ...]) -> bool:
    """Whether an input of this shape is a picture: (h, w), (1, h, w) or (3, h, w)."""
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))  # dimensions of a picture


def picture(x: NDArray[np.float32], low: float, high: float) -> bytes:
    """PNG of an input (h, w) or (channels, h, w) whose values lie in [low, high]."""
    scaled = np.clip((np.nan_to_num(x) - low) / (high - low), 0, 1)
    return png(np.round(scaled * 255).astype(np.uint8))


def difference(original: NDArray[np.float32], attacked: NDArray[np.float32]) -> tuple[bytes, float]:
    """PNG of attacked minus original around mid grey, and the factor it is amplified by (0 for no difference)."""
    delta = np.nan_to_num(attacked.astype(np.float64) - original)
    largest = float(np.abs(delta).max(initial=0.0))
    factor = 0.5 / largest if largest > 0 else 0.0
    return png(np.round((delta * factor + 0.5) * 255).astype(np.uint8)), factor


def png(pixels: NDArray[Any]) -> bytes:
    """uint8 (h, w), (1, h, w) or (3, h, w) as PNG bytes, the same bytes every time."""
    plane = pixels[None] if pixels.ndim == 2 else pixels  # a grey picture without channels
    rows = np.ascontiguousarray(np.moveaxis(plane, 0, -1))
    height, width, channels = rows.shape
    scanlines = b"".join(b"\0" + rows[i].tobytes() for i in range(height))
    colour = 0 if channels == 1 else 2
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    body = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(scanlines, 9)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
