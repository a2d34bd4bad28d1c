"""What ``actsec defend`` does: load, check, fit a chain of defenses, measure before and after, write.

The order is that of regret: every mistake that can be known is found before anything is trained.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actsec import data as sets
from actsec import models, registry, training
from actsec.data import Dataset
from actsec.detecting import DETECTOR
from actsec.errors import BadOption, PlanError
from actsec.hardening import exporting, hardened
from actsec.hardening.chains import fit_chain, threads
from actsec.loading import building, recipes
from actsec.loading.trust import loads_alone, sha256, vouched
from actsec.loading.weights import locate
from actsec.loading.zoo import cached_weights
from actsec.planning.budgets import REPEATS
from actsec.planning.jobs import variants
from actsec.planning.plan import Plan
from actsec.result import Calibration, Share
from actsec.running import preparing, restoring, scene, tasks
from actsec.running.progress import Progress, Tell
from actsec.running.scene import Scene
from actsec.search import attributes
from actsec.search.oracle import Oracle, bounded, frozen
from actsec.spec import Spec, parse_chain
from actsec.types import Fitted, Material, Target, chain_text
from actsec.verdict import calibration, statistics

_TRUSTED = "--trust-model: files that execute code when opened are allowed; what is saved says so"
_OWN = ("normalize", "threshold", "output")


@dataclass(frozen=True, slots=True)
class Measured:
    """A target on untouched inputs: accuracy, calibration, and the decided labels (n,)."""

    accuracy: Share
    calibration: Calibration
    labels: Tensor


@dataclass(frozen=True, slots=True)
class Ready:
    """A chain ready to be fitted.

    onto is the recipe of a hardened base; bare and text are what builds the model, weights the sha256 of the file it
    begins with, where there is one; trusted says that files that execute code were allowed, here or for the base.
    tested says whether the test data is the user's own choice: what a chain learned from measures nothing.
    """

    scene: Scene
    base: Target
    bare: Target
    text: str
    onto: recipes.Hardened | None
    weights: str
    trusted: bool
    chain: tuple[Spec, ...]
    notes: tuple[str, ...]
    tested: bool


@dataclass(frozen=True, slots=True)
class Made:
    """A fitted chain: the target, what each fit found and cost, and the measures before and after, where asked."""

    ready: Ready
    target: Target
    fits: tuple[Fitted, ...]
    seconds: tuple[float, ...]
    before: Measured | None
    after: Measured | None


def prepare(plan: Plan, chain: str, *, tested: bool, save: str | None, export: str | None, tell: Tell) -> Ready:
    """Check everything there is to check, and train a reference model. Raises UsageError, NoVerdict, Unsafe.

    tested says that ``plan.data`` was named; otherwise it is the calibration or training data. save is a folder or a
    .safetensors file, export a .pt2 file.
    """
    if save is None and export is None:
        raise BadOption("nothing would be kept", "Give --save FOLDER, or --export FILE.pt2.")
    specs = parse_chain(chain)
    plan, tested = _with_data(plan, specs, tested=tested)
    check_places(save, export)
    loaded = preparing.resolved(scene.load(plan.having(defenses=(chain,))))
    filled = parse_chain((loaded.plan.defenses or ("",))[0])
    if loaded.test.table is not None and len(loaded.test.table.labels) > 1:
        raise PlanError(
            f"{len(loaded.test.table.labels)} label columns: a hardened model decides one",
            "Give the one column, and a model that returns the logit of that label.",
        )
    plan = loaded.plan
    untrained = restoring.base_target(loaded, variants(plan)[0]) if plan.reference else None
    if untrained is not None:
        _check_form(untrained, filled, save, export)
    base, notes = base_of(loaded, tell)
    if untrained is None:
        _check_form(base, filled, save, export)
    base = bounded(base, torch.from_numpy(loaded.test.x[:1]).to(base.device), plan.memory)
    bare, text, onto = _origin(loaded, base)
    # Without test data of its own the scene sets some aside that nothing uses.
    notes = (*(loaded.notes if tested else ()), *notes, *((_TRUSTED,) if plan.trust_model else ()))
    notes = (*notes, *((DETECTOR,) if base.rejects is not None else ()))
    trusted = plan.trust_model or (onto is not None and onto.trusted)
    return Ready(loaded, base, bare, text, onto, _base_weights(plan, onto), trusted, filled, notes, tested)


def _check_form(base: Target, chain: Sequence[Spec], save: str | None, export: str | None) -> None:
    """Raise what putting the chain on the model, saving its weights alone or exporting it would raise in the end."""
    alone = save is not None and save.endswith(".safetensors")
    made = restoring.wrapped(base, tuple(chain))
    if not alone and save is not None:
        hardened.whole_of(base)
    if alone and (spec := _changes(base, chain)) is not None:
        raise BadOption(
            f"--save {save}: {spec.name} changes the architecture: weights alone would not load into {base.name}",
            "Give a folder, --save hardened/, which holds the recipe beside the weights.",
        )
    if export is not None:
        exporting.export(made)


def _base_weights(plan: Plan, onto: recipes.Hardened | None) -> str:
    """The sha256 of the weights that the model begins with; nothing of a network that is trained here."""
    if onto is not None:
        return onto.weights
    return "" if plan.weights is None else sha256(locate(cached_weights(plan.model, plan.weights))[0])


def make(ready: Ready, tell: Tell) -> Made:
    """Fit the chain and measure the target before and after. Raises what fitting raises."""
    loaded, base, plan = ready.scene, ready.base, ready.scene.plan
    with threads(plan.threads):
        before = measure(base, loaded.test, plan) if ready.tested else None
        material = Material(
            scene.as_split(loaded.splits.calibration, plan.device),
            scene.as_split(loaded.splits.train, plan.device),
            plan.seed,
            tasks.perturb,
            lambda *_: None,
        )
        target, fits, seconds = fit_chain(
            base, [registry.build("defenses", spec) for spec in ready.chain], material, tell
        )
        after = measure(target, loaded.test, plan) if ready.tested else None
    return Made(ready, target, fits, seconds, before, after)


def write(made: Made, save: str | None, export: str | None, command: str) -> Iterator[str]:
    """Write what was asked for, and say each thing once it stands. Raises StoreError, ModelError."""
    ready, plan = made.ready, made.ready.scene.plan
    if save is not None and save.endswith(".safetensors"):
        hardened.save_weights(save, made.target, chain=chain_text(ready.chain), trusted=ready.trusted)
    elif save is not None:
        hardened.save(
            save,
            made.target,
            base=ready.bare,
            model=ready.text,
            chain=ready.chain,
            fits=made.fits,
            seconds=made.seconds,
            onto=ready.onto,
            seed=ready.onto.seed if ready.onto else plan.seed,
            command=command,
            data=_hashes(ready),
            measured=measures(made),
            audit=audit_command(ready, save),
            base_weights=ready.weights,
            trusted=ready.trusted,
        )
    if save is not None:
        yield f"saved {save}"
    if export is not None:
        exporting.write(export, made.target)
        yield f"exported {export}"
    if save is None:
        yield "Not audited: save a folder, --save hardened/, to audit it"
    else:
        yield f"Not audited. To find out what it is worth: {audit_command(ready, save)}"


def measure(target: Target, test: Dataset, plan: Plan) -> Measured:
    """Accuracy and calibration on the test data; the mean over draws of a stochastic target. One forward a row.

    An input that the target's detector refuses is not correct, and its label counts as decided all the same.
    """
    repeats = REPEATS[plan.budget] if target.stochastic else 1
    with frozen(target.model), attributes.untouched(target.model):
        oracle = Oracle(target.having(threshold=None), 0, repeats, plan.seed, "clean test")
        kept, labels, rejections = [], [], []
        for x in scene.calls(test, oracle):
            decisions, refused = oracle.decided(torch.from_numpy(x).to(target.device))
            logits = decisions.double().cpu()
            kept.append(logits.softmax(-1).mean(0))
            labels.append(target.decide(logits))
            rejections.append(refused.cpu())
    p = torch.cat(kept)
    right = ((torch.cat(labels, -1) == torch.from_numpy(test.y)) & ~torch.cat(rejections, -1)).double().mean(0)
    decided = target.decide(p.log()) if target.threshold is not None else p.argmax(-1)
    found = calibration.calibration(p.numpy(), test.y, "clean", decided=decided.numpy())
    return Measured(statistics.share(round(float(right.sum())), len(test)), found, decided)


def measures(made: Made) -> dict[str, Any]:
    """What was measured, for the recipe and for people: nothing where no test data was named."""
    ready = made.ready
    sizes = {
        "parameters_before": sum(p.numel() for p in ready.base.model.parameters()),
        "parameters_after": sum(p.numel() for p in made.target.model.parameters()),
    }
    if made.before is None or made.after is None:
        return sizes
    before, after = made.before, made.after
    return {
        **sizes,
        "test": ready.scene.test.name,
        "n": after.accuracy.n,
        "clean_accuracy_before": before.accuracy.value,
        "clean_accuracy_after": after.accuracy.value,
        "labels_changed": int((before.labels != after.labels).sum()),
        "ece_before": before.calibration.ece,
        "ece_after": after.calibration.ece,
    }


def told(made: Made) -> Iterator[str]:
    """What was fitted and measured, in lines for the terminal."""
    for spec, fit, seconds in zip(made.ready.chain, made.fits, made.seconds, strict=True):
        numbers = fit.numbers
        passes = f"{numbers.get('forwards', 0):,} forwards, {numbers.get('backwards', 0):,} backwards"
        found = f", temperature {numbers['temperature']:.4g}" if "temperature" in numbers else ""
        yield f"{registry.brief('defenses', spec)}: {passes}, {seconds:.1f} s{found}"
        yield from (f"  {note}" for note in fit.notes)
        yield f"  {registry.find('defenses', spec.name).claims}"
    if made.before is None or made.after is None:
        yield "not measured: no test data was named (--data)"
    else:
        before, after = made.before, made.after
        changed = int((before.labels != after.labels).sum())
        yield (
            f"clean accuracy {before.accuracy.value:.1%} before, {after.accuracy.value:.1%} after "
            f"({after.accuracy.n} of {made.ready.scene.test.name}; {changed} labels changed); "
            f"ECE {before.calibration.ece:.3f} before, {after.calibration.ece:.3f} after "
            f"({after.calibration.bins} bins; up to {after.calibration.null_p95:.3f} by chance)"
        )


def audit_command(ready: Ready, place: str) -> str:
    """The command that audits what was saved, a folder or weights alone, on the data that was named."""
    plan, alone = ready.scene.plan, place.endswith(".safetensors")
    named = [plan.model if alone else ready.text, "--weights", place]
    words = ["actsec", "audit", "--model", *(named if alone or not loads_alone(ready.text) else [place])]
    words += ["--data", plan.data if ready.tested else "test.npz"]
    for name in ("train", "calibration", "bounds", "resize", "label_column", "label", *(_OWN if alone else ())):
        if (value := getattr(plan, name)) is not None:
            words += ["--" + name.replace("_", "-"), str(value)]
    for rule in plan.features:
        words += ["--feature", str(rule)]
    return shlex.join(words)


def base_of(loaded: Scene, tell: Tell) -> tuple[Target, tuple[str, ...]]:
    """The plan's first model: the user's after the preflight checks, with their notes; a reference model trained."""
    plan = loaded.plan
    if not plan.reference:
        return preparing.look(loaded)
    first = variants(plan)[0]
    target = restoring.base_target(loaded, first)
    data = scene.as_split(loaded.splits.train, plan.device)
    if data is None:
        raise PlanError(f"{plan.model} is trained first, but there is no training data", "Give --train data.npz.")
    recipe = training.Recipe(seed=plan.seed)

    def progress(epoch: int, epochs: int, loss: float, accuracy: float) -> None:
        tell(Progress(epoch, epochs, f"training {first.base}: loss {loss:.4f}, accuracy {accuracy:.3f}", None))

    with threads(plan.threads):
        training.fit(target.model, data.x, data.y, recipe, ids=data.id, progress=progress)
    return target, ()


def check_places(save: str | None, export: str | None) -> None:
    """Raise BadOption or StoreError for what could not be written in the end."""
    if save is not None and save.endswith((".pt", ".pth", ".pkl", ".npz", ".pt2", ".toml")):
        raise BadOption(f"--save {save}: weights are written as safetensors", "Give a folder, or FILE.safetensors.")
    if export is not None and not export.endswith(".pt2"):
        raise BadOption(f"--export {export}: an exported program ends in .pt2", "Give FILE.pt2.")
    if save is not None and not save.endswith(".safetensors"):
        hardened.check_place(save)
    for file in (save, export):
        if file is not None and (file != save or file.endswith(".safetensors")):
            hardened.check_file(file)


def _with_data(plan: Plan, chain: Sequence[Spec], *, tested: bool) -> tuple[Plan, bool]:
    """The plan with something to check the model on. Raises PlanError where a defense lacks what it learns from."""
    if tested or plan.reference:
        return plan, True
    needed = {registry.build("defenses", spec).needs: spec for spec in chain if _complete(spec)}
    for split in ("train", "calibration"):
        if split in needed and getattr(plan, split) is None:
            raise PlanError(f"{needed[split].name} needs {split} data", f"Give --{split} data.npz.")
    if (data := plan.calibration or plan.train) is None:
        raise PlanError(f"no data was named to check {plan.model} on", "Give --data test.npz.")
    return plan.having(data=data), False


def _complete(spec: Spec) -> bool:
    """Whether every option without a default is given: eps may still be the data's."""
    fields = dataclasses.fields(registry.find("defenses", spec.name))
    return all(f.default is not dataclasses.MISSING or spec.get(f.name) is not None for f in fields)


