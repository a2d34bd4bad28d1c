"""The model under audit: loaded, checked, described.

load("nets.py:make(width=3)", weights="w.safetensors", input_shape=(3, 32, 32), classes=10)
load(module)                       a torch.nn.Module, left as it is
settle(target, x, classes)         shape and classes taken from the data
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from actsec.describing import describe, echo_eps, fingerprint
from actsec.errors import ActsecError, BadOption, ModelError, unknown
from actsec.loading import building, recipes
from actsec.loading.agreement import held_against
from actsec.loading.fitting import check_finite, fit_weights
from actsec.loading.normalizing import normalization
from actsec.loading.weights import WeightFile, read_weights
from actsec.loading.zoo import cached_weights, own_normalization
from actsec.search.oracle import frozen
from actsec.types import Normalization, Target, read_head

__all__ = ["Classes", "describe", "echo_eps", "fingerprint", "load", "raw_head", "settle"]

Classes = int | Sequence[str]


def load(
    model: str | nn.Module,
    *,
    weights: str | Path | WeightFile | None = None,
    classes: Classes | None = None,
    input_shape: Sequence[int] | None = None,
    bounds: tuple[float, float] | None = None,
    normalize: str | Normalization | None = None,
    threshold: float | None = None,
    output: str | None = None,
    random_weights: bool = False,
    trust: bool = False,
    device: str | torch.device | None = None,
    seed: int = 0,
    tell: Callable[[str], None] | None = None,
) -> Target:
    """A target from a text (see building) or a module, with the weights of a file (see weights) fitted into it.

    The folder of a hardened model is a text too, and may stand as weights beside the code that builds it. bounds are
    [0, 1], or those of the folder. classes is their number or names; what is not given is taken from the output when
    input_shape is known, and by ``settle`` from the data otherwise. normalize is ``imagenet``, ``MEAN/STD``,
    ``torchvision`` or None. random_weights allows torchvision's architectures without weights; a method ``rejects`` of
    the module is its detector (see Target); trust opens files that execute code. device: the CPU for what is built
    here, None leaves a module where it lies. tell is given each note worth printing.

    A module given as an object is never changed: it is copied when weights or a device are given. Raises ModelError,
    BadOption or UnknownName (exit 2), NoVerdict for weights that are not finite, Unsafe.
    """
    if recipes.is_folder(model) or recipes.is_folder(weights):
        asked = {"normalize": normalize, "threshold": threshold, "output": output, "random_weights": random_weights}
        told = {"classes": classes, "input_shape": input_shape, "bounds": bounds}
        return _hardened(model, weights, asked, told, trust=trust, device=device, tell=tell)
    _no_part(weights)
    say = tell or (lambda _: None)
    names, shape = _names(classes, threshold), tuple(int(side) for side in input_shape or ())
    bounds = bounds or (0.0, 1.0)
    _check_bounds(bounds)
    where = _device(device)
    # weights first: a file that is refused is refused before any code of an architecture runs
    if isinstance(model, str) and isinstance(weights, str):
        weights = cached_weights(model, weights)
    file = weights if isinstance(weights, WeightFile) or weights is None else read_weights(weights, trust=trust)
    if isinstance(model, nn.Module):
        name, module = type(model).__name__, copy.deepcopy(model) if file or where else model
    else:
        name, module = _label(model), _built(model, shape, names, seed, file is not None or random_weights, say)
        where = where or torch.device("cpu")
    own = normalize == "torchvision"
    rescale = own_normalization(model, module, file.name if file else "") if own else normalization(normalize)
    _materialise(module, shape)
    if file is not None:
        for note in (*file.notes, *fit_weights(module, file.tensors)):
            say(note)
    check_finite(module)
    if module is not model:
        module = _plain_float(module, say).to(where).eval()
    rejects = getattr(module, "rejects", None)
    if callable(rejects):
        say("the model has a method rejects: an input that it rejects counts as refused, not as decided")
    rejects = rejects if callable(rejects) else None
    target = Target(module, shape, names, bounds, name, rescale, threshold, output=output, rejects=rejects)
    return settle(target, None, classes if names else None) if shape else target


def of(model: str | Target | nn.Module, x: Any) -> Target:
    """A target as it is; else what ``load`` makes of a model for inputs like x (n, *shape)."""
    return model if isinstance(model, Target) else load(model, input_shape=tuple(x.shape[1:]))


def settle(target: Target, x: Tensor | None, classes: Classes | None = None) -> Target:
    """The target with its input shape taken from x (n, *shape), and its classes named and compared with the output.

    Without x the target's own shape is tried. Classes nobody named are called 0, 1, ... Costs one forward of two rows.
    Raises ModelError when the model cannot take the shape, has another number of logits, or is no classifier.
    """
    shape = target.shape if x is None else tuple(x.shape[1:])
    if target.shape and shape != target.shape:
        raise ModelError(
            f"the model was declared for inputs of shape {target.shape}, the data has {shape}",
            "Give the input shape of the data, or data of that shape.",
        )
    if target.normalization is not None:
        _check_channels(target.normalization, shape)
    given = _names(classes, target.threshold) or target.classes
    low, high = target.bounds
    middle = torch.full((2, *shape), (low + high) / 2, device=target.device)
    sample = middle if x is None else x[:1].repeat_interleave(2, 0)
    with frozen(target.model), torch.inference_mode():
        head = raw_head(target, sample.to(target.device, torch.float32))
    count = _count(head, len(given), given)
    return target.having(shape=shape, classes=given or tuple(map(str, range(count))))


def raw_head(target: Target, x: Tensor) -> Tensor:
    """What the model returns for inputs x (n, *shape), before one logit is read as two. Raises ModelError in words."""
    try:
        output = target.model(target.normalization(x) if target.normalization else x)
    except ActsecError:
        raise
    except ImportError as error:
        mend = f"Install {error.name!r}, or import it at the top of the model's file." if error.name else ""
        raise ModelError(f"the model's forward fails: {type(error).__name__}: {error}", mend) from error
    except Exception as error:  # a layer raises whatever it likes on an input it cannot take
        said = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"the model cannot take inputs of shape {tuple(x.shape[1:])}: {said[:300]}",
            "Give data of the shape the model was built for, channels first.",
        ) from error
    return _field(output, target.output)


def _hardened(
    model: str | nn.Module,
    weights: object,
    own: dict[str, Any],
    told: dict[str, Any],
    *,
    trust: bool,
    device: str | torch.device | None,
    tell: Callable[[str], None] | None,
) -> Target:
    """The target of a hardened model's folder, given as the model, or as weights beside the code that builds it."""
    if not isinstance(model, str):
        raise BadOption(f"weights = {weights} is the folder of a hardened model", "Load it by itself: load(FOLDER).")
    if alone := recipes.is_folder(model):
        own["weights"] = weights
    folder = model if alone else str(weights)
    target = recipes.load(folder, model=None if alone else model, trust=trust, device=device, tell=tell)
    return held_against(recipes.read(folder), target, own=own, **told)


