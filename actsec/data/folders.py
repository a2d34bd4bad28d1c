"""Reading image folders, ``folder/class/*.png``, in torchvision.ImageFolder's order of classes.

Images are decoded when their rows are asked for, see ``streamed``; each is decoded once at first, for its id.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from actsec.data.limits import LIMIT, check_size
from actsec.data.recognise import check_names
from actsec.data.sets import Dataset
from actsec.data.streamed import Streamed, streamed
from actsec.errors import BadOption, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp"}
FORMATS = ("PNG", "JPEG", "BMP")
"""What is decoded whatever a file is called: Pillow's other readers are not reached, of which EPS runs Ghostscript."""
PIXELS = 89_478_485
"""Pixels of one picture, as it is stored and at every step of a transform: Pillow's own bound."""
_MODES = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
_STEP = re.compile(r"(resize|crop)=([0-9]{1,6})(?:x([0-9]{1,6}))?")
Step = tuple[str, int, int | None]


def from_folder(
    folder: Path, *, resize: str | None = None, classes: Sequence[str] | None = None, limit: int = LIMIT
) -> Dataset:
    """Images as uint8/255, shape (n, 1 or 3, h, w); labels by the folders' names sorted as text, or as in ``classes``.

    ``resize`` states the transform, steps joined by commas: ``resize=256`` (shorter side, bilinear, antialiased),
    ``resize=32x48`` (exactly h x w), ``crop=224`` or ``crop=32x48`` (centre). Without one, all images must have one
    size. Grey images beside coloured ones get three equal channels. ``limit``: most bytes of one image, as float32.
    Raises DataError or BadOption with the mend.
    """
    steps = _steps(resize) if resize is not None else []
    try:
        files, labels, names, notes = _listing(folder, classes)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}", "Check its permissions.") from error
    modes, sizes = _survey(files, steps)
    different = sorted(set(sizes))
    if len(different) > 1:
        named = ", ".join(f"{h}x{w}" for h, w in different[:3])
        raise DataError(
            f"{folder} holds images of {len(different)} sizes after {resize or 'no transform'}: {named}"
            + (", ..." if len(different) > 3 else ""),
            "State the transform, for example resize='resize=256,crop=224' or resize='resize=32x32'.",
        )
    mode = "RGB" if "RGB" in modes else "L"
    height, width = different[0]
    channels = 3 if mode == "RGB" else 1
    check_names(names)
    check_size("an image", (1, channels, height, width), np.dtype(np.uint8), limit)
    notes = ["uint8 divided by 255", *notes]
    if mode == "RGB" and "L" in modes:
        notes.append(f"{modes.count('L')} grey images given three equal channels")
    if resize is not None:
        notes.append(f"transformed by {resize}, bilinear with antialiasing")
    pictures = Pictures(str(folder), tuple(str(file.relative_to(folder)) for file in files), mode, tuple(steps))
    x = streamed(pictures, len(files), (channels, height, width))
    return Dataset(folder.name, x, np.array(labels, dtype=np.int64), tuple(names), x.ids, 255, notes=tuple(notes))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """The files of a folder as rows: decoded in one mode, transformed by the steps."""

    folder: str
    files: tuple[str, ...]
    mode: str
    steps: tuple[Step, ...]

    def row(self, number: int) -> npt.NDArray[np.uint8]:
        """The pixels (channels, height, width). Raises DataError for a file that cannot be decoded."""
        return _pixels(Path(self.folder, self.files[number]), self.mode, self.steps)

    def where(self, number: int) -> str:
        """The file's path."""
        return str(Path(self.folder, self.files[number]))


def kept(dataset: Dataset) -> dict[str, npt.NDArray[Any]] | None:
    """What ``again`` needs to stream the same rows without reading them first; None of data that is in memory."""
    x = dataset.x
    if not isinstance(x, Streamed) or not isinstance(x.source, Pictures):
        return None
    source, names = x.source, "\0".join(x.source.files[row] for row in x.at)
    told = {"folder": source.folder, "mode": source.mode, "steps": source.steps, "item": x.item}
    told |= {"name": dataset.name, "classes": dataset.classes, "notes": dataset.notes}
    texts = {"files": names, "told": json.dumps(told)}
    # File names may hold bytes that are no text.
    coded = {key: np.frombuffer(text.encode(errors="surrogateescape"), dtype=np.uint8) for key, text in texts.items()}
    return {**coded, "y": dataset.y, "ids": dataset.ids}


def again(arrays: dict[str, npt.NDArray[Any]]) -> Dataset:
    """The data set that ``kept`` described. Each row is held against its id when it is read."""
    files, text = (arrays[key].tobytes().decode(errors="surrogateescape") for key in ("files", "told"))
    told = json.loads(text)
    steps = tuple((str(kind), int(height), width) for kind, height, width in told["steps"])
    pictures = Pictures(told["folder"], tuple(files.split("\0")), told["mode"], steps)
    ids, y = arrays["ids"], arrays["y"]
    x = Streamed(pictures, np.arange(len(y), dtype=np.int64), tuple(told["item"]), ids)
    return Dataset(told["name"], x, y, tuple(told["classes"]), ids, 255, notes=tuple(told["notes"]))


