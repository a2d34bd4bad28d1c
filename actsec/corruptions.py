"""What no adversary did: noise, blur, low contrast, JPEG, a small shift, a small rotation, in five stated strengths.

    corrupt(x, ids, "blur", 3)          x (n, channels, height, width) in [0, 1]
    parsed("blur(severity=3)")          ("blur", 3)

After Hendrycks & Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions", in spirit: their
kinds with parameters stated here, in shares of the side where that makes sense, so that images of 8 and of 224 pixels
are worsened alike. Accuracy under a corruption is an average case: it is measured beside clean accuracy, never searched
and never part of a worst case. Random choices (noise, direction, sign) are keyed by row and seed, so that a row is
corrupted alike in every batch, model and run.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import BadOption, unknown
from actsec.geometry import row_sum
from actsec.spec import parse

SEVERITIES = (1, 2, 3, 4, 5)
SHOWN = (1, 3, 5)
"""The severities of a kind that is named without one."""
_REACH = 3.0
_IMAGE = 3


@dataclass(frozen=True, slots=True)
class Kind:
    """One corruption: its parameter at severity 1 to 5, that parameter in words for a side, and what does it."""

    levels: tuple[float, ...]
    words: Callable[[float, int], str]
    apply: Callable[[Tensor, float, Draws, Tensor], Tensor]
    channels: tuple[int, ...] = ()


def corrupt(
    x: Tensor, ids: Tensor, kind: str, severity: int, *, bounds: tuple[float, float] = (0.0, 1.0), seed: int = 0
) -> Tensor:
    """Images x (n, channels, height, width) inside bounds, corrupted; ids (n,) int64 key what is random.

    Raises UnknownName, and BadOption for a severity that is none or inputs that are no images.
    """
    found = _kind(kind)
    if severity not in SEVERITIES:
        raise BadOption(f"{kind}(severity={severity})", "The severity is 1, 2, 3, 4 or 5.")
    if reason := unfit(kind, tuple(x.shape[1:])):
        raise BadOption(f"{kind}: {reason}", "Leave it out.")
    low, high = bounds
    made = found.apply((x - low) / (high - low), found.levels[severity - 1], Draws(seed, f"corruption {kind}"), ids)
    return low + (high - low) * made.clamp(0, 1)


def setting(kind: str, severity: int, shape: Sequence[int]) -> str:
    """The physical parameter in words, for images of this shape."""
    found = _kind(kind)
    return found.words(found.levels[severity - 1], min(shape[1:]))


def unfit(kind: str, shape: Sequence[int]) -> str:
    """Why a corruption cannot be made on inputs of this shape; empty when it can."""
    if len(shape) != _IMAGE:
        return f"it is for images, and the inputs have shape {tuple(shape)}"
    allowed = _kind(kind).channels
    if allowed and shape[0] not in allowed:
        return f"it is for images of {' or '.join(map(str, allowed))} channels"
    return ""


def parsed(text: str) -> tuple[tuple[str, int], ...]:
    """The kind and severities of a text: ``blur(severity=3)``, or ``blur`` for all that are shown. Raises BadOption."""
    spec = parse(text)
    _kind(spec.name)
    for option in dict(spec.options):
        if option != "severity":
            raise unknown(f"option of corruption {spec.name!r}", option, ("severity",))
    severity = spec.get("severity")
    if severity is None:
        return tuple((spec.name, one) for one in SHOWN)
    if type(severity) is not int or severity not in SEVERITIES:
        raise BadOption(f"{text}", "The severity is 1, 2, 3, 4 or 5.")
    return ((spec.name, severity),)


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise unknown("corruption", name, KINDS)
    return KINDS[name]


def _noise(x: Tensor, std: float, draws: Draws, ids: Tensor) -> Tensor:
    return x + std * draws.normal(ids, 0, tuple(x.shape[1:]))


def _blur(x: Tensor, share: float, _draws: Draws, _ids: Tensor) -> Tensor:
    """A Gaussian filter, cut off at three sigma, the border repeated. Sums in a fixed order: a row is as if alone."""
    sigma = share * min(x.shape[2:])
    for dim in (2, 3):
        reach = min(math.ceil(_REACH * sigma), x.shape[dim] - 1)
        weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-reach, reach + 1)]
        place = torch.arange(x.shape[dim], device=x.device)
        parts = (
            weight / sum(weights) * x.index_select(dim, (place + offset).clamp(0, x.shape[dim] - 1))
            for offset, weight in zip(range(-reach, reach + 1), weights, strict=True)
        )
        total = torch.zeros_like(x)
        for part in parts:
            total = total + part
        x = total
    return x


def _contrast(x: Tensor, factor: float, _draws: Draws, _ids: Tensor) -> Tensor:
    """Towards the mean of each channel of each image."""
    flat = x.flatten(2).double()
    mean = torch.stack([row_sum(flat[:, c]) for c in range(flat.shape[1])], 1) / flat.shape[2]
    mean = mean[:, :, None, None].to(x.dtype)
    return mean + factor * (x - mean)


def _jpeg(x: Tensor, quality: float, _draws: Draws, _ids: Tensor) -> Tensor:
    from PIL import Image

    levels = (x * 255).round().clamp(0, 255).to(torch.uint8).cpu()
    made = []
    for image in levels:
        buffer = io.BytesIO()
        array = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
        Image.fromarray(array).save(buffer, "JPEG", quality=int(quality))
        back = torch.frombuffer(bytearray(Image.open(buffer).tobytes()), dtype=torch.uint8)
        made.append(back.reshape(*image.shape[1:], len(image)).permute(2, 0, 1))
    return (torch.stack(made).to(x.dtype) / 255).to(x.device)


def _shift(x: Tensor, share: float, draws: Draws, ids: Tensor) -> Tensor:
    """By a share of the side, in a random direction."""
    turn = 2 * math.pi * draws.uniform(ids, 0, (1, 1)).double()
    far = share * min(x.shape[2:])
    row, column = _centred(x)
    return _sampled(x, row + far * turn.sin(), column + far * turn.cos())


def _rotate(x: Tensor, degrees: float, draws: Draws, ids: Tensor) -> Tensor:
    """About the centre, to one side or the other."""
    turn = math.radians(degrees) * draws.sign(ids, 0, (1, 1)).double()
    row, column = _centred(x)
    return _sampled(x, row * turn.cos() + column * turn.sin(), column * turn.cos() - row * turn.sin())


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (1, height, 1) and columns (1, 1, width) of the pixels, from the centre, in float64."""
    row, column = (torch.arange(side, dtype=torch.float64, device=x.device) - (side - 1) / 2 for side in x.shape[2:])
    return row[None, :, None], column[None, None, :]