def _built(
    text: str, shape: tuple[int, ...], names: tuple[str, ...], seed: int, has_weights: bool, say: Callable[[str], None]
) -> nn.Module:
    if text.startswith("torchvision:") and not has_weights:
        raise ModelError(
            f"{text} without weights is an untrained network, and nothing is downloaded",
            "Give --weights FILE, or --random-weights to audit the untrained network on purpose.",
        )
    if not has_weights and text.startswith("reference:"):
        say(f"{text} is untrained: its weights are random, from seed {seed}")
    return building.build(text, input_shape=shape, classes=len(names) or None, seed=seed)


def _label(text: str) -> str:
    """The model's name in a report: the folder of a file left off."""
    source, call = building.split(text)
    return f"{Path(source).name}:{call}" if source.endswith(".py") else text


def _names(classes: Classes | None, threshold: float | None) -> tuple[str, ...]:
    if classes is None:
        return ("0", "1") if threshold is not None else ()
    if isinstance(classes, int):
        if classes < 2:
            raise BadOption(f"classes={classes}", "A classifier has at least 2.")
        return tuple(map(str, range(classes)))
    if isinstance(classes, str) or len(classes) < 2 or len(set(classes)) < len(classes):
        raise BadOption(f"classes={classes!r}", "Give their number, or at least 2 different names in label order.")
    return tuple(map(str, classes))


