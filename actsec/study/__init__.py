"""Experiments about activation functions: ``actsec study``.

    forcing       units of one model forced dead, saturated or to zero, beside noise, PGD and certificates
    depth         gradient norms at initialisation over depth, activation and initialisation
    activations   the same architecture trained with every activation, and what differs beyond seeds and sampling
    poison        trainings poisoned, against clean twins and random rows
    curves        f and f' drawn

Importing this imports no torch and no matplotlib.
"""

from __future__ import annotations
