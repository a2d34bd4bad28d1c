"""What torchvision knows about its own weights: their normalisation, and where they lie when already downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from actsec import spec as notation
from actsec.errors import BadOption, ModelError
from actsec.loading import building
from actsec.types import Normalization


def cached_weights(model: str, weights: str) -> str:
    """``IMAGENET1K_V2`` or ``DEFAULT`` of a torchvision model as the path of its downloaded file; other texts as given.

    Nothing is fetched: raises ModelError with the address when the file is not there.
    """
    if not model.startswith("torchvision:") or Path(weights).exists():
        return weights
    found = {entry.name: entry for entry in _entries(model)}
    found |= {"DEFAULT": _entries(model)[0].__class__.DEFAULT} if found else {}
    if weights.upper() not in found:
        return weights
    url = found[weights.upper()].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.is_file():
        raise ModelError(
            f"torchvision's {weights} weights are not on this machine, and nothing is downloaded",
            f"Fetch {url} and give the file: --weights {path.name}.",
        )
    return str(path)


def own_normalization(model: object, module: nn.Module, file: str) -> Normalization:
    """The normalisation of the torchvision weights in ``file`` (its name), or that which all of the model's share.

    googlenet and inception_v3 rescale inside as well when they hold torchvision's weights; that is switched on here.
    """
    if not isinstance(model, str) or not model.startswith("torchvision:"):
        raise BadOption("normalize=torchvision is for torchvision models", "Give imagenet or MEAN/STD.")
    entries = _entries(model)
    matching = [entry for entry in entries if file and Path(entry.url).name == file] or entries
    found = {(tuple(t.mean), tuple(t.std)) for t in (entry.transforms() for entry in matching) if hasattr(t, "mean")}
    if len(found) != 1:
        listed = "; ".join(f"{entry.name} {entry.transforms().mean}" for entry in matching)
        raise BadOption(
            f"{model} has {len(found)} normalisations, and {file or 'no file'} is none of torchvision's weight files",
            f"Give it as MEAN/STD. {listed}".strip(),
        )
    if "transform_input" in vars(module) and "transform_input" not in model:
        vars(module)["transform_input"] = True
    mean, std = found.pop()
    return Normalization(tuple(map(float, mean)), tuple(map(float, std)))


def _entries(model: str) -> list[Any]:
    from torchvision import models

    name = notation.parse(building.split(model)[1]).name
    if name not in models.list_models():
        return []
    return list(models.get_model_weights(name))
