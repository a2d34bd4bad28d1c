"""The importable audit: attack, defend, diagnose and audit a target.

    target = actsec.load("nets.py:make", weights="w.safetensors", input_shape=(3, 32, 32))
    outcome = actsec.attack(target, x, y, "fgsm", eps=8/255)
    hardened = actsec.defend(target, "temperature", calibration=(x, y))
    run = actsec.audit(target, (x, y), train=(x_train, y_train))

Images are numpy arrays or tensors (n, *shape) in input units, labels (n,) whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actsec import registry
from actsec import target as targets
from actsec.attacked import Images, tensor
from actsec.data import Dataset, Splits, from_arrays
from actsec.errors import BadOption
from actsec.hardening import chains
from actsec.health import tally
from actsec.planning.reading import from_table
from actsec.result import Result
from actsec.running import probe, runner, scene, tasks
from actsec.spec import Spec, parse_chain
from actsec.types import Defense, Fitted, Material, Split, Target

Data = tuple[Images, Images]


def defend(
    target: Target,
    defense: str | Spec | Defense,
    *,
    calibration: Data | None = None,
    train: Data | None = None,
    seed: int = 0,
) -> Target:
    """The target behind a chain of defenses such as ``swap(to=silu, finetune=3) | temperature``, fitted.

    The given target is untouched. Raises BadOption when a defense needs data that was not given.
    """
    return fitted(target, defense, calibration=calibration, train=train, seed=seed)[0]


def fitted(
    target: Target,
    defense: str | Spec | Defense,
    *,
    calibration: Data | None = None,
    train: Data | None = None,
    seed: int = 0,
) -> tuple[Target, tuple[Fitted, ...]]:
    """What ``defend`` returns, and what fitting each defense of the chain found: a temperature, losses, costs."""
    chain: list[Defense] = (
        [registry.build("defenses", spec) for spec in parse_chain(str(defense))]
        if isinstance(defense, (str, Spec))
        else [defense]
    )
    given = {"calibration": calibration, "train": train}
    splits = {name: _split(data, target.device) for name, data in given.items()}
    for each in chain:
        if each.needs != "nothing" and splits[each.needs] is None:
            raise BadOption(f"{type(each).__name__} needs {each.needs} data", f"Give {each.needs}=(x, y).")
    material = Material(splits["calibration"], splits["train"], seed, tasks.perturb, lambda *_: None)
    hardened, fits, _ = chains.fit_chain(target, chain, material)
    return hardened, fits


def diagnose(target: Target | nn.Module, x: Images, y: Images, *, eps: float = 0.1, seed: int = 0) -> Mapping[str, Any]:
    """Activation health and direct probes on clean examples, no attack: {"sites": [...], "probe": {...}}."""
    target = targets.of(target, x)
    xs, ys = tensor(x, target.device, torch.float32), tensor(y, target.device, torch.int64)
    return {
        "sites": tally.site_health(target, xs, ys),
        "probe": probe.probe(target, xs[: tasks.PROBE_ROWS], ys[: tasks.PROBE_ROWS], eps, "linf", seed),
    }


@dataclass(frozen=True, slots=True)
class Run:
    """A finished audit: its result and its folder."""

    result: Result
    folder: Path

    def report(self, path: str | Path, format: str = "html") -> Path:  # the option's name everywhere
        """Render the report into a file."""
        from actsec.reports.load import read, write

        write(read(self.folder), Path(path), format)
        return Path(path)


def audit(
    model: str | Target | nn.Module,
    data: str | Data | Dataset | Splits = "digits",
    *,
    train: str | Data | Dataset | None = None,
    calibration: str | Data | Dataset | None = None,
    out: str | Path | None = None,
    executor: str = "serial",
    **options: Any,
) -> Run:
    """Audit a model as ``actsec audit`` does; options are the other fields of plan.Plan, by name.

    model and data are what the command line takes, or objects: a Target, a module, arrays (x, y), a Dataset. Objects
    stay in this process (executor ``serial``); the same call with the same out goes on where it stopped. A module is
    audited in eval mode and left as it was. Raises UsageError, NoVerdict, Unsafe, Interrupted.
    """
    splits = _splits(model, data, train, calibration)
    target = None if isinstance(model, str) else _target(model, splits)
    plan = from_table(
        {
            "model": model if isinstance(model, str) else f"{scene.OBJECT}{_name(model)}",
            "data": data if isinstance(data, str) else f"{scene.OBJECT}{splits.test.name if splits else ''}",
            **{key: value for key, value in (("train", train), ("calibration", calibration)) if isinstance(value, str)},
            **{key: list(value) if isinstance(value, tuple) else value for key, value in options.items()},
        }
    )
    result, store = runner.audit(plan, out, executor=executor, given=scene.Given(target, splits))
    return Run(result, store.root)


def _splits(
    model: str | Target | nn.Module,
    test: str | Data | Dataset | Splits,
    train: str | Data | Dataset | None,
    calibration: str | Data | Dataset | None,
) -> Splits | None:
    """The data given as objects; None when all of it is named."""
    others = [value for value in (train, calibration) if value is not None]
    if isinstance(test, str):
        if not all(isinstance(value, str) for value in others):
            raise BadOption(f"data={test!r} is a name, train or calibration is not", "Give all as names or as arrays.")
        return None
    if isinstance(test, Splits):
        return test
    classes, bounds = (model.classes or None, model.bounds) if isinstance(model, Target) else (None, None)

    def made(value: Data | Dataset | str | None, name: str) -> Dataset | None:
        if value is None or isinstance(value, Dataset):
            return value
        if isinstance(value, str):
            raise BadOption(f"{name}={value!r} is a name, the test data is not", "Give all as names or as arrays.")
        x, y = (part.detach().cpu().numpy() if isinstance(part, Tensor) else part for part in value)
        return from_arrays(x, y, name=name, classes=classes, bounds=bounds)

    first = made(test, "test")
    assert first is not None  # noqa: S101  # test is never None here
    return Splits(first, made(train, "train"), made(calibration, "calibration"))


def _target(model: Target | nn.Module, splits: Splits | None) -> Target:
    if isinstance(model, Target):
        return model
    test = splits.test if splits else None
    counted = test is None or test.classes == tuple(map(str, range(len(test.classes))))
    return targets.load(model, classes=None if counted or test is None else test.classes)


def _name(model: Target | nn.Module) -> str:
    return model.name if isinstance(model, Target) else type(model).__name__


def _split(data: Data | None, device: torch.device) -> Split | None:
    if data is None:
        return None
    x, y = tensor(data[0], device, torch.float32), tensor(data[1], device, torch.int64)
    return Split(x, y, torch.arange(len(y), device=device))
