"""A stand-in of a model whose graph is broken: the same answers, with a gradient where there was none.

Backward pass differentiable approximation (BPDA, Athalye, Carlini & Wagner 2018, section 4.1): a step without a useful
derivative is replaced, in the backward pass alone, by the identity or by measured slopes. Rounding, signs, detached
tensors and ``no_grad`` blocks are recognised wherever the model calls them; other broken steps are named as modules.
The stand-in is only searched on: what is found is judged by the model itself.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from actsec.draws import Draws
from actsec.errors import ActsecError, ModelError, unknown
from actsec.search.oracle import frozen
from actsec.types import Target

_FLAT = {
    getattr(owner, name)
    for owner in (torch, Tensor)
    for name in ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn")
    if hasattr(owner, name)
} | {getattr(Tensor, f"{name}_") for name in ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn")}
_CUT = {Tensor.detach, torch.detach, Tensor.data.__get__}  # type: ignore[attr-defined]  # a getter of torch's C side
_SWITCHES = {torch._C._set_grad_enabled}  # noqa: SLF001  # what no_grad() calls; torch has no public name for it
_unfollowed = torch._C.DisableTorchFunction  # noqa: SLF001  # the documented name is this
_STEP = 0.05
"""Measured slopes: the pairs lie so far apart, in standard deviations of what the step is given."""


class _Through(TorchFunctionMode):
    """Answers the calls that cut a graph with their own value and the identity's derivative."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func in _SWITCHES:
            return None
        if func in _CUT:
            return args[0]
        answer = func(*args, **named)
        if func in _FLAT and isinstance(args[0], Tensor) and args[0].requires_grad:
            x = args[0]
            with _unfollowed():  # the detach below is meant
                return x + (answer.detach() - x.detach())
        return answer


class _Measured(torch.autograd.Function):
    """A step whose slopes are measured: vector-Jacobian products from antithetic pairs around its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Callable[[Tensor], Tensor], directions: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.step, ctx.directions = step, directions
        return step(x).detach().clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        size = _STEP * x.flatten(1).std(1).clamp_min(1e-3).reshape(-1, *(1,) * (x.dim() - 1))
        # Keyed by what each row holds, so that a row's slopes do not depend on the others.
        rows = [int.from_bytes(hashlib.sha256(row.cpu().numpy().tobytes()).digest()[:7], "big") for row in x]
        key = torch.tensor(rows, dtype=torch.int64, device=x.device)
        found = torch.zeros_like(x)
        for i in range(ctx.directions):
            u = Draws(0, "straight_through").normal(key, i, tuple(x.shape[1:]))
            rise = (ctx.step(x + size * u) - ctx.step(x - size * u)) * slope
            rate = rise.double().flatten(1).sum(1).reshape(size.shape).to(x.dtype) / (2 * size)
            found = found + rate * u
        return found / ctx.directions, None, None


class StraightThrough(nn.Module):
    """A model with the derivatives of the identity where it has none. Parameters are the copy's own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        with _Through():
            return self.model(x)


def of(attack: Any, target: Target) -> Target | None:
    """The stand-in that an attack searches on straight through; None for attacks that do not ask for one."""
    if "straight_through" not in attack.roles:
        return None
    return stand_in(target, attack.around, attack.directions)


def stand_in(target: Target, around: tuple[str, ...] = (), directions: int = 0) -> Target:
    """The target with its graph mended, over a copy of its model: same outputs, other gradients.

    around names modules, as ``model.named_modules()`` does, that are stepped over as a whole: by the identity where
    what they give has the shape of what they take, by ``directions`` measured slopes (20 for 0) where it has not or
    where directions is above 0. Each measured slope costs two forwards of the module. Raises UnknownName for a module
    that does not exist, ModelError where no gradient reaches the input even so.
    """
    model = copy.deepcopy(target.model)
    known = dict(model.named_modules())
    for name in around:
        if name not in known:
            raise unknown("module of the model", name, [key for key in known if key])
        _step_over(known[name], name, directions)
    made = target.having(model=StraightThrough(model))
    low, high = target.bounds
    leaf = torch.full((2, *target.shape), (low + high) / 2, device=target.device).requires_grad_(True)
    gradient: Tensor | None = None
    try:
        with frozen(made.model), torch.enable_grad():
            total = made.logits(leaf).sum()
            if total.requires_grad:
                (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
    except ActsecError:
        raise
    except Exception as problem:  # whatever the model's own backward raises
        said = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
        raise ModelError(f"the gradient of {target.name} stays broken: {said}", _MEND) from problem
    if gradient is None:
        raise ModelError(f"no gradient reaches the input of {target.name} even straight through", _MEND)
    return made


_MEND = "Name the broken module with around=[...], or attack by score: averaged_differences, square."


def _step_over(module: nn.Module, name: str, directions: int) -> None:
    """Replace a module's forward on the copy."""
    inner = module.forward

    def plain(x: Tensor) -> Tensor:
        with _unfollowed(), torch.no_grad():  # as the model itself does
            answer = inner(x.detach())
        if not isinstance(answer, Tensor):
            raise ModelError(f"{name} returns {type(answer).__name__}", "Name a module that returns one tensor.")
        return answer

    def forward(x: Tensor) -> Tensor:
        answer = plain(x)
        if answer.shape == x.shape and not directions:
            with _unfollowed():  # the detach below is meant
                return x + (answer - x).detach()
        return _Measured.apply(x, plain, directions or 20)  # type: ignore[no-any-return]  # torch leaves it untyped

    module.forward = forward
