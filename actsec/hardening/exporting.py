"""A target without actsec: as a program that torch alone runs, or as a module of torch's and the user's own classes.

    exporting.write("model.pt2", target)         torch.export; then, where actsec is not installed:
                                                 torch.export.load("model.pt2").module()(x)
    exporting.plain(target)                      an nn.Module without a class of actsec in it

Both take raw inputs (n, *shape) inside the target's bounds to logits: normalisation is inside, a decision threshold is
not. Whatever runs in torch can be exported; ``plain`` is for what torch's own modules can say.
"""

from __future__ import annotations

import contextlib
import copy
import io
import operator
import warnings
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from actsec.activations.following import Stands, is_activation
from actsec.activations.replacing import Swapped
from actsec.errors import ModelError
from actsec.hardening import hardened
from actsec.loading.recipes import AGREE, apart, by, inputs
from actsec.search.oracle import frozen
from actsec.types import Target, read_head

_EXPORT = "Export it: --export model.pt2, or actsec.hardening.exporting.write('model.pt2', target)."
ROWS = (1, 3)
"""Rows of the batches on which an exported program is compared with the target."""


class Logits(nn.Module):
    """A target as a module: raw inputs (n, *shape) to float32 logits (n, classes)."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.model, self.target = target.model, target

    def forward(self, x: Tensor) -> Tensor:
        return self.target.logits(x)


def export(target: Target) -> ExportedProgram:
    """The target as an exported program with any number of rows, compared with it on batches of 1 and 3.

    The model is left as it was. Raises ModelError for a model that torch.export cannot follow, or whose program
    answers otherwise.
    """
    _decides_alone(target)
    example = inputs(target, 2)
    quiet = contextlib.redirect_stderr(io.StringIO())  # where torch prints the whole graph before it fails
    with frozen(target.model), torch.no_grad(), warnings.catch_warnings(action="ignore"), quiet:
        try:
            program = torch.export.export(
                Logits(target).eval(), (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False
            )
        except Exception as error:  # noqa: BLE001  # whatever a stranger's forward makes torch.export raise
            said = " ".join(str(error).split())[:300]
            raise ModelError(
                f"torch.export cannot follow {target.name}: {type(error).__name__}: {said}",
                "Save a folder instead, --save hardened/; it needs actsec to run.",
            ) from None
        module = program.module()
        if not target.stochastic:
            for rows in ROWS:
                _agree(target, module, inputs(target, rows), "the exported program")
    return program


def write(file: str | Path, target: Target) -> None:
    """The exported program in a .pt2 file, whole or not at all, read back before it gets its name."""
    program, place, buffer = export(target), Path(file).expanduser(), io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(program, buffer)
        module = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    if not target.stochastic:
        with frozen(target.model), torch.no_grad():
            _agree(target, module, inputs(target, ROWS[-1]), str(place))
    with hardened.whole(place) as partial:
        partial.write_bytes(buffer.getvalue())


def plain(target: Target) -> nn.Module:
    """The target as a module of torch's and the user's own classes, in eval mode; it trains and saves as any.

    A swapped activation that the model calls as a module of its own becomes that module; a temperature becomes a
    division, and a normalisation a subtraction and a division, in an ``fx.GraphModule`` around the model. Raises
    ModelError, saying why, for activations that the model calls as functions and for defenses that torch's modules
    cannot say: those can be exported.
    """
    _decides_alone(target)
    with frozen(target.model), torch.no_grad():
        module = _around(_plain(target.model), target).eval()
        if ours := [f"{name} ({type(m).__name__})" for name, m in module.named_modules() if _is_ours(m)]:
            raise ModelError(f"{ours[0] or 'the model'} is a module of actsec's", _EXPORT)
        if not target.stochastic:
            _agree(target, module, inputs(target, ROWS[-1]), "the plain module")
    return module


def _decides_alone(target: Target) -> None:
    """Raise ModelError for a model that abstains: a program of its logits alone would accept everything."""
    if target.rejects is not None:
        raise ModelError(
            f"{target.name} abstains, and a program of its logits alone would accept everything",
            "Save a folder, --save hardened/, which keeps the detector; it needs actsec to run.",
        )


def _is_ours(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "actsec"


def _plain(model: nn.Module) -> nn.Module:
    if isinstance(model, Swapped):
        return _swapped(model)
    if not isinstance(model, Stands):
        return copy.deepcopy(model)
    said = getattr(model, "in_torch", None)
    if said is None:
        raise ModelError(f"{type(model).__name__} is no module of torch's", _EXPORT)
    made: nn.Module = said(_plain(model.model))
    return made


def _swapped(model: Swapped) -> nn.Module:
    """The model with its activation modules exchanged for the ones that stand in for them."""
    inner = _plain(model.model)
    homes: dict[str, list[nn.Module]] = {}
    for key, stand in model.stands.items():
        stem, _, turn = key.replace("/", ".").rpartition(":")
        home = stem if turn.isdigit() and stem else key.replace("/", ".")
        homes.setdefault(home, []).append(stand)
    known = dict(inner.named_modules())
    for home, stands in homes.items():
        # Names leave out the wrappers of defenses before the swap, which hold their model as ``model``.
        place = next((name for name in known if name.endswith(home) and not name[: -len(home)].strip(".model")), home)
        if place not in known or not is_activation(known[place]):
            raise ModelError(
                f"the model calls its activation {home!r} as a function, which no module can stand in for", _EXPORT
            )
        if any(list(stand.parameters()) for stand in stands) and len(stands) > 1:
            raise ModelError(
                f"the model calls {home!r} {len(stands)} times, and each call has learned a parameter of its own",
                _EXPORT,
            )
        inner.set_submodule(place, copy.deepcopy(stands[0]))
    return inner


def _around(model: nn.Module, target: Target) -> nn.Module:
    """The model behind the target's normalisation."""
    if target.output is not None or (target.normalization is not None and target.normalization.label):
        what = target.normalization.label if target.output is None and target.normalization else target.output
        raise ModelError(f"{what!r} is read by actsec and not by a module", _EXPORT)
    if target.normalization is None:
        return model
    graph = fx.Graph()
    x = graph.placeholder("x")
    centred = graph.call_function(operator.sub, (x, graph.get_attr("mean")))
    scaled = graph.call_function(operator.truediv, (centred, graph.get_attr("std")))
    graph.output(graph.call_module("model", (scaled,)))
    root = nn.Module()
    root.model = model
    sides = (-1,) + (1,) * (len(target.shape) - 1)
    for name in ("mean", "std"):
        root.register_buffer(name, torch.tensor(getattr(target.normalization, name), device=target.device).view(sides))
    return fx.GraphModule(root, graph, "Normalized")


def _agree(target: Target, module: nn.Module, x: Tensor, what: str) -> None:
    """Raise ModelError unless the module answers as the target does."""
    ours, theirs = target.logits(x), read_head(module(x))
    if 2 * theirs.numel() == ours.numel():  # one logit, which the target reads as two
        ours = ours[:, 1]
    off = apart(ours, theirs)
    if not off <= AGREE:
        raise ModelError(
            f"{what} answers otherwise than {target.name}: {by(off)}",
            "Save a folder instead, --save hardened/.",
        )
