"""A hardened model as a folder that stands alone.

    hardened/weights.safetensors    every parameter and buffer: the base's, and what the defenses learned
    hardened/recipe.toml            how the architecture is built again, for people to read; nothing in it executes
    hardened/README.md              how to load it, what it claims, what it cost, how to audit it

    hardened.save("hardened/", target, base=before, model="nets.py:make", chain="swap(to=silu) | temperature")
    target = actsec.load("hardened/")

What loading checks stands in actsec.loading.recipes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from actsec import detecting, registry
from actsec.describing import fingerprint
from actsec.errors import ModelError, StoreError
from actsec.loading import building
from actsec.loading.building import RECIPE, WEIGHTS
from actsec.loading.recipes import SCHEMA, Hardened, Rescaling, is_folder, load, outputs, read, rejections, versions
from actsec.loading.trust import BUILT_IN, Code, loads_alone, sha256
from actsec.planning import toml
from actsec.spec import Spec, parse_chain
from actsec.types import Fitted, Target, chain_text

__all__ = [
    "Hardened",
    "check_file",
    "check_place",
    "is_folder",
    "load",
    "read",
    "save",
    "save_weights",
    "staged",
    "whole",
    "whole_of",
]

README = "README.md"
_WRITABLE = "Give a place that can be written."
_ABSTAINS = (
    "The model abstains: `target.rejection(x)` is above 0 where it refuses an input. The detector is the model's own, "
    "on the weights in this folder: swapped activations, noise and calibrators change what decides, not what rejects."
)
_TRUSTED = "It was made with `--trust-model`: files that execute code when they are opened were allowed."


def check_place(folder: str | Path) -> None:
    """Raise StoreError unless a new folder can be made there: nothing that exists is ever replaced."""
    place = Path(folder).expanduser()
    mend = "Give a folder that does not exist yet."
    if place.exists() and not place.is_dir():
        raise StoreError(f"{place} is a file", mend)
    try:
        if place.is_dir() and any(place.iterdir()):
            raise StoreError(f"{place} exists already and is not empty", mend)
        place.parent.mkdir(parents=True, exist_ok=True)
        Path(tempfile.mkdtemp(prefix=".hardened-", dir=place.parent)).rmdir()
    except OSError as problem:
        raise StoreError(f"cannot write {place}: {problem.strerror}", _WRITABLE) from problem


def whole_of(target: Target) -> None:
    """Raise ModelError for a model that abstains by a function that loading the folder would not find again."""
    if target.rejects is not None and not detecting.own(target):
        raise ModelError(
            f"{target.name} abstains by {getattr(target.rejects, '__qualname__', 'an object')}, which no folder holds",
            "Make it a method rejects(self, x) of the model's class, which the code that builds the model has with it.",
        )


def check_file(file: str | Path) -> None:
    """Raise StoreError unless a file can be written there."""
    place = Path(file).expanduser()
    if place.is_dir() or str(file).endswith(("/", os.sep)):
        raise StoreError(f"{file} is a folder", "Give the name of a file.")
    with _written(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", dir=place.parent)
        os.close(handle)
        Path(name).unlink()


def save(
    folder: str | Path,
    target: Target,
    *,
    base: Target,
    model: str,
    chain: str | Sequence[Spec],
    fits: Sequence[Fitted] = (),
    seconds: Sequence[float] = (),
    onto: Hardened | None = None,
    seed: int = 0,
    command: str = "",
    data: Mapping[str, str] | None = None,
    measured: Mapping[str, Any] | None = None,
    audit: str = "",
    base_weights: str = "",
    trusted: bool = False,
) -> Hardened:
    """Write a fitted target as a folder, whole or not at all, and load it back before it gets its name.

    base is the target before the defenses, model the text that builds it (as for ``actsec.load``), chain the defenses
    that were put on it; fits are what fitting each of them returned, seconds how long it took. onto is the recipe of a
    hardened model that they were put on: its chain goes before, and base is what it began with. command and audit are
    the commands that made the folder and that audit it, base_weights the sha256 of the weights it was made from,
    trusted whether files that execute code when opened were allowed (--trust-model). Raises StoreError where the folder
    cannot be made, ModelError where what was written does not load as the same model: a factory that builds another
    network each time cannot be saved.
    """
    from safetensors.torch import save as as_bytes

    check_place(folder)
    whole_of(base)
    place = Path(folder).expanduser()
    specs = parse_chain(chain) if isinstance(chain, str) else tuple(chain)
    every = (*(onto.specs if onto else ()), *specs)
    content = as_bytes(_state(target))
    source, call = building.split(model)
    path = Path(source).expanduser().resolve() if source.endswith(".py") else None
    recipe = Hardened(
        schema=SCHEMA,
        model=model if path is None else f"{path.name}:{call}",
        chain=chain_text([registry.canonical("defenses", spec) for spec in every]),
        input_shape=tuple(base.shape),
        classes=base.classes,
        bounds=base.bounds,
        seed=seed,
        stochastic=target.stochastic,
        weights=hashlib.sha256(content).hexdigest(),
        fingerprint=fingerprint(target),
        outputs=outputs(target),
        rejections=rejections(target),
        versions=versions(),
        threshold=base.threshold,
        output=base.output,
        normalization=Rescaling.of(base.normalization),
        code=None if path is None else Code(os.path.relpath(path, place.resolve()), sha256(path)),
        base_weights=base_weights,
        trusted=trusted,
        command=command,
        data=dict(data or {}),
        measured=dict(measured or {}),
        fit=(*(onto.fit if onto else ()), *(_told(*each) for each in zip_longest(specs, fits, seconds))),
    )
    texts = {
        RECIPE: recipe_text(recipe),
        README: readme(recipe, place, audit, model, abstains=target.rejects is not None),
    }
    with staged(place) as staging:
        for name, written in {WEIGHTS: content, **{name: text.encode() for name, text in texts.items()}}.items():
            _put(staging / name, written)
        if fingerprint(load(staging, model=model)) != recipe.fingerprint:
            raise ModelError(
                f"{model} does not build the same network again, so that {place} could not be loaded",
                "Let the factory build one fixed architecture.",
            )
    return recipe


def save_weights(file: str | Path, target: Target, *, chain: str = "", trusted: bool = False) -> None:
    """The weights alone, for the architecture they had before; whole or not at all. Raises StoreError.

    The file's metadata holds the chain, the fingerprint, and whether --trust-model was given.
    """
    from safetensors.torch import save as as_bytes

    place = Path(file).expanduser()
    note = {"actsec": "hardened", "chain": chain, "fingerprint": fingerprint(target)}
    note |= {"trusted": str(trusted).lower()}
    with whole(place) as partial:
        _put(partial, as_bytes(_state(target), metadata=note))


def recipe_text(recipe: Hardened) -> str:
    """recipe.toml."""
    head = "# A hardened model. README.md beside this file says how it is loaded. Nothing in this file is executed.\n\n"
    return head + toml.document({k: v for k, v in dataclasses.asdict(recipe).items() if v not in ({}, (), "")})


def readme(recipe: Hardened, place: Path, audit: str, model: str, *, abstains: bool = False) -> str:
    """README.md of the folder: loading, claims, cost, and that nothing was audited. model is what built it.

    abstains says that the model has a detector.
    """
    name = place.name
    built_in = building.split(recipe.model)[0] in BUILT_IN
    code = "" if built_in else f"Loading executes `{recipe.model}`, the code that builds the architecture"
    if recipe.code is not None:
        code += f" (`{recipe.code.file}` from here, sha256 `{recipe.code.sha256[:12]}...`, refused when it changed)"
    given = f'"{place}"' if loads_alone(model) else f'"{model}", weights="{place}"'
    lines = [
        f"# {name}",
        "",
        f"`{recipe.model}` behind `{' | '.join(str(each['defense']) for each in recipe.fit) or recipe.chain}`.",
        "",
        "```python",
        "import actsec",
        f"target = actsec.load({given})    # target.logits(x): x {_inputs(recipe)}",
        "```",
        "",
        *([f"{code}.", ""] if code else []),
        *([_TRUSTED, ""] if recipe.trusted else []),
        *([_ABSTAINS, ""] if abstains else []),
        "## What it claims",
        "",
        *(f"- `{each['defense']}`: {each['claims']}" for each in recipe.fit),
        "",
        "## What it cost",
        "",
        *(f"- `{each['defense']}`: {_cost(each)}" for each in recipe.fit),
        *_measured(recipe.measured),
        "",
        "## It has not been audited",
        "",
        "No attack was tried on it: nothing here says that it is robust. To find out:",
        "",
        "```bash",
        audit or f"actsec audit --model {place} --data test.npz",
        "```",
        "",
        f"`{RECIPE}` holds {_kept(recipe)}; `{WEIGHTS}` every parameter and buffer, the base's and what the defenses",
        "learned.",
        "",
    ]
    return "\n".join(lines)


def _kept(recipe: Hardened) -> str:
    """What the recipe tells of where the model came from."""
    made = "the command that made it and " if recipe.command else ""
    of = ["the code"] * (recipe.code is not None) + ["the weights it began with"] * bool(recipe.base_weights)
    hashes = ", ".join([*of, *(f"the {name} data" for name in recipe.data), "its own weights"])
    return f"{made}the hashes of {hashes}"


def _inputs(recipe: Hardened) -> str:
    low, high = recipe.bounds
    return f"({', '.join(['n', *map(str, recipe.input_shape)])}) float32 in [{low:g}, {high:g}]"


def _cost(fit: Mapping[str, Any]) -> str:
    forwards, backwards = fit.get("forwards", 0), fit.get("backwards", 0)
    seconds = f", {fit['seconds']:.1f} s" if "seconds" in fit else ""
    return f"{forwards:,} forwards and {backwards:,} backwards of one input{seconds}"


def _measured(found: Mapping[str, Any]) -> Iterator[str]:
    """Before and after, where they were measured."""
    if "parameters_after" in found:
        yield f"- parameters: {found['parameters_before']:,} before, {found['parameters_after']:,} after"
    if "n" in found:
        accuracy = f"{found['clean_accuracy_before']:.1%} before, {found['clean_accuracy_after']:.1%} after"
        changed = f"{found['labels_changed']} labels changed"
        yield f"- clean accuracy: {accuracy} ({found['n']} of {found['test']}; {changed})"
        yield f"- ECE: {found['ece_before']:.3f} before, {found['ece_after']:.3f} after"


def _told(spec: Spec, fit: Fitted | None, seconds: float | None) -> dict[str, Any]:
    """A defense of the chain, what it claims, and the single numbers of its fit: lists stay in reports."""
    claims = registry.find("defenses", spec.name).claims
    fit = fit or Fitted()
    kept = {name: value for name, value in fit.numbers.items() if isinstance(value, (bool, int, float, str))}
    more: dict[str, Any] = {} if seconds is None else {"seconds": seconds}
    more |= {"notes": list(fit.notes)} if fit.notes else {}
    return {"defense": str(registry.brief("defenses", spec)), "claims": claims, **kept, **more}


def _state(target: Target) -> dict[str, Any]:
    """Every parameter and buffer; tensors that share memory are written apart."""
    state = target.model.state_dict()
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


@contextlib.contextmanager
def staged(place: Path) -> Iterator[Path]:
    """A folder beside ``place`` that takes its name when the block ends well, and is gone otherwise."""
    with _written(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".hardened-", dir=place.parent))
        try:
            yield staging
            staging.chmod(0o755)
            staging.rename(place)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def whole(place: Path) -> Iterator[Path]:
    """A file beside ``place`` that takes its name when the block ends well, and is gone otherwise."""
    with _written(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", dir=place.parent)
        os.close(handle)
        partial = Path(name)
        try:
            yield partial
            partial.chmod(0o644)
            partial.replace(place)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _written(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise StoreError(f"cannot write {place}: {problem.strerror or problem}", _WRITABLE) from problem


def _put(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
