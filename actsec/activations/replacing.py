"""Replacing activation calls: a deep copy of the model whose chosen calls compute another activation."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from actsec.activations.calls import Activating
from actsec.activations.catalogue import Activation, activation
from actsec.activations.finding import tensors
from actsec.activations.following import is_activation
from actsec.activations.listing import resting, seeded
from actsec.activations.standing import Standing, chosen
from actsec.errors import BadOption
from actsec.spec import Spec


class Swapped(Standing):
    """A model with some of its activation calls replaced."""

    def answer(self, stand: nn.Module, call: Activating) -> Tensor:
        result: Tensor = stand(call.source())
        return result


def replace(
    model: nn.Module,
    to: Spec | str | Activation,
    only: str | Sequence[str] | None = None,
    *,
    example: Tensor,
) -> Swapped:
    """A deep copy of ``model`` whose activation calls compute ``to``; the original is left as it is.

    Every call counts on its own: a module called twice is two sites, and a learnable ``to`` has a parameter per site.
    Left alone are gates, the model's output, sites that never see the input, and with ``only`` (a glob such as
    ``layer1.*``, or several) every site whose name matches none. ``example`` (n, ...) is one valid batch, run to find
    the sites: in eval mode on the model and in train mode on a copy, so that auxiliary heads are replaced as well.
    relu by relu is bit-equal.

    Raises UnknownName when a glob matches no site, ModelError when there is nothing to replace, BadOption for maxout,
    whose output is smaller than its input.
    """
    wanted = replaceable(to)
    picked = chosen(model, example, only)
    clone = copy.deepcopy(model)
    _compute_out_of_place(clone, example)
    like = next((p for p in model.parameters() if p.is_floating_point()), example)
    stands = {name: wanted.module().to(device=like.device, dtype=like.dtype) for name in picked.names}
    swapped = Swapped(clone, stands, picked)
    swapped.resting_as(model)
    return swapped


def replaceable(to: Spec | str | Activation) -> Activation:
    """The activation of a spec that can stand in another's place. Raises BadOption for one that changes the shape."""
    wanted = activation(to)
    if wanted.pieces > 1:
        raise BadOption(
            f"{wanted.name} makes one output of {wanted.pieces} pre-activations, so it fits in no other's place",
            f"Build a network with it: reference:mlp(activation={wanted.name}).",
        )
    return wanted


def _compute_out_of_place(model: nn.Module, example: Tensor) -> None:
    """Clear ``inplace`` in our copy's activation modules, which saves a copy a call, unless the output shows it."""
    flagged = [m for m in model.modules() if is_activation(m) and getattr(m, "inplace", False)]
    before = _outputs(model, example)
    for module in flagged:
        setattr(module, "inplace", False)  # noqa: B010  # nn.Module's typing knows no such attribute
    after = _outputs(model, example)
    if len(before) != len(after) or not all(map(torch.equal, before, after)):
        for module in flagged:
            setattr(module, "inplace", True)  # noqa: B010  # as above


def _outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    with resting(model), seeded(example.device):
        return list(tensors(model(example)))
