"""``actsec init``: a plan to start from. Every key is there with its meaning; what was not given is commented out.

The meanings and defaults are those of ``plan.Plan``: nothing is written twice.
"""

from __future__ import annotations

import dataclasses
import textwrap
import tomllib
import typing
from pathlib import Path
from typing import Any

from actsec.errors import StoreError
from actsec.planning.plan import Plan
from actsec.planning.reading import from_table, toml, write
from actsec.spec import show

WIDTH = 110
GROUPS = {
    "What is audited": ("model", "weights", "data", "train", "calibration"),
    "How hard it is looked at": ("eps", "samples", "budget", "attacks", "defenses", "activations", "corruptions"),
    "What it must hold: exit code 1 when a gate failed, 3 when nothing is decided": ("gates", "accept", "positive"),
    "What the evidence page of the report states": ("evidence",),
    "How the model takes its inputs": ("bounds", "normalize", "resize", "threshold", "output", "expect_accuracy"),
}
OTHERS = "Rarely needed"
EXAMPLES: dict[str, Any] = {
    "weights": "weights.safetensors",
    "train": "train.npz",
    "calibration": "calibration.npz",
    "eps": "8/255",
    "samples": 500,
    "per_class": 20,
    "attacks": ["fgsm", "pgd(steps=200)", "apgd at l2:0.5"],
    "defenses": ["temperature", "swap(to=leaky_relu, finetune=3)"],
    "activations": ["relu", "gelu"],
    "corruptions": ["gaussian_noise(severity=3)", "blur(severity=3)"],
    "gates": ["clean_accuracy>=0.9", "robust_accuracy@linf:8/255>=0.3"],
    "accept": ["ACT-D01 until 2027-03-31: the same patients, scanned again"],
    "evidence": ["system=Door camera", "version=2.1", "purpose=unlocks for staff", "tester=A. Turing"],
    "positive": "tumour",
    "bounds": "0,255",
    "normalize": "imagenet",
    "resize": "resize=256,crop=224",
    "threshold": 0.5,
    "output": "logits",
    "expect_accuracy": 0.9,
    "mask": "mask.npy",
    "timeout": 600.0,
    "label_column": "diagnosis",
    "label": "malignant",
}
"""What a key may look like, where its default says nothing."""


def template(plan: Plan) -> str:
    """The plan as commented TOML: ``from_table`` reads back an equal one, and every commented key is a valid line."""
    grouped = {name for names in GROUPS.values() for name in names}
    rest = tuple(f.name for f in dataclasses.fields(Plan) if f.name not in (*grouped, "features"))
    lines = [
        "# The plan of an audit: actsec audit plan.toml",
        "# A line that begins with # is a comment; what stands there is the default, or an example of what it may be.",
    ]
    for heading, names in ({**GROUPS, OTHERS: rest}).items():
        lines += ["", f"# --- {heading} ---"]
        for name in names:
            lines += ["", *_key(name, plan)]
    text = "\n".join(lines) + "\n"
    tables = write(plan).partition("\n[")  # what was given as tables: they come last in TOML
    text += f"\n[{tables[2]}" if tables[1] else ""
    if from_table(tomllib.loads(text)) != plan:
        raise AssertionError("the template does not read back")  # a bug of ours, never a user's
    return text


def _key(name: str, plan: Plan) -> list[str]:
    """The meaning of a key, and its line."""
    hint = typing.get_args(typing.get_type_hints(Plan, include_extras=True)[name])[1]
    given, default = getattr(plan, name), getattr(Plan(), name)
    about = textwrap.wrap(hint, WIDTH, initial_indent="# ", subsequent_indent="# ")
    if given != default and name != "attacks":
        fraction = name == "eps" and "/" in show(given)
        return [*about, f"{name} = {toml(show(given) if fraction else given)}"]
    example = default if default not in (None, (), "") else EXAMPLES[name]
    always = name in ("model", "data")
    return [*about, f"{'' if always else '# '}{name} = {toml(example)}"]


def create(path: Path, plan: Plan) -> None:
    """Write the template into a new file and its folder. Raises StoreError where a file is, or none can be written."""
    text = template(plan)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise StoreError(f"cannot make the folder {path.parent}: {problem.strerror}", "Give another place.") from None
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise StoreError(f"{path} is there already", "Give another name, or delete it first.") from None
    except OSError as problem:
        raise StoreError(f"cannot write {path}: {problem.strerror}", "Give a place that can be written.") from None