def _sampled(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """x read at these places (n, height, width) from the centre, bilinearly, the border repeated."""
    height, width = x.shape[2:]
    row = (row + (height - 1) / 2).expand(len(x), height, width).clamp(0, height - 1)
    column = (column + (width - 1) / 2).expand(len(x), height, width).clamp(0, width - 1)
    top, left = row.floor(), column.floor()
    down, right = (row - top).to(x.dtype)[:, None], (column - left).to(x.dtype)[:, None]

    def at(r: Tensor, c: Tensor) -> Tensor:
        place = (r.clamp_max(height - 1) * width + c.clamp_max(width - 1)).long().flatten(1)[:, None]
        return x.flatten(2).gather(2, place.expand(-1, x.shape[1], -1)).reshape(x.shape)

    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return upper * (1 - down) + lower * down


KINDS: dict[str, Kind] = {
    "gaussian_noise": Kind((0.02, 0.04, 0.08, 0.12, 0.18), lambda v, _: f"std {v:g} of the range", _noise),
    "blur": Kind((0.0125, 0.02, 0.03, 0.045, 0.06), lambda v, side: f"sigma {v * side:.2g} pixels", _blur),
    "contrast": Kind((0.75, 0.6, 0.45, 0.3, 0.2), lambda v, _: f"contrast times {v:g}", _contrast),
    "jpeg": Kind((80, 60, 40, 25, 15), lambda v, _: f"quality {v:g}", _jpeg, (1, 3)),
    "shift": Kind((0.02, 0.04, 0.06, 0.09, 0.12), lambda v, side: f"{v * side:.2g} pixels", _shift),
    "rotation": Kind((2, 5, 10, 15, 20), lambda v, _: f"{v:g} degrees", _rotate),
}
