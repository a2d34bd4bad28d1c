"""The nouns. Small frozen values that attacks, defenses, diagnostics and the core exchange.

Tensors are rows first: dimension 0 is one adversary each. Nothing here imports torch when it is imported, so that
``actsec --help`` and a report on a laptop without torch work.
"""

from actsec.types.asking import Ask, Attack, Cases, Goal, Loss, Proposal, Proposer, Recipe, Reply, Rules, State
from actsec.types.defending import Checkpoint, Defense, Fitted, Material, Split, chain_text
from actsec.types.judging import Diagnostic, Evidence, Finding, Status
from actsec.types.poisoning import Enters, Poison, Victim
from actsec.types.targets import (
    BATCH,
    JUDGE_DRAWS,
    MEMORY,
    Normalization,
    Observed,
    SiteValues,
    Target,
    pad_zero,
    read_head,
)
from actsec.types.threats import FORCING, GRADIENT, NORMS, SLACK, Aim, Ends, Knowledge, Norm, Region, Threat
from actsec.types.working import Job, Outcome

__all__ = [
    "BATCH",
    "FORCING",
    "GRADIENT",
    "JUDGE_DRAWS",
    "MEMORY",
    "NORMS",
    "SLACK",
    "Aim",
    "Ask",
    "Attack",
    "Cases",
    "Checkpoint",
    "Defense",
    "Diagnostic",
    "Ends",
    "Enters",
    "Evidence",
    "Finding",
    "Fitted",
    "Goal",
    "Job",
    "Knowledge",
    "Loss",
    "Material",
    "Norm",
    "Normalization",
    "Observed",
    "Outcome",
    "Poison",
    "Proposal",
    "Proposer",
    "Recipe",
    "Region",
    "Reply",
    "Rules",
    "SiteValues",
    "Split",
    "State",
    "Status",
    "Target",
    "Threat",
    "Victim",
    "chain_text",
    "pad_zero",
    "read_head",
]
