"""What an audit found: the ``result`` half of report.json, as plain records.

Everything here is a function of the plan alone: no times, no hardware, no paths of the machine. Numbers that do not
exist are None with a reason beside them, never NaN. Shares carry k, n and their 95 % Wilson interval.
"""

from actsec.result.attacks import (
    AttackResult,
    Certificate,
    CertifiedRadius,
    Check,
    Course,
    CurvePoint,
    Miscalibration,
    SecondOpinion,
    Smallest,
    ThreatResult,
)
from actsec.result.audit import SCHEMA, Cell, Column, Data, Example, Executed, Result, SplitInfo
from actsec.result.findings import AcceptedFinding, ChecklistRow, EvidenceRow, GateResult, Problem, Taxon
from actsec.result.nonsense import FarField, FooledClass, Fooling, Nonsense, NonsenseKind, NonsensePicture
from actsec.result.shares import Bin, Calibration, ClassShare, Clean, Corrupted, Corruptions, Interval, Share, saved_as
from actsec.result.units import Bracket, Kill, KillEffect, PassedOn, SiteBracket, SiteHealth, SiteKill
from actsec.result.variants import Advice, AdviceLabel, Comparison, Variant

__all__ = [
    "SCHEMA",
    "AcceptedFinding",
    "Advice",
    "AdviceLabel",
    "AttackResult",
    "Bin",
    "Bracket",
    "Calibration",
    "Cell",
    "Certificate",
    "CertifiedRadius",
    "Check",
    "ChecklistRow",
    "ClassShare",
    "Clean",
    "Column",
    "Comparison",
    "Corrupted",
    "Corruptions",
    "Course",
    "CurvePoint",
    "Data",
    "EvidenceRow",
    "Example",
    "Executed",
    "FarField",
    "FooledClass",
    "Fooling",
    "GateResult",
    "Interval",
    "Kill",
    "KillEffect",
    "Miscalibration",
    "Nonsense",
    "NonsenseKind",
    "NonsensePicture",
    "PassedOn",
    "Problem",
    "Result",
    "SecondOpinion",
    "Share",
    "SiteBracket",
    "SiteHealth",
    "SiteKill",
    "Smallest",
    "SplitInfo",
    "Taxon",
    "ThreatResult",
    "Variant",
    "saved_as",
]