def _listing(folder: Path, classes: Sequence[str] | None) -> tuple[list[Path], list[int], list[str], list[str]]:
    rooms = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    layout = "Arrange it as folder/class/image.png, one folder a class."
    if not rooms:
        raise DataError(f"{folder} holds no class folders", layout)
    names = list(classes) if classes is not None else rooms
    if set(names) != set(rooms):
        odd = sorted(set(names) ^ set(rooms))
        raise DataError(f"classes and the folders of {folder} differ in {', '.join(odd)}", "Name every folder once.")
    notes = []
    if classes is None and all(name.isdigit() for name in names) and names != sorted(names, key=int):
        notes.append(f"class folders sorted as text, as torchvision does: {', '.join(names[:4])}, ...")
    files, labels, other = [], [], 0
    for label, name in enumerate(names):
        inside = sorted(p for p in (folder / name).iterdir() if p.is_file() and not p.name.startswith("."))
        _check_links(folder, folder / name, inside)
        images = [p for p in inside if p.suffix.lower() in _SUFFIXES]
        other += len(inside) - len(images)
        if not images:
            raise DataError(f"class folder {folder / name} holds no images", f"{layout} Read: {', '.join(_SUFFIXES)}.")
        files += images
        labels += [label] * len(images)
    if other:
        notes.append(f"{other} files that are not images left unread")
    return files, labels, names, notes


def _check_links(folder: Path, room: Path, files: list[Path]) -> None:
    """Refuse links that lead out of the data folder: a stranger's folder could name any file of this machine."""
    root = folder.resolve()
    for place in (room, *files):
        if (place is room or place.is_symlink()) and not place.resolve().is_relative_to(root):
            raise DataError(
                f"{place} is a link out of {folder}, to {place.resolve()}",
                "Nothing outside the data folder is read: copy there what the link points to.",
            )


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Image]:
    """A picture of FORMATS and at most PIXELS, not yet decoded. Raises DataError with the mend."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of (size, odd metadata) is checked here, or harmless
            picture = Image.open(file, formats=FORMATS)
    except FileNotFoundError:
        raise DataError(f"there is no picture {file}", "Check the path.") from None
    except Image.DecompressionBombError:
        raise _too_many(file, "far more than that many") from None
    except Exception as error:  # a damaged header makes Pillow's readers raise anything
        said = " ".join(str(error).split())
        mend = f"Mend or remove it ({said}). Read: {', '.join(FORMATS)}."
        raise DataError(f"{file} is not an image that can be read", mend) from error
    with picture:
        if picture.width * picture.height > PIXELS:
            raise _too_many(file, f"{picture.height} x {picture.width}")
        yield picture


def _too_many(what: object, found: str) -> DataError:
    return DataError(
        f"{what} has {found} pixels, the limit is {PIXELS:,}", "Make it smaller first; it may be a decompression bomb."
    )


def _survey(files: list[Path], steps: list[Step]) -> tuple[list[str], list[tuple[int, int]]]:
    """Mode and final size of every image from its header alone, before any pixel is decoded."""
    modes, sizes = [], []
    for file in files:
        with opened(file) as image:
            mode, (width, height) = image.mode, image.size
        if mode not in _MODES:
            raise DataError(
                f"{file} has pixels of mode {mode}", "Store it with 8 bits, or 16-bit data as .npz (uint16)."
            )
        modes.append(_MODES[mode])
        sizes.append(_final_size(file, (height, width), steps))
    return modes, sizes


def _final_size(file: Path, size: tuple[int, int], steps: list[Step]) -> tuple[int, int]:
    for kind, height, width in steps:
        if kind == "crop":
            wanted = (height, width or height)
            if wanted[0] > size[0] or wanted[1] > size[1]:
                raise DataError(
                    f"{file} is {size[0]}x{size[1]} when it is to be cropped to {wanted[0]}x{wanted[1]}",
                    "Resize first: resize='resize=256,crop=224'.",
                )
            size = wanted
        else:
            size = _resized(size, height, width)
        if not 0 < size[0] * size[1] <= PIXELS:
            raise BadOption(
                f"resize: {file} would have {size[0]} x {size[1]} pixels, the limit is {PIXELS:,}",
                "Give a smaller size.",
            )
    return size


def _resized(size: tuple[int, int], height: int, width: int | None) -> tuple[int, int]:
    if width is not None:
        return height, width
    short, long = min(size), max(size)
    other = int(height * long / short)
    return (height, other) if size[0] <= size[1] else (other, height)


def _pixels(file: Path, mode: str, steps: Sequence[Step]) -> npt.NDArray[np.uint8]:
    with opened(file) as picture:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a palette's odd transparency, for one: the pixels are what is read
                image = picture.convert(mode)
        except Exception as error:  # damaged pixels make Pillow's decoders raise anything
            said = " ".join(str(error).split())
            raise DataError(f"{file} cannot be decoded: {said}", "Mend or remove it.") from error
    for step in steps:
        image = _apply(image, step)
    array: npt.NDArray[Any] = np.asarray(image, dtype=np.uint8)
    return array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)


def _apply(image: Image, step: Step) -> Image:
    from PIL.Image import Resampling

    kind, height, width = step
    if kind == "resize":
        high, wide = _resized((image.height, image.width), height, width)
        return image.resize((wide, high), Resampling.BILINEAR)
    wide = width or height
    top, left = round((image.height - height) / 2), round((image.width - wide) / 2)
    return image.crop((left, top, left + wide, top + height))


def _steps(text: str) -> list[Step]:
    steps = []
    for part in text.replace(" ", "").split(","):
        match = _STEP.fullmatch(part)
        if match is None or not int(match[2]) or match[3] == "0":
            raise BadOption(
                f"resize={text!r} cannot be read at {part!r}", "Write resize=256, resize=32x32, crop=224, ..."
            )
        steps.append((match[1], int(match[2]), int(match[3]) if match[3] else None))
    return steps
