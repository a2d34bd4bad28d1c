"""Following a forward pass: every torch call that a model makes, with the name of the module that makes it.

The audited model is not touched: the module stack is kept by process-wide module hooks that stand only while a pass is
followed and only look at the thread that set them, so a failed pass leaves nothing behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import activation as _torch_activations
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from actsec.activations import calls
from actsec.activations.byhand import Forms, Step, read
from actsec.activations.calls import Activating, Entry
from actsec.activations.functions import OWN
from actsec.errors import ModelError


class Stands(nn.Module):
    """A module that stands in for a call of another model and answers under that call's name.

    ``model`` is the followed copy and ``stands`` its named replacements; names inside are those of the original.
    """

    model: nn.Module
    stands: nn.ModuleDict


WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
"""Modules that hold the model as ``module``: the names are the model's own."""


def key_of(site: str) -> str:
    """A site's name as a key of ``stands`` (module names hold no dots)."""
    return site.replace(".", "/")


class Follower(TorchFunctionMode):
    """Names every activation call inside ``root`` and lets ``on_site`` compute it; other calls pass ``on_other``."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.root = root
        self.stack: list[tuple[str, nn.Module]] = []
        self.names: dict[nn.Module, str] = {}
        self.fixed: set[nn.Module] = set()
        self.scripted: dict[str, nn.Module] = {}
        self.used: set[str] = set()
        self.forms = Forms()
        self.step: Step | None = None  # what the running call adds to an expression written by hand

    def begin(self) -> None:
        """A forward pass of the root begins."""
        self.used = set()
        self.forms.clear()

    def survey(self) -> None:
        """Read the root's modules: their names, and whether torch runs them where no call of theirs is seen."""
        self.names, self.fixed, self.scripted = {}, set(), {}
        self._read(self.root, "")

    def on_site(self, name: str, call: Activating) -> Tensor:
        """Compute one activation call; ``name`` is unique within the pass."""
        return call.as_asked()

    def on_other(self, entry: Entry, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute one call that is no activation."""
        return func(*args, **kwargs)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if not self.stack:
            return func(*args, **named)
        entry = calls.look(func)
        call = calls.recognise(entry, func, args, named)
        if call is None:
            compute = self._arithmetic if entry.arithmetic else self.on_other
            return compute(entry, func, args, named)
        if call.kind == "relu":  # nothing is written by hand with it: spare the time
            return self._site(None, call)
        return self._site(self.forms.step(entry, func, args, named), call)

    def _site(self, step: Step | None, call: Activating) -> Tensor:
        name = self.name(call.kind)
        if call.target is not None:
            self.forms.lose(call.target)
        result = self.on_site(name, call)
        if step is not None:
            step.site, step.does = name, (call.kind, call.options)
            self.forms.keep(result, step)
        return result

    def _arithmetic(self, entry: Entry, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        step = self.forms.step(entry, func, args, named)
        if step is not None and calls.disguised(entry, args, named) is None:
            call = read(step, entry, func, args, named)
            if call is not None:
                return self._site(step, call)
        target = calls.overwritten(entry, args, named)
        if target is not None:
            self.forms.lose(target)
        self.step = step
        result = self.on_other(entry, func, args, named)
        if step is not None:
            self.forms.keep(result, step)
        return result

    @property
    def path(self) -> str:
        """The qualified name of the module that is running."""
        return self.stack[-1][0]

    @property
    def functional(self) -> bool:
        """Whether the running call is made by a module that is not itself an activation."""
        return not is_activation(self.stack[-1][1])

    def name(self, kind: str) -> str:
        """The next call's name: the activation module's, or the calling module's and the kind; then ``:2``."""
        path, module = self.stack[-1]
        base = _join(path, kind) if self.functional else path or kind
        stem, mark, number = base.rpartition(":")
        if not (module in self.fixed and mark and number.isdigit()):
            stem = base
        name, turn = base, 1
        while name in self.used:
            turn += 1
            name = f"{stem}:{turn}"
        self.used.add(name)
        return name

    def enter(self, module: nn.Module) -> None:
        """A module's forward begins."""
        if not self.stack:
            if module is not self.root:
                return
            self.begin()
        path = self.names.get(module)
        if path is None:  # put into the model since, or no part of it: then it goes by its caller's name
            self.survey()
            path = self.names.setdefault(module, self.path if self.stack else "")
        self.stack.append((path, module))

    def leave(self, module: nn.Module) -> None:
        """A module's forward ends, well or badly."""
        while self.stack:
            if self.stack.pop()[1] is module:
                break
        if not self.stack:
            self.forms.clear()  # some hold tensors

    def _read(self, module: nn.Module, path: str) -> None:
        if module in self.names:
            return
        self.names[module] = path
        if isinstance(module, torch.jit.ScriptModule):
            self.scripted[path] = module
            return
        refuse_unseen(module)
        if isinstance(module, WRAPPERS):
            self._read(module.module, path)
            return
        if isinstance(module, Stands):
            self._read(module.model, path)
            for key, stand in module.stands.items():
                self.names[stand] = _join(path, key.replace("/", "."))
                self.fixed.add(stand)
            return
        for name, child in module._modules.items():  # noqa: SLF001  # named_children takes twice as long
            if child is not None:
                self._read(child, _join(path, name))


@contextmanager
def following(follower: Follower) -> Iterator[None]:
    """Let the follower see what its root does, in this thread, until the end of the block."""
    thread = threading.get_ident()

    def enter(module: nn.Module, _args: Any) -> None:
        if threading.get_ident() == thread:
            follower.enter(module)

    def leave(module: nn.Module, _args: Any, _result: Any) -> None:
        if threading.get_ident() == thread and follower.stack:
            follower.leave(module)

    refuse_scripted(follower.root)
    follower.survey()
    entering = register_module_forward_pre_hook(enter)
    leaving = register_module_forward_hook(leave, always_call=True)
    try:
        with follower:
            yield
    finally:
        entering.remove()
        leaving.remove()
        follower.stack.clear()


def refuse_scripted(model: nn.Module) -> None:
    """Raise ModelError for a model that torch.jit runs: scripted children are named, but here nothing can be seen."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"the activations of a model compiled by torch.jit ({type(model).__name__}) cannot be seen",
            "Give the model as it was before torch.jit. Attacks by gradient or by queries, calibration and robust "
            "accuracy work on it as it is; activation health, killing units and swaps need the Python code.",
        )


def refuse_unseen(module: nn.Module) -> None:
    """Raise ModelError for a module whose calls run outside Python or in other threads."""
    if type(module).__name__ == "OptimizedModule":
        raise ModelError(
            "the activations of a compiled model (OptimizedModule) cannot be seen",
            "Give the model as it was before torch.compile: it is kept as model._orig_mod. Attacks, calibration and "
            "robust accuracy work on it as it is.",
        )
    if getattr(module, "_compiled_call_impl", None) is not None:
        raise ModelError(
            f"the activations of a compiled model ({type(module).__name__}, by its own compile()) cannot be seen",
            "Give copy.deepcopy(model), which is not compiled. Attacks, calibration and robust accuracy work on it as "
            "it is.",
        )
    if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
        raise ModelError(
            f"the activations of a model spread over {len(module.device_ids)} devices run in other threads",
            "Give the model inside: model.module.",
        )


def is_activation(module: nn.Module) -> bool:
    """Whether a module is one call of an activation and nothing else: torch's own classes and the catalogue's."""
    if isinstance(module, OWN):
        return True
    kind = type(module)
    return kind.__module__ == _torch_activations.__name__ and kind is not nn.MultiheadAttention


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name
