"""Asking the model: batches of one shape family, float32, nothing left behind.

Calls are cut to at most ``batch`` rows and padded to a multiple of 32 rows, so that a row's numbers are bit-equal
whichever rows it shares a call with (a matrix product picks its kernel, and so its order of additions, by the number of
rows: unpadded calls differ). Where the target's own ``batch`` is less than 32, since memory allows no more, every call
has exactly that many. Parameters are frozen and gradients are taken with respect to the input alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from actsec.errors import ModelError
from actsec.search import attributes
from actsec.types import BATCH, Cases, Loss, Observed, SiteValues, Target

PAD = 32
T = TypeVar("T")


def rows_within(target: Target, x: Tensor, memory: int) -> int:
    """How many rows of x (n, *shape) one call may hold so that what a backward keeps of them stays in ``memory`` MiB.

    A multiple of PAD, at most BATCH. Where fewer than PAD fit, a power of 2; on a CPU 1, for there a row of so large a
    network is hardly cheaper among more, and padding fills every call. Buffers that come and go are allowed for by
    counting each kept tensor twice. Cost: that of ``kept_by_row``.
    """
    fitting = min(int(memory * (1 << 20) / (2 * kept_by_row(target, x))), BATCH)
    return 1 if fitting < PAD and target.device.type == "cpu" else filling(fitting)


def bounded(target: Target, x: Tensor, memory: int) -> Target:
    """The target with no more rows in a call than ``rows_within`` memory; its own ``batch`` where that is less."""
    return target.having(batch=min(target.batch, rows_within(target, x, memory)))


def filling(most: int) -> int:
    """At most so many rows that fill a call without padding: a multiple of PAD, or a power of 2 below; at least 1."""
    return most - most % PAD if most >= PAD else 1 << max(most, 1).bit_length() >> 1


def kept_by_row(target: Target, x: Tensor) -> int:
    """How many bytes a backward keeps of one row of x (n, *shape), at least 1.

    From what autograd saves on two rows and on four, which is the same on every run: 6 forwards.
    """
    kept = []
    with frozen(target.model), attributes.untouched(target.model):
        for rows in (2, 4):
            saved: dict[tuple[int, int], int] = {}

            def keep(tensor: Tensor, saved: dict[tuple[int, int], int] = saved) -> Tensor:
                storage = tensor.untyped_storage()
                saved[storage.data_ptr(), storage.nbytes()] = storage.nbytes()
                # Itself it would hold the graph that holds it, where it is what its own node gave: never freed.
                return tensor.detach()

            sample = x[:1].expand(rows, *x.shape[1:]).clone().requires_grad_(True)
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                target.logits(sample)
            kept.append(sum(saved.values()) + sample.nbytes)
    return max(1, (kept[1] - kept[0]) // 2)


def _out_of_memory(problem: Exception) -> bool:
    """Whether an exception says that memory ran out: torch has a type for it on accelerators only."""
    said = str(problem).lower()
    return isinstance(problem, (torch.OutOfMemoryError, MemoryError)) or any(
        words in said for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode with frozen parameters and plain float32 arithmetic; everything is put back afterwards.

    Put back, bit for bit: each submodule's train flag, requires_grad, .grad, every buffer, the global random state, and
    the switches of ``_plain_arithmetic``.
    """
    for copied in (p for p in model.parameters() if not p.is_leaf):
        copied.detach_().requires_grad_(True)  # copy.deepcopy leaves a scripted module's on the graph of the original's
    modes = [(m, m.training) for m in model.modules()]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    # By owner and name, for a model may replace a buffer by a new tensor as well as write into it.
    owners = [(m, k, b) for m in model.modules() for k, b in m.named_buffers(recurse=False)]
    buffers = [(m, k, b, b.detach().clone()) for m, k, b in owners]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), torch.inference_mode(False), _plain_arithmetic():
        try:
            model.eval()
            for parameter, _, _ in parameters:
                parameter.requires_grad_(False)
                parameter.grad = None
            yield model
        finally:
            for module, training in modes:
                module.training = training
            for parameter, requires_grad, grad in parameters:
                parameter.requires_grad_(requires_grad)
                parameter.grad = grad
            with torch.no_grad():
                for module, name, buffer, before in buffers:
                    buffer.copy_(before)
                    setattr(module, name, buffer)


