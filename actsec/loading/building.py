"""An architecture from its name: a function of the user's, torchvision's, or a reference network.

    nets.py:make(width=3)              a function (or class) of a file; the file is executed: it is the user's own code
    package.module:make(width=3)       the same of an installed package
    torchvision:resnet18               torchvision's architecture; weights are given separately
    reference:cnn(activation=gelu)     actsec.models

Whatever is raised in the user's code becomes one sentence with its file and line.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from actsec import spec as notation
from actsec.errors import ActsecError, BadOption, ModelError, Unsafe, unknown
from actsec.loading.executed import Source
from actsec.spec import Spec

RECIPE, WEIGHTS = "recipe.toml", "weights.safetensors"
"""The files of a hardened model's folder."""
PARAMETERS = 1 << 31
"""Of a torchvision architecture with options, checked before any is allocated: 8 GiB in float32."""
OPTION = 100_000
"""The largest number among the options of one whose parameters cannot be counted before."""
FORMS = (
    "Write nets.py:make, package.module:make, torchvision:resnet18, reference:cnn(activation=gelu), or the folder of a "
    "hardened model."
)


def build(text: str, *, input_shape: tuple[int, ...], classes: int | None, seed: int) -> nn.Module:
    """The untrained network that ``text`` names, its random weights a function of the seed.

    Raises ModelError, UnknownName or BadOption. The global random state, the default dtype and the gradient switch are
    left as they were, whatever the user's code does to them.
    """
    source, call = split(text)
    wanted = notation.parse(call)
    with _undisturbed(seed):
        if source == "reference":
            return _reference(wanted, input_shape, classes, seed)
        if source == "torchvision":
            return torchvision_model(wanted)
        path = Path(source).expanduser()
        module, file = _from_file(path) if path.suffix == ".py" else _from_package(source, str(wanted))
        with _beside(file):
            torch.manual_seed(seed)  # again: whether the import drew depends on whether it was the first
            made = _make(module, wanted, file)
    if not isinstance(made, nn.Module):
        kind = f"the class {made.__name__}" if isinstance(made, type) else f"a {type(made).__name__}"
        raise ModelError(f"{text} returned {kind}, not a torch.nn.Module", "Return the model object itself.")
    return made


def split(text: str) -> tuple[str, str]:
    """``nets.py:make(width=3)`` as (``nets.py``, ``make(width=3)``)."""
    drive, rest = (text[:2], text[2:]) if text[1:3] in (":\\", ":/") else ("", text)
    source, _, call = rest.partition(":")
    source = drive + source
    if not source or not call.strip():
        raise _unreadable(text)
    return source, call


def _unreadable(text: str) -> ModelError:
    """What stands there instead of a model."""
    place = Path(text).expanduser()
    if text.endswith(".py"):
        return ModelError(f"{text!r} names a file and no function in it", f"Write {text}:FUNCTION.")
    if place.name in (RECIPE, WEIGHTS) and (place.parent / RECIPE).is_file():
        return ModelError(f"{text!r} is one file of a hardened model", f"Give its folder: --model {place.parent}/")
    if place.is_file():
        return ModelError(
            f"{text!r} is a file that builds no model",
            "Weights go beside the code: --model nets.py:make --weights FILE.",
        )
    if place.is_dir():
        return ModelError(f"{text!r} is a folder without a {RECIPE}", "Give one that `actsec defend` wrote.")
    around = place.parent.glob(f"*/{RECIPE}") if place.parent.is_dir() else ()
    near = difflib.get_close_matches(place.name, [file.parent.name for file in around], n=1)
    mend = f"Did you mean {place.parent / near[0]}/?" if near else FORMS
    problem = f"there is no folder {text!r}" if "/" in text or near else f"cannot read the model {text!r}"
    return ModelError(problem, mend)


def defines(text: str) -> bool:
    """Whether ``nets.py:make`` names a function or class that the file defines rather than imports, or a model object.

    The file is executed to know. A name that it lacks counts as its own: ``build`` says what it has.
    """
    source, call = split(text)
    with _undisturbed(0):
        module, _ = _from_file(Path(source).expanduser())
    made = getattr(module, notation.parse(call).name, None)
    return made is None or isinstance(made, nn.Module) or getattr(made, "__module__", None) == module.__name__


@contextlib.contextmanager
def _undisturbed(seed: int) -> Iterator[None]:
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_grad_enabled(grad)
            torch.set_default_dtype(dtype)


def _reference(wanted: Spec, input_shape: tuple[int, ...], classes: int | None, seed: int) -> nn.Module:
    from actsec import models

    if not input_shape or classes is None:
        raise ModelError(
            f"reference:{wanted} needs the input shape and the number of classes",
            "Give data, or input_shape=(1, 28, 28) and classes=10.",
        )
    return models.build(wanted, input_shape, classes, seed)


def torchvision_model(wanted: Spec) -> nn.Module:
    """torchvision's architecture with random weights."""
    from torchvision import models

    known = models.list_models()
    if wanted.name not in known:
        raise unknown("torchvision model", wanted.name, known)
    options = {key: value for key, value in wanted.options if key not in ("weights", "weights_backbone")}
    if len(options) < len(wanted.options):
        raise BadOption(f"torchvision:{wanted} asks for weights among its options", "Give them with --weights.")
    if wanted.name in ("googlenet", "inception_v3"):
        options = {"init_weights": True, **options}  # torchvision's default, said aloud so that it does not warn
    builder = models.get_model_builder(wanted.name)
    named = Spec(wanted.name, tuple(options.items()))
    if wanted.options:
        _check_size(builder, named)
    made: nn.Module = _call(builder, named, "torchvision", None)
    return made


