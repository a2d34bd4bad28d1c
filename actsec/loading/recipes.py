"""The recipe of a hardened model, and the model it builds again.

Loading builds the architecture that the recipe names, puts the chain of defenses on it, fills in the weights and
compares: the weights' hash, the hash of the file that builds the architecture, the fingerprint, and a few outputs. The
hashes tell that nothing changed by accident or one file at a time; they are no signature. Which code may be
executed stands in actsec.loading.trust.
"""

from __future__ import annotations

import contextlib
import math
import platform
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

import actsec
from actsec import registry
from actsec.describing import fingerprint
from actsec.detecting import behind
from actsec.draws import Draws
from actsec.errors import ModelError
from actsec.loading import building
from actsec.loading.building import RECIPE, WEIGHTS
from actsec.loading.fitting import check_finite
from actsec.loading.trust import BUILT_IN, HARDEN, Code, vouched
from actsec.loading.weights import read_weights
from actsec.search.oracle import frozen
from actsec.search.tables import Lattice, RawUnits
from actsec.spec import Spec, parse_chain
from actsec.types import Normalization, Target

SCHEMA = 1
CHECKED_ROWS, CHECKED_CLASSES = 2, 10
AGREE = 1e-3
"""Outputs are the same when they differ by at most this share of the largest: other machines add in another order."""
_MOST = 1 << 22  # bytes of a recipe
_LARGEST = 1 << 26  # numbers of one input
_DRAWS = 8  # forwards until a model counts as one that does not draw


@dataclass(frozen=True, slots=True)
class Rescaling:
    """A normalisation. lattices, for tables: the model takes the columns' own units, stepped ones exactly."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    lattices: tuple[Lattice, ...] | None = None

    @staticmethod
    def of(made: Normalization | None) -> Rescaling | None:
        """The record of a target's normalisation."""
        lattices = made.lattices if isinstance(made, RawUnits) else None
        return None if made is None else Rescaling(made.mean, made.std, lattices)

    def make(self) -> Normalization:
        """The normalisation of the record."""
        if self.lattices is None:
            return Normalization(self.mean, self.std)
        return RawUnits(self.mean, self.std, self.lattices)


