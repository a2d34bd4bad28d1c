"""What is known of every row while an attack runs, and what is left when it is over.

Best attempt, smallest misclassifying candidate in each norm, counts and traces: written once, for every attack.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from actsec import geometry
from actsec.types import Ask, Cases, Norm, Reply

ALREADY_WRONG, FOUND, FAILED, REFUSED = 0, 1, 2, 3
STATUS = ("already_wrong", "found", "failed", "refused")
TRACED = 16
"""Rows whose course is kept, question by question, for the convergence plot."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What an attack achieved, rows first in the order of the cases.

    status (n,) int64 indexes STATUS; x (n, *shape) is the best admissible candidate (the smallest success when eps is
    infinite, else the highest score), never a blank and only the clean input when nothing else was admissible; score,
    size (n,) and logits (n, classes) belong to it; wrong (n,) is the share of fresh judgements of x that were wrong (0
    or 1 unless the target is stochastic); smallest (n, norms) is the least size of any confirmed misclassifying
    candidate, by NORMS_KEPT, infinity for none; forwards, backwards, found_at, rejected (n,) int64 count the attack's
    queries, the question that first succeeded (-1: none) and inadmissible candidates; refused counts successes that a
    judge took back; non_finite (n,) int64 counts candidates whose logits were not all finite, abstained (n,) int64
    admissible misclassified ones that the target's detector rejected; on_grid (n,) int64 is 1 where what was found
    still succeeds as rounded to the data's own grid, 0 where not, -1 where it was not asked; trace (rows, questions, 3)
    follows the first TRACED rows: loss (NaN without one), best score and best size after each question, NaN after a
    row's last.
    """

    status: Tensor
    x: Tensor
    score: Tensor
    size: Tensor
    wrong: Tensor
    smallest: Tensor
    forwards: Tensor
    backwards: Tensor
    found_at: Tensor
    rejected: Tensor
    refused: int
    logits: Tensor
    non_finite: Tensor
    abstained: Tensor
    on_grid: Tensor
    trace: Tensor


_ROUGH = 1e-4
NORMS_KEPT: tuple[Norm, ...] = ("linf", "l2", "l0")


@dataclass(slots=True)
class Ledger:
    """Best so far of every row, on the cases' device."""

    verdicts: Verdicts
    success: Tensor
    witness: Tensor
    asked: Tensor
    minimal: bool
    traced: list[Tensor] = field(default_factory=list)

    def enter(self, index: Tensor, ask: Ask, reply: Reply, cases: Cases, repeats: int) -> None:
        """Record one reply for the rows at ``index``."""
        v, x = self.verdicts, ask.x
        queries = x.shape[1] * repeats
        self.asked[index] += 1
        v.forwards[index] += queries
        if ask.loss is not None:
            v.backwards[index] += queries if ask.wants is None else queries * ask.wants.to(torch.int64)
        v.rejected[index] += (~reply.inside).sum(1)
        v.non_finite[index] += (~torch.isfinite(reply.logits)).any(-1).sum(1)
        # The clean input is no attempt, so that a failed attack returns the best one it made.
        counts = reply.inside & (reply.size > 0) & ~reply.score.isnan()
        works = reply.success & counts
        value = torch.where(works, -reply.size.to(reply.score.dtype), reply.score) if self.minimal else reply.score
        value = torch.where(counts & (works | ~works.any(1, keepdim=True)), value, torch.full_like(value, -torch.inf))
        value, pick = value.max(1)
        success, score, size = (_picked(column, pick) for column in (works, reply.score, reply.size))
        known = self.success[index]
        nearer = size < v.size[index] if self.minimal else score > v.score[index]
        better = torch.where(success, ~known | nearer, ~known & (value > v.score[index]))
        at, pick = better.nonzero().flatten(), pick[better]
        chosen = index[at]
        v.x.index_copy_(0, chosen, x[:, 0] if x.shape[1] == 1 and len(at) == len(x) else x[at, pick])
        v.score[chosen], v.size[chosen] = score[at], size[at]
        v.logits[chosen] = reply.logits[at, pick]
        first = index[success & ~known]
        v.found_at[first] = self.asked[first]
        self.success[chosen] |= success[better]
        self._shrink(index, x, reply, cases)
        self._follow(index, reply)

    def improves(self, index: Tensor, reply: Reply) -> Tensor:
        """Which candidates (n, k), if their success holds, change what is known of the rows at ``index``."""
        best = self.verdicts.size if self.minimal else self.verdicts.score
        better = reply.size < best[index][:, None] if self.minimal else reply.score > best[index][:, None]
        return better | ~self.success[index][:, None]

    def _follow(self, index: Tensor, reply: Reply) -> None:
        """One more point of the traced rows' courses."""
        own = index < TRACED
        if not bool(own.any()):
            return
        rows, v = index[own], self.verdicts
        loss = torch.full((len(rows),), torch.nan) if reply.loss is None else reply.loss[own].amax(1)
        columns = (rows, self.asked[rows] - 1, loss, v.score[rows], v.size[rows])
        self.traced.append(torch.stack([column.double() for column in columns], 1))

    def trace(self) -> Tensor:
        """What Verdicts.trace is, float32."""
        rows = min(len(self.asked), TRACED)
        questions = int(self.asked[:rows].max()) if rows else 0
        table = torch.full((rows, questions, 3), torch.nan)
        for point in self.traced:
            table[point[:, 0].long(), point[:, 1].long()] = point[:, 2:].float()
        return table

    def _shrink(self, index: Tensor, x: Tensor, reply: Reply, cases: Cases) -> None:
        """Keep, in every norm, the smallest misclassifying candidate: it counts for every threat it satisfies."""
        finite = torch.isfinite(reply.logits).all(-1)
        wrong = (reply.logits.argmax(-1) != cases.y[:, None]) & reply.inside & finite
        if reply.rejection is not None:
            accepted = reply.rejection <= 0
            self.verdicts.abstained[index] += (wrong & ~accepted).sum(1)
            wrong &= accepted
        if not bool(wrong.any()):
            return
        at, candidate = wrong.nonzero(as_tuple=True)
        x, clean, where = x[at, candidate], cases.x[at], index[at]
        rough = x - clean
        for j, norm in enumerate(NORMS_KEPT):
            known = self.verdicts.smallest[where, j]
            if norm == cases.norm:
                sizes = reply.size[at, candidate]
            elif norm == "l0" and cases.rules is not None:
                sizes = cases.rules.changed(x, clean)
            else:
                # Exact sizes only where a float32 one says that they may matter.
                sizes = _roughly(rough, norm)
                close = (sizes * (1 - _ROUGH) < known).nonzero().flatten()
                sizes[close] = geometry.distance(x[close], clean[close], norm)
            closer = sizes < known
            if bool(closer.any()):
                self._keep(j, where[closer], sizes[closer], x[closer])

    def _keep(self, j: int, where: Tensor, sizes: Tensor, x: Tensor) -> None:
        """The smallest of the candidates x (m, *shape) for the rows at ``where`` (m,), which may repeat, in norm j."""
        order = sizes.argsort(descending=True, stable=True)
        rank = torch.arange(len(order), device=order.device)
        last = torch.full_like(self.asked, -1).scatter_reduce(0, where[order], rank, "amax")
        rows = (last >= 0).nonzero().flatten()
        best = order[last[rows]]
        self.verdicts.smallest[rows, j] = sizes[best]
        self.witness[rows, j] = x[best]