def _check_size(builder: Callable[..., Any], wanted: Spec) -> None:
    """Count the parameters that options ask for on the meta device, which allocates none. Raises BadOption.

    RegNets cannot be built there, for they compute with tensors: the numbers among their options are bounded instead.
    """
    try:
        with torch.device("meta"):
            made = builder(**{key: str(value) if isinstance(value, Spec) else value for key, value in wanted.options})
    except Exception:  # noqa: BLE001  # what is wrong with the options is said where the model is built
        largest = max((value for _, value in wanted.options if isinstance(value, (int, float))), default=0)
        if largest > OPTION:
            raise BadOption(f"torchvision:{wanted}: {largest} is above {OPTION:,}", "Give smaller options.") from None
        return
    if (count := sum(parameter.numel() for parameter in made.parameters())) > PARAMETERS:
        raise BadOption(
            f"torchvision:{wanted} has {count:,} parameters, the limit is {PARAMETERS:,}", "Give smaller options."
        )


def _from_file(path: Path) -> tuple[ModuleType, Path | None]:
    if not path.is_file():
        raise ModelError(f"there is no file {str(path)!r}", f"Check the path. {FORMS}")
    path = path.resolve()
    _forget_siblings(path.parent)
    with _beside(path):
        return _module(path), path


@contextlib.contextmanager
def _beside(path: Path | None) -> Iterator[None]:
    """Modules that lie beside the file can be imported, as when Python runs it."""
    before = list(sys.path)
    if path is not None:
        sys.path.insert(0, str(path.parent))
    try:
        yield
    finally:
        sys.path[:] = before


def _module(path: Path) -> ModuleType:
    """The file as a module, once for each content: its classes stay findable, as dataclasses and pickle need."""
    digest = hashlib.sha256(str(path).encode() + b"\0" + path.read_bytes()).hexdigest()[:12]
    name = f"_actsec_model_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, loader=Source(name, str(path)))
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} cannot be imported", "Give a .py file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, (Exception, SystemExit)):
            raise
        raise _failure(f"{path.name} fails when it is imported", path, error) from error
    return module


def _forget_siblings(folder: Path) -> None:
    """Two folders may each hold a ``layers.py``: forget one imported from elsewhere that this folder has itself.

    Standard and installed modules stay: a file that shadows one of them is not what its neighbours mean.
    """
    own = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
    for name in own & sys.modules.keys():
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or name in sys.stdlib_module_names or "site-packages" in Path(file).parts:
            continue
        if folder not in Path(file).resolve().parents and name != "actsec":
            for inner in [n for n in sys.modules if n == name or n.startswith(name + ".")]:
                del sys.modules[inner]


def _from_package(source: str, call: str) -> tuple[ModuleType, Path | None]:
    if source.partition(".")[0] in sys.stdlib_module_names:
        raise Unsafe(
            f"{source}:{call} calls a function of Python's own library, none of which builds a network",
            "A plan that asks for it means harm, or means a file beside it: write ./NAME.py:FUNCTION.",
        )
    try:
        return importlib.import_module(source), None
    except ModuleNotFoundError as error:
        if error.name is not None and (source == error.name or source.startswith(error.name + ".")):
            raise ModelError(f"there is no module {source!r} (for the model {source}:{call})", FORMS) from error
        raise _failure(f"{source} fails when it is imported", None, error) from error
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise _failure(f"{source} fails when it is imported", None, error) from error


def _make(module: ModuleType, wanted: Spec, path: Path | None) -> Any:
    where = path.name if path else module.__name__
    made = getattr(module, wanted.name, None)
    if not callable(made):
        functions = {
            name
            for name, value in vars(module).items()
            if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
        }
        raise ModelError(f"{where} has no function {wanted.name!r}", unknown("function", wanted.name, functions).mend)
    if isinstance(made, nn.Module):
        if wanted.options:
            raise BadOption(f"{where}:{wanted.name} is a model and takes no options", "Leave them out.")
        return copy.deepcopy(made)  # the file is imported once, its model may be loaded often
    return _call(made, wanted, where, path)


def _call(function: Callable[..., Any], wanted: Spec, where: str, path: Path | None) -> Any:
    """Call a factory with the options of a spec, checked against its signature first."""
    options = {key: str(value) if isinstance(value, Spec) else value for key, value in wanted.options}
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        signature = None
    if signature is not None:
        takes = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        for option in options:
            if not open_ended and option not in {p.name for p in takes}:
                raise unknown(f"option of {where}:{wanted.name}", option, [p.name for p in takes])
        needed = [p.name for p in takes if p.default is p.empty and p.name not in options]
        if needed:
            raise BadOption(f"{where}:{wanted.name} needs {needed[0]!r}", f"Write {wanted.name}({needed[0]}=...).")
    try:
        return function(**options)
    except ActsecError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise _failure(f"{where}:{wanted} fails", path, error) from error


def _failure(what: str, path: Path | None, error: BaseException) -> ActsecError:
    """One sentence: what failed, the innermost line of the user's own code, and what Python said."""
    if isinstance(error, ActsecError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    foreign = ("<", __file__, *map(str, (Path(torch.__file__).parent, Path(traceback.__file__).parent)))
    own = [f for f in frames if path is not None and Path(f.filename).parent == path.parent]
    own = own or [f for f in frames if not f.filename.startswith(foreign)]
    place = ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{Path(error.filename).name}:{error.lineno}: "
    elif own or frames:
        last = (own or frames)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}: "
    said = traceback.format_exception_only(error)[-1].strip()
    mend = "Mend that line."
    if "relative import" in said:
        mend = "The file belongs to a package: name it as package.module:function."
    elif isinstance(error, ModuleNotFoundError):
        mend = f"Install {error.name!r}, or put it beside the file."
    return ModelError(f"{what}: {place}{said}", mend)
