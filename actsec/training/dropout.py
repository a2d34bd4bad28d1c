"""Dropout while training, on a model that has none or too little of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from actsec.errors import ModelError


def dropped_layers(model: nn.Module) -> list[nn.Linear]:
    """The layers whose inputs dropout acts on: every nn.Linear but the first layer with weights, the inputs' own."""
    weights = ((module, getattr(module, "weight", None)) for module in model.modules())
    weighted = [module for module, weight in weights if isinstance(weight, Tensor) and weight.dim() > 1]
    return [module for module in weighted[1:] if isinstance(module, nn.Linear)]


@contextlib.contextmanager
def dropout(model: nn.Module, share: float) -> Iterator[None]:
    """Drop this share of the hidden units that feed linear layers, in train mode only, while the block runs.

    (Srivastava et al. 2014: kept units are scaled by 1 / (1 - share).) Draws come from the global random state. The
    model is left without hooks. Raises ModelError when no linear layer follows another layer.
    """
    if not share:
        yield
        return

    def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (F.dropout(given[0], share, layer.training), *given[1:])

    layers = dropped_layers(model)
    if not layers:
        raise ModelError(
            f"dropout={share:g} has nowhere to act: no nn.Linear follows another layer of the model",
            "Give dropout=0, or put nn.Dropout into the model.",
        )
    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