@contextlib.contextmanager
def _plain_arithmetic() -> Iterator[None]:
    """True float32, repeatable: no TF32, no autocast, no benchmarking of kernels.

    The fused attention is off too: it hides activations and moves the output.
    """
    matmul, cudnn, mha = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mha
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, mha.get_fastpath_enabled())
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = False
        cudnn.deterministic = True
        mha.set_fastpath_enabled(False)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before[:4]
        mha.set_fastpath_enabled(before[4])


@dataclass(slots=True)
class Oracle:
    """A target that answers. Use inside ``frozen(target.model)``.

    batch is the most rows of one model call, 0 for the target's own; calls are padded to a multiple of ``pad``. repeats
    > 1 averages the logits over that many draws of a stochastic target and differentiates the loss of that average
    (expectation over transformation, Athalye et al. 2018); seed and name key those draws, together with the number of
    the call.
    """

    target: Target
    batch: int = 0
    repeats: int = 1
    seed: int = 0
    name: str = ""
    pad: int = field(default=PAD, init=False)
    calls: int = field(default=0, init=False)
    watched: frozenset[str] | None = field(default=None, init=False)
    """The activation calls that count, found at the first question that watches them."""

    def __post_init__(self) -> None:
        self.pad = min(PAD, self.target.batch)
        self.batch = self.batch or self.target.batch

    def observe(self, x: Tensor, watches: bool = False) -> Observed:
        """Decision logits (m, classes) of x (m, *shape), and the activation sites when watched. One forward a row."""
        # Not inference_mode: a model that keeps a tensor it made here must still be trainable afterwards.
        with torch.no_grad():
            return _join(self._in_calls(x, lambda piece, _: self._forward(piece, watches)))

    def differentiate(self, x: Tensor, cases: Cases, loss: Loss, watches: bool) -> tuple[Observed, Tensor, Tensor]:
        """Observed, the loss (m,) and its gradient (m, *shape) in x. One forward and one backward a row."""

        def climbed(piece: Tensor, start: int) -> tuple[Observed, Tensor, Tensor]:
            rows = cases.rows(slice(start, start + len(piece)))
            leaf = piece.detach().requires_grad_(True)
            with torch.enable_grad():
                observed = self._forward(leaf, watches or loss.watches)
                value = loss(observed, rows)
                gradient: Tensor | None = None
                if value.requires_grad:
                    (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
            kept = observed.sites if watches else ()
            sites = tuple(replace(s, pre=s.pre.detach()) for s in kept)
            rejection = None if observed.rejection is None else observed.rejection.detach()
            seen = Observed(observed.logits.detach(), sites, rejection)
            return seen, value.detach(), torch.zeros_like(leaf) if gradient is None else gradient.detach()

        seen, losses, gradients = zip(*self._in_calls(x, climbed), strict=True)
        return _join(list(seen)), torch.cat(losses), torch.cat(gradients)

    def decisions(self, x: Tensor) -> Tensor:
        """Decision logits of each single draw: (repeats, m, classes). The judge's view of a stochastic target."""
        return self.decided(x)[0]

    def decided(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``decisions``, and whether the target's detector rejected: (repeats, m) bool, False without one."""

        def asked(piece: Tensor, _: int) -> Observed:
            with torch.no_grad():
                return self._ask(piece.repeat_interleave(self.repeats, 0), False)

        seen = _join(self._in_calls(x, asked))
        logits = seen.logits.reshape(len(x), self.repeats, -1).transpose(0, 1)
        return logits, rejected(seen).reshape(len(x), self.repeats).T

    def _in_calls(self, x: Tensor, call: Callable[[Tensor, int], T]) -> list[T]:
        """What ``call(rows, number of the first)`` gives for consecutive rows of x, at most ``rows()`` of them each.

        Where memory runs out, batch is halved and stays so. Raises ModelError when one row's worth does not fit.
        """
        answers: list[T] = []
        start = 0
        while start < len(x):
            piece, seen = x[start : start + self.rows()], self.calls
            try:
                answers.append(call(piece, start))
            except (RuntimeError, MemoryError) as problem:
                if not _out_of_memory(problem):
                    raise
                self._shrink(len(piece))
                # The call did not happen: a stochastic target draws the numbers of this one again.
                self.calls = seen
                continue
            start += len(piece)
        return answers

    def _shrink(self, rows: int) -> None:
        padded = rows * self.repeats + -(rows * self.repeats) % self.pad
        if padded <= self.pad:
            raise ModelError(
                f"{self.target.name} runs out of memory on {padded} inputs at once",
                "Free memory, use fewer workers, or audit on a device with more.",
            )
        self.batch = max(self.pad, self.batch // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def rows(self) -> int:
        """The most rows of one question: a call of the model holds repeats of each."""
        return max(self.batch // self.repeats, 1)

    def _forward(self, x: Tensor, watches: bool) -> Observed:
        if self.repeats == 1:
            return self._ask(x, watches)
        seen = self._ask(x.repeat_interleave(self.repeats, 0), watches)

        def mean(value: Tensor) -> Tensor:
            return value.reshape(len(x), self.repeats, *value.shape[1:]).mean(1)

        sites = tuple(replace(s, pre=mean(s.pre)) for s in seen.sites)
        return Observed(mean(seen.logits), sites, None if seen.rejection is None else mean(seen.rejection))

    def _ask(self, x: Tensor, watches: bool) -> Observed:
        m = x.shape[0]
        # The copies of an input that the target runs itself fill a call as well as padding does.
        several = not self.target.stochastic and self.pad == PAD
        pad = PAD // math.gcd(PAD, self.target.draws) if several else self.pad
        # A copy even without padding: a model may write into its input.
        padded = torch.cat([x, x[:1].detach().expand(-m % pad, *x.shape[1:])])
        if self.target.stochastic:
            key = hashlib.sha256(f"{self.seed}\0{self.name}\0{self.calls}".encode()).digest()
            torch.manual_seed(int.from_bytes(key[:7], "big"))
        self.calls += 1
        if not watches:
            logits = self.target.decision_logits(self.target.logits(padded))[:m]
            return Observed(logits, (), self._rejection(padded, m))
        from actsec.activations import find, watch
        from actsec.activations.regions import regions

        if self.watched is None:
            # Gates, outputs and calls that never see the input are nobody's to force.
            asked = padded[:2].detach()
            asked = self.target.normalization(asked) if self.target.normalization else asked
            self.watched = frozenset(site.name for site in find(self.target.model, asked).active)
        with watch(self.target.model, only=self.watched, post=False) as seen:
            logits = self.target.decision_logits(self.target.logits(padded))[:m]
            sites = tuple(
                SiteValues(
                    call.name, call.kind, by_row(call.pre, self.target.draws)[:m], regions(call.kind, call.options)
                )
                for call in seen.calls
                if call.pre.shape[0] == len(padded) * self.target.draws
            )
        if not self.watched <= seen.met:
            name = min(self.watched - seen.met)
            raise ModelError(
                f"{self.target.name} calls other activations on other inputs: {name!r} is not always called",
                "Units are compared call by call, which takes a model that makes the same calls on every input. "
                "Attacks on its decisions work on it as it is.",
            )
        return Observed(logits, sites, self._rejection(padded, m))

    def _rejection(self, padded: Tensor, m: int) -> Tensor | None:
        """The detector's scores of the first m rows."""
        score = self.target.rejection(padded)
        return None if score is None else score[:m]


def rejected(seen: Observed) -> Tensor:
    """Rows (m,) bool that the target's detector rejects, NaN among them; none without one."""
    if seen.rejection is None:
        return torch.zeros(len(seen.logits), dtype=torch.bool, device=seen.logits.device)
    return ~(seen.rejection <= 0)


def by_row(pre: Tensor, draws: int) -> Tensor:
    """Pre-activations (m * draws, *units) of a target that runs so many copies of each input, as (m, draws, *units)."""
    return pre if draws == 1 else pre.reshape(-1, draws, *pre.shape[1:])


def _join(pieces: list[Observed]) -> Observed:
    if len(pieces) == 1:
        return pieces[0]
    sites = tuple(
        replace(first, pre=torch.cat([p.sites[i].pre for p in pieces])) for i, first in enumerate(pieces[0].sites)
    )
    scores = [p.rejection for p in pieces if p.rejection is not None]
    return Observed(torch.cat([p.logits for p in pieces]), sites, torch.cat(scores) if scores else None)