def _origin(loaded: Scene, base: Target) -> tuple[Target, str, recipes.Hardened | None]:
    """The target before all its defenses, the text that builds it, and the recipe where it is hardened already."""
    plan = loaded.plan
    folder = next((place for place in (plan.model, plan.weights) if recipes.is_folder(place)), None)
    if folder is not None:
        onto = recipes.read(folder)
        alone = folder == plan.model
        text = vouched(Path(folder), onto.model, onto.code, trust=plan.trust_model) if alone else plan.model
        return recipes.bare(onto, text, plan.device), text, onto
    if plan.reference:
        return base, f"reference:{models.canonical(variants(plan)[0].base)}", None
    text = plan.model
    if text.startswith("torchvision:") and vars(base.model).get("transform_input"):
        # What torchvision's own normalisation switched on inside the model is an option of its architecture.
        source, call = building.split(text)
        text = f"{source}:{parse_chain(call)[0].having(transform_input=True)}"
    return base, text, None


def _changes(base: Target, chain: Sequence[Spec]) -> Spec | None:
    """The first defense of the chain after which weights no longer load into the base's architecture."""
    target = base
    for spec in chain:
        target = registry.build("defenses", spec).wrap(target)
        if _form(target) != _form(base):
            return spec
    return None


def _form(target: Target) -> tuple[Any, ...]:
    """All of a target but its numbers."""
    modules = [
        (name, type(m).__qualname__, "" if list(m.children()) else m.extra_repr())
        for name, m in target.model.named_modules()
    ]
    state = [(name, tuple(value.shape)) for name, value in target.model.state_dict().items()]
    return (modules, state, target.normalization, target.threshold, target.output, target.stochastic, target.draws)


def _hashes(ready: Ready) -> dict[str, str]:
    splits = ready.scene.splits
    needs = {registry.build("defenses", spec).needs for spec in ready.chain}
    parts = {"train": splits.train, "calibration": splits.calibration}
    return {name: sets.fingerprint(part) for name, part in parts.items() if part is not None and name in needs}
