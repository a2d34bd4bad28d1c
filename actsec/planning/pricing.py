"""What fitting a defense would cost: it is tried out on a few made-up images and a toy model, and its passes counted.

Nothing is assumed of a defense but what the registry says: its own loop, its inner attack and its guard do the
counting. Passes do not depend on the model or on the shape of an input, so that the toy's are the real ones.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

from actsec import registry
from actsec.errors import ActsecError
from actsec.spec import Spec, Value, parse

MOST = 256
"""Images of a trial run: four batches of the usual size. More of them cost in proportion."""
SEEN = (1, 2)
"""Epochs of the two trial runs, from which the others follow: each costs what the second adds to the first."""
TOY_EPS = 0.05
"""Small enough that the toy model is right under any attack, so that no guard ends the trial early."""


def spelled(name: str, eps: float) -> Spec | None:
    """A defense with the options it needs, as one would first try it; None where it needs one that nobody can guess."""
    spec = parse(name)
    defense = registry.find("defenses", spec.name)
    options, trains = {field.name for field in dataclasses.fields(defense)}, getattr(defense, "trains_against", None)
    if trains is not None and not trains(spec):
        options -= {"eps"}
    needed: dict[str, Value] = {"eps": eps, "std": eps, "to": parse("leaky_relu"), "finetune": 3}
    made = spec.having(**{option: needed[option] for option in needed if option in options})
    try:
        registry.build("defenses", made)
    except ActsecError:
        return None
    return made


def price(spec: Spec, rows: int) -> int | None:
    """Passes of one image, a backward counting as two, that fitting a defense on so many training images takes.

    0 for one that learns nothing from them; None where it cannot be tried out. What stops early costs less.
    """
    return _price(str(spec), rows)


@cache
def _price(text: str, rows: int) -> int | None:
    defense = registry.build("defenses", _harmless(parse(text)))
    if defense.needs != "train":
        return 0
    small = max(min(rows, MOST), 2)
    option = next((name for name in ("epochs", "finetune") if getattr(defense, name, 0)), None)
    try:
        if option is None:
            total = float(_counted(defense, small))
        else:
            first, both = (_counted(dataclasses.replace(defense, **{option: epochs}), small) for epochs in SEEN)
            total = first + (getattr(defense, option) - 1) * (both - first)
    except Exception:  # noqa: BLE001  # a plug-in that cannot be tried out, or does not count, has no price; no report falls
        return None
    return round(total * rows / small)


def _harmless(spec: Spec) -> Spec:
    return spec if spec.get("eps") is None else spec.having(eps=TOY_EPS)


def _counted(defense: Any, rows: int) -> int:
    """Passes of fitting a defense on so many images of the toy."""
    from actsec.running.tasks import perturb
    from actsec.types import Material

    target, split = _toy(rows)
    fitted = defense.fit(defense.wrap(target), Material(split, split, 0, perturb, lambda _text, _done, _total: None))
    return int(fitted.numbers["forwards"]) + 2 * int(fitted.numbers["backwards"])


def _toy(rows: int) -> tuple[Any, Any]:
    """A model that tells bright images from dark ones, and such images."""
    import torch
    from torch import nn

    from actsec.draws import Draws
    from actsec.types import Split, Target

    with torch.random.fork_rng(devices=[]):  # layers draw weights when they are made
        hidden, last = nn.Linear(64, 8), nn.Linear(8, 2)
    model, sign = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), last), torch.tensor([-1.0, 1.0])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        hidden.weight[:2] = sign[:, None] / 4
        hidden.bias[:2] = -8 * sign
        last.weight[:, :2] = torch.eye(2)
    ids = torch.arange(rows)
    noise = Draws(0, "toy").uniform(ids, 0, (1, 8, 8)) / 10
    x = torch.where((ids % 2 == 1).view(-1, 1, 1, 1), 0.85, 0.05) + noise
    return Target(model, (1, 8, 8), ("dark", "bright"), name="toy"), Split(x, ids % 2, ids)
