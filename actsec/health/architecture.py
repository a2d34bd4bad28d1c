"""What a network is made of, before anything is said about how well it does: the record that lints read. No torch.

``actsec.health.wiring.wiring`` fills it from one forward pass; each file of ``actsec.lints`` reads it and says what
stands out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from actsec.activations import Activation

Thing = Literal["layer", "site", "softmax", "step"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a tensor comes from: the call ``at`` of its kind, followed through what keeps values in their place.

    affine: nothing but views, dropout, batch norm, average pools and factors lies between; normed: a norm lies between;
    scaled: a factor or a maximum over places lies between.
    """

    thing: Thing
    at: int
    affine: bool = True
    normed: bool = False
    scaled: bool = False


@dataclass(frozen=True, slots=True)
class Weights:
    """One call of a linear layer or convolution, in call order.

    inputs and outputs are channels, window the size of the kernel (1 of a linear layer); gain is sqrt(fan_in E[W^2]):
    how many times larger its output is than its input on average, sqrt(2) of He et al. (2015).
    """

    name: str
    inputs: int
    outputs: int
    window: int
    groups: int
    gain: float
    origin: Origin | None


@dataclass(frozen=True, slots=True)
class Placed:
    """One activation call, in call order.

    hidden: it sees the input, is no gate and not the model's output. slope is the root mean square of f'(z) on the
    examples, None where it cannot be computed; learned names the parameter it shares with every site of that name.
    """

    name: str
    activation: Activation
    hidden: bool
    slope: float | None
    learned: str | None
    origin: Origin | None


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network as one forward pass shows it.

    flats are the calls of softmax and of functions without a slope, by name, whose result a later layer reads; outputs
    is how many numbers the model returns a row and classes how many labels there are. fresh: the weights are untrained,
    so that they say something about the initialisation.
    """

    layers: tuple[Weights, ...]
    sites: tuple[Placed, ...]
    flats: tuple[str, ...]
    output: Origin | None
    output_name: str
    outputs: int
    classes: int
    fresh: bool
    unresolved: tuple[str, ...]

    @property
    def hidden(self) -> tuple[Placed, ...]:
        """The hidden activation calls."""
        return tuple(site for site in self.sites if site.hidden)