def _no_part(weights: object) -> None:
    """Raise ModelError for the weights of a hardened model without its recipe: the defenses would be left out."""
    if isinstance(weights, (str, Path)):
        place = Path(weights).expanduser()
        if place.name == building.WEIGHTS and recipes.is_folder(place.parent):
            raise ModelError(
                f"{place} is one file of a hardened model, and without its recipe its defenses are left out",
                f"Give its folder: --weights {place.parent}/",
            )


def _check_bounds(bounds: tuple[float, float]) -> None:
    # The inputs are float32, whose largest is 3.4e38, and are added up.
    if len(bounds) != 2 or not all(abs(bound) <= 1e37 for bound in bounds) or not bounds[0] < bounds[1]:
        raise BadOption(f"bounds={bounds} is not a range", "Give two finite numbers, the smaller first.")


def _device(device: str | torch.device | None) -> torch.device | None:
    if device is None:
        return None
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except Exception as error:  # torch raises RuntimeError, AssertionError, ... by backend
        said = str(error).strip().splitlines()[0]
        raise BadOption(f"device {str(device)!r} cannot be used here: {said}", "Use cpu.") from error
    return place


def _materialise(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Lazy layers learn their sizes from a first forward."""
    if not any(isinstance(p, UninitializedParameter) for p in module.parameters()):
        return
    if not shape:
        raise ModelError("the model has lazy layers, whose sizes come from the input", "Give the input shape or data.")
    with torch.no_grad(), torch.random.fork_rng():
        module.eval()(torch.zeros(2, *shape))


def _plain_float(module: nn.Module, say: Callable[[str], None]) -> nn.Module:
    kinds = {p.dtype for p in module.parameters() if p.is_floating_point()} - {torch.float32}
    if kinds:
        say(f"parameters of {', '.join(sorted(str(k).removeprefix('torch.') for k in kinds))} are computed in float32")
    return module.float() if kinds else module


def _check_channels(rescale: Normalization, shape: tuple[int, ...]) -> None:
    if len(rescale.mean) not in (1, shape[0] if shape else 1):
        raise BadOption(
            f"the normalisation has {len(rescale.mean)} channels, the inputs have {shape[0]}",
            "Give one mean and one std for each channel, or one for all.",
        )


def _field(output: Any, name: str | None) -> Tensor:
    """read_head, with a field that is not there told in words."""
    if name is not None:
        known = list(output) if isinstance(output, Mapping) else [k for k in dir(output) if not k.startswith("_")]
        if name not in known:
            if isinstance(output, (Tensor, tuple, list)):
                raise ModelError(f"--output {name}: the model returns a {type(output).__name__}", "Leave --output out.")
            raise unknown("field of the model's output (--output)", name, map(str, known))
    return read_head(output, name)


def _count(head: Tensor, expected: int, names: tuple[str, ...]) -> int:
    """How many classes a head (n, classes), (n, 1) or (n,) of two rows tells apart."""
    if not head.is_floating_point():
        raise ModelError(f"the model returns {head.dtype}: a decision, not logits", "Return what argmax is taken of.")
    if head.dim() not in (1, 2) or len(head) != 2:
        raise ModelError(
            f"the model returns shape {tuple(head.shape)} for 2 inputs; a classifier returns (2, classes)",
            "Segmentation, detection and sequence models are not audited. Flatten the head, or name it with --output.",
        )
    count = head.shape[1] if head.dim() == 2 else 1
    if count == 1 and expected > 2:
        raise ModelError(
            f"the model returns one number an input and there are {expected} classes: it is a regression, "
            "and actsec audits classifiers",
            "Give a model that returns one logit a class.",
        )
    count = max(count, 2)
    if count == 2 and head.numel() == 0:
        raise ModelError("the model returns no numbers", "Return logits (n, classes).")
    if expected and count != expected:
        raise ModelError(
            f"the model tells {count} classes apart and {expected} were named: {', '.join(names[:5])}"
            + (", ..." if expected > 5 else ""),
            "Build the model with the number of classes of the data, or give the data it was trained for.",
        )
    return count
