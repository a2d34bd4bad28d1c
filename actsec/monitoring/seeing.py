"""What the sites of one watched pass show, and what is known of the calls of a mode."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from actsec.activations import Site
from actsec.activations.calls import Activating
from actsec.activations.finding import Finder
from actsec.activations.following import Follower
from actsec.health.readings import Look, look

ROUNDS = 32
"""Passes in which sites are looked for, in train and in eval mode each, where calls that were never met come up."""


@dataclass(slots=True)
class Seen:
    """What the sites of one pass showed."""

    known: Known
    rows: int
    looks: list[tuple[Site, Look]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    strange: set[str] = field(default_factory=set)

    def take(self, name: str, call: Activating) -> None:
        site = self.known.sites.get(name)
        if site is not None and site.kind == call.kind:
            try:
                self.looks.append((site, look(site, call.z, self.rows)))
            except Exception as problem:  # noqa: BLE001  # whatever it is, the model must not fail of it
                self.failed[name] = f"cannot be read: {type(problem).__name__}: {str(problem).partition(chr(10))[0]}"
        elif name not in self.known.seen:
            self.strange.add(name)


class Looker(Follower):
    """Looks at the sites of one pass."""

    def __init__(self, root: nn.Module, seen: Seen) -> None:
        super().__init__(root)
        self.seen = seen

    def on_site(self, name: str, call: Activating) -> Tensor:
        self.seen.take(name, call)
        return call.as_asked()


class SiteFinder(Finder):
    """Finds the calls of one pass, and looks at those that are known."""

    def __init__(self, root: nn.Module, seen: Seen, given: list[Tensor]) -> None:
        super().__init__(root, *given)
        self.seen = seen

    def on_site(self, name: str, call: Activating) -> Tensor:
        self.seen.take(name, call)
        return super().on_site(name, call)


@dataclass(slots=True)
class Known:
    """What is known of the calls in train mode, or in eval mode."""

    sites: dict[str, Site] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    first: Finder | None = None  # a pass in which some call seemed not to depend on the input: the next one tells
    strange: set[str] = field(default_factory=set)  # calls that were met and not yet found
    settled: bool = False
    rounds: int = 0