@dataclass(frozen=True)
class Hardened:
    """recipe.toml: everything but the weights.

    model, input_shape, classes, bounds, threshold, output and normalization make the target before the defenses; chain
    has every option written out. stochastic and fingerprint (describing.fingerprint) are the finished target's, weights
    the sha256 of the file. outputs are the logits of fixed inputs, for the first classes, rejections what its detector
    says of them where it has one; neither of a model that draws at random. fit holds what fitting each defense found
    and cost, measured what was measured beside it, data the fingerprints of the splits, base_weights the sha256 of the
    weights it began with. trusted says that --trust-model was given when it was made.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    schema: int
    model: str
    chain: str
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    bounds: tuple[float, float]
    seed: int
    stochastic: bool
    weights: str
    fingerprint: str
    versions: dict[str, str]
    outputs: tuple[tuple[float, ...], ...] = ()
    rejections: tuple[float, ...] = ()
    threshold: float | None = None
    output: str | None = None
    normalization: Rescaling | None = None
    code: Code | None = None
    base_weights: str = ""
    trusted: bool = False
    command: str = ""
    data: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    fit: tuple[dict[str, Any], ...] = ()

    @property
    def specs(self) -> tuple[Spec, ...]:
        """The defenses of the chain, in order."""
        return parse_chain(self.chain)


def is_folder(place: object) -> bool:
    """Whether what was given as a model or as weights is the folder of a hardened model."""
    with contextlib.suppress(OSError):  # a long text is no file name
        return isinstance(place, (str, Path)) and (Path(place).expanduser() / RECIPE).is_file()
    return False


def read(folder: str | Path) -> Hardened:
    """The recipe of a folder; nothing is executed. Raises ModelError for one that is missing, damaged or newer."""
    path = Path(folder).expanduser() / RECIPE
    try:
        if path.stat().st_size > _MOST:
            raise ModelError(f"{path} is larger than any recipe", "It is not one that actsec wrote.")
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ModelError(f"cannot read {path}: {problem.strerror}", "Give the folder `actsec defend` wrote.") from None
    except (ValueError, RecursionError) as problem:  # TOML, UTF-8, numbers of thousands of digits
        raise ModelError(f"{path} is not TOML: {problem}", HARDEN) from None
    if content.get("schema") != SCHEMA:
        raise ModelError(
            f"{path} has schema {content.get('schema')!r}; this actsec reads schema {SCHEMA}",
            "Load it with the actsec that wrote it, or harden the model again.",
        )
    from pydantic import ValidationError

    try:
        found: Hardened = _adapter().validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{path} does not read at {at!r}: {first['msg']}", HARDEN) from None
    if flaw := next(_flaws(found), None):
        raise ModelError(f"{path} holds {flaw}", HARDEN)
    return found


def _flaws(recipe: Hardened) -> Iterator[str]:
    """What no saved model has, and what would fail or fill the memory when it is built again."""
    shape, texts = recipe.input_shape, (recipe.model, recipe.chain, recipe.output, recipe.code and recipe.code.file)
    if not shape or min(shape) < 1 or math.prod(shape) > _LARGEST:
        yield f"input_shape = {list(shape)}, which is no shape of one input of up to {_LARGEST:,} numbers"
    if not 0 <= recipe.seed < 1 << 63:
        yield f"seed = {recipe.seed}, which is not in [0, 2**63)"
    if any("\0" in text for text in texts if text):
        yield "a name with a NUL character"
    if not all(math.isfinite(value) for row in recipe.outputs for value in row):
        yield "outputs that are not finite"


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Hardened)


def load(
    folder: str | Path,
    *,
    model: str | None = None,
    trust: bool = False,
    device: str | torch.device | None = None,
    tell: Callable[[str], None] | None = None,
) -> Target:
    """The hardened target of a folder, as it was saved.

    model names the code that builds the architecture where it has moved or changed; it is executed, and what it builds
    must still be the saved model. Raises ModelError when anything is not what was saved, Unsafe when the recipe names
    code that was neither named nor trusted by the user.
    """
    place, say = Path(folder).expanduser(), tell or (lambda _: None)
    recipe = read(place)
    file = read_weights(place / WEIGHTS)
    if file.format != "safetensors" or file.sha256 != recipe.weights:
        raise ModelError(
            f"{place / WEIGHTS} is not the file that was saved: its sha256 is {file.sha256[:12]}..., the recipe says "
            f"{recipe.weights[:12]}...",
            HARDEN,
        )
    text = model or vouched(place, recipe.model, recipe.code, trust=trust)
    if building.split(text)[0] not in BUILT_IN:
        say(f"{place} is built by {text}, which is executed")
    target = bare(recipe, text, device)
    for spec in recipe.specs:
        target = behind(target, registry.build("defenses", spec))
    target = target.having(name=place.resolve().name)
    wanted = target.model.state_dict()
    names = {*wanted, *file.tensors}
    if off := [name for name in names if _form(wanted.get(name)) != _form(file.tensors.get(name))]:
        raise ModelError(
            f"{text} builds another model than the one in {place}: {len(off)} tensors differ in name, shape or type, "
            f"such as {min(off)}",
            HARDEN,
        )
    target.model.load_state_dict({name: tensor.to(target.device) for name, tensor in file.tensors.items()})
    check_finite(target.model)
    drawing = target.stochastic or (recipe.stochastic and _draws(target))
    if drawing != recipe.stochastic:
        raise ModelError(
            f"{place} says stochastic = {str(recipe.stochastic).lower()}, and the model that {text} builds "
            f"{'draws at random' if drawing else 'answers the same each time'}",
            HARDEN,
        )
    target = target.having(stochastic=drawing)
    _compare(target, recipe, place, text, say)
    return target


def bare(recipe: Hardened, text: str, device: str | torch.device | None = None) -> Target:
    """The target of a recipe before its defenses, its weights random."""
    from actsec import target as targets

    return targets.load(
        text,
        classes=recipe.classes,
        input_shape=recipe.input_shape,
        bounds=recipe.bounds,
        normalize=recipe.normalization.make() if recipe.normalization else None,
        threshold=recipe.threshold,
        output=recipe.output,
        random_weights=True,
        device=device,
        seed=recipe.seed,
    )


def _compare(target: Target, recipe: Hardened, place: Path, text: str, say: Callable[[str], None]) -> None:
    """Raise ModelError unless the target is the one that was saved: by fingerprint, and by what it answers."""
    then, now = recipe.versions, versions()
    others = [f"{name} {now[name]} (saved with {then[name]})" for name in now if then.get(name, now[name]) != now[name]]
    same, off = fingerprint(target) == recipe.fingerprint, _off(target, recipe)
    if not off <= AGREE:
        raise ModelError(
            f"the model that {text} builds answers otherwise than the one saved in {place}: {by(off)}"
            + (f" under {', '.join(others)}" if others else ""),
            HARDEN,
        )
    if not same and not others:
        raise ModelError(
            f"the model that {text} builds is not the one saved in {place}: its fingerprint differs, so its classes, "
            "their settings or their source changed",
            HARDEN,
        )
    if not same:
        say(f"the fingerprint of {place} differs under {', '.join(others)}; its outputs are the same")


def _off(target: Target, recipe: Hardened) -> float:
    """How far the outputs are from the saved ones, relative to the largest of those."""
    if target.stochastic:
        return 0.0
    now, then = outputs(target), recipe.outputs
    if list(map(len, now)) != list(map(len, then)):
        return math.inf
    off = apart(torch.tensor(then), torch.tensor(now))
    if not recipe.rejections:
        return off
    return max(off, apart(torch.tensor(recipe.rejections), torch.tensor(rejections(target))))


def apart(ours: Tensor, theirs: Tensor) -> float:
    """How far outputs are from ours, relative to the largest of those; infinite for NaN or another number of them."""
    if not ours.numel() or ours.numel() != theirs.numel():
        return math.inf
    a, b = (part.detach().double().cpu().flatten() for part in (ours, theirs))
    off = float((a - b).abs().max() / a.abs().max().clamp_min(1e-12))
    return off if math.isfinite(off) else math.inf


def by(off: float) -> str:
    """The distance of ``apart`` in words."""
    if math.isfinite(off):
        return f"outputs differ by up to {off:.1%} of the largest"
    return "outputs are not finite, or not as many"


def _draws(target: Target) -> bool:
    """Whether a model draws at random by itself: the same inputs answered otherwise in one of a few forwards."""
    x = inputs(target, CHECKED_ROWS)
    with frozen(target.model), torch.no_grad():
        first, *others = (target.logits(x) for _ in range(_DRAWS))
    # Finite answers: NaN, which differs from itself, is no draw.
    return any(bool(((first != other) & first.isfinite() & other.isfinite()).any()) for other in others)


def outputs(target: Target) -> tuple[tuple[float, ...], ...]:
    """Logits of fixed inputs, uniform in the box, of the first classes; none of a target that draws at random."""
    if target.stochastic:
        return ()
    with frozen(target.model), torch.no_grad():
        logits = target.logits(inputs(target, CHECKED_ROWS))[:, :CHECKED_CLASSES].double().cpu()
    return tuple(tuple(row) for row in logits.tolist())


def rejections(target: Target) -> tuple[float, ...]:
    """What the detector says of the same inputs; nothing without one, of one that draws, or where it is not finite."""
    if target.rejects is None or target.stochastic:
        return ()
    with frozen(target.model), torch.no_grad():
        scores = target.rejection(inputs(target, CHECKED_ROWS))
    found = () if scores is None else tuple(scores.double().cpu().tolist())
    return found if all(map(math.isfinite, found)) else ()


def inputs(target: Target, n: int) -> Tensor:
    """Inputs (n, *shape), uniform in the box and always the same."""
    low, high = target.bounds
    rows = torch.arange(n, device=target.device)
    return low + (high - low) * Draws(0, "hardened").uniform(rows, 0, tuple(target.shape))


def versions() -> dict[str, str]:
    """What a fingerprint may depend on: the versions of actsec, Python, torch and torchvision."""
    found = {"actsec": actsec.__version__, "python": platform.python_version(), "torch": torch.__version__}
    with contextlib.suppress(ImportError):
        from importlib.metadata import version

        found["torchvision"] = version("torchvision")
    return found


def _form(tensor: Tensor | None) -> tuple[Any, ...] | None:
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype)
