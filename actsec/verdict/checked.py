"""A checkup as a Result, so that the report renders it as any run: sites, confidence, findings; nothing attacked."""

from __future__ import annotations

import dataclasses

import actsec
from actsec.data import Splits
from actsec.loading import executed
from actsec.planning.plan import Facts
from actsec.result import SCHEMA, Result, Variant
from actsec.running.scene import Scene
from actsec.verdict.activity import Checkup
from actsec.verdict.assembling import _data

LIMITS = (
    "No attack was made: nothing is said about robustness.",
    "Units are counted on the images looked at; others may wake them.",
)


def checked(found: Checkup, scene: Scene, facts: Facts, command: str) -> Result:
    """The record of a checkup."""
    plan = scene.plan
    claims = tuple(f"{each.claim[:1].upper()}{each.claim[1:]}." for each in found.findings)
    healthy = f"Nothing stands out in {len(found.sites)} activation calls on {found.n} images."
    ratio = () if found.gradient_ratio is None else (f"Gradient, first layer over last: {found.gradient_ratio:.3g}.",)
    variant = Variant(
        id="model",
        title="model",
        base=plan.model,
        chain="",
        activation=", ".join(found.activations) or "none",
        audited=True,
        kind="",
        claims="",
        parameters=found.parameters,
        fingerprint=found.fingerprint,
        fit={},
        notes=(),
        clean=found.clean,
        calibration=(found.calibration,),
        threats=(),
        sites=found.sites,
        unresolved=found.unresolved,
        kills=(),
        vitals=found.vitals,
    )
    return Result(
        schema=SCHEMA,
        actsec=actsec.__version__,
        plan={"model": plan.model, "data": plan.data, "seed": plan.seed, "samples": found.n},
        plan_id=found.fingerprint[:24],
        command=command,
        status="complete",
        headline=(*(claims or (healthy,)), *ratio, "No attack was made."),
        heading="",
        model={"name": found.model, "weights": plan.weights, "fingerprint": found.fingerprint},
        data=_data(dataclasses.replace(scene, splits=Splits(scene.test)), facts),
        variants=(variant,),
        comparisons=(),
        advice=(),
        problems=tuple(dataclasses.replace(each, variant="model") for each in found.findings),
        gates=tuple(dataclasses.replace(gate, variant="model") for gate in found.gates),
        not_done=("attacks: a checkup makes none",),
        examples=(),
        exit_code=found.exit_code,
        limits=LIMITS,
        executed=executed.of(plan),
    )
