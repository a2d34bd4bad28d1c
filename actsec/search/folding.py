"""Batch norms folded into the layers before them: in eval mode both are affine, and so is one after the other."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn

from actsec.search.oracle import PAD, frozen

FOLDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.Linear: nn.BatchNorm1d,
}
"""Which batch norm folds into which layer. Exact types: a subclass may compute anything."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fold(model: nn.Module) -> int | None:
    """Fold in place what can be folded, in a model in eval mode; how many, None when it has no batch norm.

    torch.fx only finds the pairs. The model's own forward stays, the layers get other numbers, and an identity stands
    where each batch norm was, so activation sites keep their names and order, and custom gradients their meaning.
    Where the trace deceives itself the outputs differ: compare them. Raises what torch.fx raises for a model it cannot
    follow, data-dependent control flow above all; the model is then as it was.
    """
    if not any(isinstance(module, tuple(FOLDS.values())) for module in model.modules()):
        return None
    # Tracing runs the forward on stand-ins for tensors, which a model may store: it gets a copy.
    pairs = _pairs(copy.deepcopy(model))
    for first, second in pairs:
        layer, norm = model.get_submodule(first), model.get_submodule(second)
        _absorb(layer, norm)
        for name in [name for name, module in model.named_modules(remove_duplicate=False) if module is norm]:
            model.set_submodule(name, nn.Identity())
    return len(pairs)


class _Sized(fx.Proxy):
    """A stand-in tensor that knows its number of rows: ``x.view(len(x), -1)`` is no data-dependent control flow."""

    def __len__(self) -> int:
        return PAD


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Sized(node, self)


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of (layer, batch norm) where each is called once and nothing else reads the layer's output."""
    with frozen(model):
        nodes = _Tracer().trace(model).nodes
    module = {node: model.get_submodule(str(node.target)) for node in nodes if node.op == "call_module"}
    times = Counter(map(id, module.values()))
    pairs = []
    for node, norm in module.items():
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before not in module or len(before.users) != 1:
            continue
        layer = module[before]
        if times[id(layer)] == times[id(norm)] == 1 and _foldable(layer, norm):
            pairs.append((str(before.target), str(node.target)))
    return pairs


def _foldable(layer: nn.Module, norm: nn.Module) -> bool:
    if type(layer) not in FOLDS or type(norm) is not FOLDS[type(layer)]:
        return False
    # Without running statistics a batch norm uses those of the batch, in eval mode too.
    fixed = isinstance(norm.running_mean, Tensor) and isinstance(norm.running_var, Tensor) and not norm.training
    return fixed and not any("forward" in vars(m) or any(getattr(m, hook) for hook in _HOOKS) for m in (layer, norm))


def _absorb(layer: nn.Module, norm: nn.Module) -> None:
    """layer := norm(layer). scale = gamma / sqrt(var + eps); w' = scale w; b' = scale (b - mean) + beta; in float64."""
    weight, mean = layer.get_parameter("weight"), _exact(norm.running_mean)
    scale = _exact(norm.weight, 1) / (_exact(norm.running_var) + float(norm.eps)).sqrt()  # type: ignore[arg-type]  # a float
    bias = (_exact(layer.bias) - mean) * scale + _exact(norm.bias)
    scaled = _exact(weight) * scale.view(-1, *(1,) * (weight.dim() - 1))
    layer.weight = nn.Parameter(scaled.to(weight), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(weight), requires_grad=False)


def _exact(value: object, otherwise: float = 0) -> Tensor:
    """A parameter or buffer in float64, on the CPU, for not every device has it; a layer may be without one."""
    return value.detach().cpu().double() if isinstance(value, Tensor) else torch.tensor(otherwise, dtype=torch.float64)
