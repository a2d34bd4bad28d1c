"""What stands on a watched model: it calls the monitor, and is nothing on a copy of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn


class Watcher(Protocol):
    """Who is called before and after a forward pass."""

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A pass begins."""

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """It ends, well or badly."""


class _Hook:
    """What stands on the model. A copy of the model, deep or pickled, gets one that does nothing."""

    __slots__ = ("monitor",)

    def __init__(self, monitor: Watcher) -> None:
        self.monitor = monitor

    def __deepcopy__(self, _memo: Any) -> Callable[..., None]:
        return _idle

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _idler, ()


class Before(_Hook):
    """Stands before the forward pass."""

    __slots__ = ()

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.compiler.is_compiling():
            self.monitor.before(module, args, kwargs)


class After(_Hook):
    """Stands after it, also where it fails."""

    __slots__ = ()

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.monitor.after(module, args, output)


def _idle(*_given: Any) -> None:
    """What stands on a copy of a watched model in place of the monitor."""


def _idler() -> Callable[..., None]:
    return _idle