def opened(logits: Tensor, score: Tensor, cases: Cases, minimal: bool, rejected: Tensor | None = None) -> Ledger:
    """The ledger before the first question, from the clean pass's logits (n, classes) and scores (n,).

    An untouched row that the target's detector rejected (n,) bool is no more correct than one it gets wrong.
    """
    n, device = len(cases), cases.x.device
    success = score > 0
    count = torch.zeros(n, dtype=torch.int64, device=device)
    wrong = logits.argmax(1) != cases.y
    if rejected is not None:
        success, wrong = success | rejected, wrong | rejected
    smallest = torch.full((n, len(NORMS_KEPT)), torch.inf, dtype=torch.float64, device=device)
    smallest[wrong] = 0.0
    verdicts = Verdicts(
        status=torch.full((n,), FAILED, dtype=torch.int64, device=device),
        x=cases.x.clone(),
        # A failed attack returns its best attempt, so the untouched input must lose to the first candidate.
        score=torch.where(success, score, torch.full_like(score, -torch.inf)),
        size=torch.zeros(n, dtype=torch.float64, device=device),
        wrong=torch.zeros(n, device=device),
        smallest=smallest,
        forwards=count.clone(),
        backwards=count.clone(),
        found_at=count - 1,
        rejected=count.clone(),
        refused=0,
        logits=logits.clone(),
        non_finite=count.clone(),
        abstained=count.clone(),
        on_grid=count - 1,
        trace=torch.empty(0, 0, 3),
    )
    witness = cases.x[:, None].repeat(1, len(NORMS_KEPT), *(1,) * (cases.x.dim() - 1))
    return Ledger(verdicts, success.clone(), witness, count.clone(), minimal)


def _roughly(delta: Tensor, norm: Norm) -> Tensor:
    """The size (m,) of float32 differences, within a share of _ROUGH; l0 is exact."""
    if norm == "l0":
        return geometry.size(delta, norm)
    flat = delta.flatten(1)
    return (flat.abs().amax(1) if norm == "linf" else torch.linalg.vector_norm(flat, 2, dim=1)).double()


def _picked(table: Tensor, pick: Tensor) -> Tensor:
    """Of each row (n, k) the value at its pick (n,)."""
    return table.gather(1, pick[:, None]).squeeze(1)
