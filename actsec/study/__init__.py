"""Experiments about activation functions rather than about one model: ``actsec study depth | activations | curves``.

    depth         gradient norms at initialisation over depth, activation and initialisation
    activations   the same architecture trained with every activation, and what differs beyond seeds and sampling
    curves        f and f' drawn

Importing this imports no torch and no matplotlib.
"""

from __future__ import annotations
