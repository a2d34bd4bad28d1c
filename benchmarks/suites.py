"""What is run against what: every suite, in one table. Change a spec here and nowhere else.

A suite is a set of contenders on one or more (scene, images) under one threat, and the targets that its results are
held against. Cells that two suites share (same scene, images, threat, contender) are run once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from actsec.spec import show
from actsec.types import Norm
from benchmarks import targets as t

OURS, DOCUMENTED, BEST, EQUAL, TRUTH = "ours", "documented", "best", "equal steps", "reference"


@dataclass(frozen=True, slots=True)
class Entry:
    """One contender: a library and one of its attacks, written as name(option=value).

    setting says whose choice the options are: the library's documentation, the best we found for it, as many steps as
    ours, or a reference that nobody is held to in speed. tag is what targets know it by. runs bounds the timed runs
    (none: --repeats); images, where set, is how many of the suite's images it gets: the first ones. settle=False keeps
    broken examples in; stand_in is the dtype of the faster copy of the model that actsec may search on.
    """

    peer: str
    spec: str
    setting: str
    tag: str = ""
    runs: int | None = None
    images: int | None = None
    seed: int = 0
    settle: bool = True
    stand_in: str = ""


@dataclass(frozen=True, slots=True)
class Suite:
    """Contenders, where they meet, and what must come of it.

    grid holds (scene, images), full the grid of --full where that differs; eps is in input units, none for the smallest
    change; correct says whether only images that the model gets right are taken; repeats overrides --repeats; minutes
    is what it takes on two cores; axis names what a growing grid is drawn over.
    """

    about: str
    grid: tuple[tuple[str, int], ...]
    norm: Norm
    eps: tuple[float, ...]
    entries: tuple[Entry, ...]
    targets: tuple[t.Target, ...] = ()
    full: tuple[tuple[str, int], ...] = ()
    repeats: int = 0
    correct: bool = True
    batch: int = 256
    minutes: float = 1.0
    axis: str = ""


def pgd_40(eps: float) -> tuple[Entry, ...]:
    """Every library's PGD with 40 steps: as documented, and with the step that serves it best, eps / 4.

    ART documents 100 steps of a third of its radius. Timed once where only strength is asked of it.
    """
    step, third = show(eps / 4), show(eps / 3)
    tag = "pgd_40"
    return (
        Entry("foolbox", "LinfPGD(steps=40)", DOCUMENTED, tag, runs=1),
        Entry("foolbox", f"LinfPGD(steps=40, abs_stepsize={step})", BEST, tag),
        Entry("torchattacks", "PGD(alpha=2/255, steps=10)", DOCUMENTED, runs=1),
        Entry("torchattacks", f"PGD(alpha={step}, steps=40)", BEST, tag),
        Entry("adv-lib", "pgd_linf(steps=40)", DOCUMENTED, tag, runs=1),
        Entry("adv-lib", f"pgd_linf(steps=40, absolute_step_size={step})", BEST, tag),
        Entry("art", f"ProjectedGradientDescent(max_iter=100, eps_step={third}, batch_size=32)", DOCUMENTED, runs=1),
        Entry("art", f"ProjectedGradientDescent(max_iter=40, eps_step={step}, num_random_init=1)", BEST, tag, runs=2),
    )


def hidden(eps: float) -> tuple[Entry, ...]:
    """Who faces models that hide their gradient: once each, it is strength that counts."""
    return (
        Entry("actsec", "cascade", OURS, "ours", runs=1),
        Entry("actsec", "autoattack", OURS, "ours_standard", runs=1),
        *(replace(entry, runs=1, tag="rival") for entry in pgd_40(eps) if entry.setting == BEST),
        Entry("adv-lib", "apgd(loss_function=dlr)", BEST, "rival", runs=1),
        Entry("torchattacks", "Square(n_queries=1000)", BEST, "rival", runs=1),
        Entry("autoattack", STANDARD, DOCUMENTED, "rival", runs=1),
    )


CW_9_100 = (
    Entry("actsec", "carlini_wagner(steps=100, search_steps=9)", OURS, "ours_cw"),
    Entry("adv-lib", "carlini_wagner_l2(max_iterations=100, binary_search_steps=9)", EQUAL, "cw"),
    Entry("foolbox", "L2CarliniWagnerAttack(steps=100, binary_search_steps=9)", EQUAL, "cw"),
    Entry("torchattacks", "CW(c=1, steps=50)", DOCUMENTED),
    Entry("torchattacks", "CW(c=10, steps=500)", BEST, runs=1),
    Entry("art", "CarliniL2Method(max_iter=10, batch_size=64)", BEST, "art_cw", runs=1),
)
MINIMAL = (
    Entry("actsec", "minimal_l2", OURS, "ours"),
    Entry("actsec", "minimal_l2", OURS, stand_in="float32"),
    Entry("adv-lib", "ddn(steps=100)", DOCUMENTED, runs=2),
    Entry("adv-lib", "ddn(steps=100, levels=none)", BEST, runs=2),
    Entry("adv-lib", "fmn(steps=100)", BEST, runs=2),
    Entry("foolbox", "DDNAttack(steps=100)", DOCUMENTED, runs=2),
    Entry("foolbox", "L2FMNAttack(steps=100)", DOCUMENTED, runs=2),
    Entry("adv-lib", "ddn(steps=1000, levels=none)", TRUTH, runs=1),
    Entry("adv-lib", "fmn(steps=1000)", TRUTH, runs=1),
)
STANDARD = "standard"
DIGITS = tuple(f"digits: {kind}(activation={a})" for kind in ("mlp", "cnn") for a in ("relu", "tanh", "gelu", "kwta"))
NINE_EPS = tuple(k / 255 for k in (0.5, 1, 2, 3, 4, 6, 8, 12, 16))
WIDTHS = ("[8, 16]", "[16, 32]", "[32, 64]", "[64, 128]", "[128, 256]")

SUITES = {
    "fgsm": Suite(
        about="One step, nine radii: one gradient serves them all.",
        grid=(("resnet20", 64),),
        norm="linf",
        eps=NINE_EPS,
        entries=(
            Entry("actsec", "fgsm", OURS, "ours"),
            Entry("bare", "passes(gradients=1, forwards=10)", TRUTH, "bare"),
            Entry("bare", "fgsm", TRUTH, "five_lines"),
            Entry("foolbox", "LinfFastGradientAttack", DOCUMENTED, "foolbox"),
            Entry("torchattacks", "FGSM", DOCUMENTED),
            Entry("art", "FastGradientMethod(batch_size=32)", DOCUMENTED),
            Entry("art", "FastGradientMethod", BEST),
        ),
        targets=(
            t.equal_strength("ours", "five_lines"),
            t.at_most("ours", "bare", 1.1),
            t.faster("ours", "foolbox", 2),
        ),
        minutes=0.5,
    ),
    "linf": Suite(
        about="L-infinity 8/255 against PGD with 40 steps.",
        grid=(("resnet20", 256),),
        norm="linf",
        eps=(8 / 255,),
        entries=(
            Entry("actsec", "cascade", OURS, "ours"),
            Entry("actsec", "pgd(steps=40)", OURS),
            *pgd_40(8 / 255),
            Entry("adv-lib", "apgd", DOCUMENTED, runs=1),
            Entry("autoattack", STANDARD, DOCUMENTED, runs=1),
        ),
        targets=(t.no_weaker("ours", "pgd_40"), t.faster("ours", "pgd_40", 10)),
        minutes=8,
    ),
    "cascade": Suite(
        about="A provably robust CNN: everything AutoAttack breaks, and nothing that is certified.",
        grid=(("mnist_robust", 1000),),
        norm="linf",
        eps=(0.1,),
        entries=tuple(
            entry
            for seed in range(3)
            for entry in (
                Entry("actsec", "cascade", OURS, f"ours_{seed}", runs=1 if seed else None, seed=seed),
                Entry("autoattack", STANDARD, DOCUMENTED, f"standard_{seed}", runs=1, seed=seed),
            )
        ),
        targets=(
            *(t.breaks_all_of(f"ours_{seed}", f"standard_{seed}") for seed in range(3)),
            *(t.faster(f"ours_{seed}", f"standard_{seed}", 5) for seed in range(3)),
            t.nothing_certified("ours_0"),
        ),
        minutes=5,
    ),
    "minimal_l2": Suite(
        about="The smallest L2 change that fools ResNet-20.",
        grid=(("resnet20", 64),),
        norm="l2",
        eps=(),
        entries=(*MINIMAL, *(replace(e, tag="adv_lib_cw") if e.peer == "adv-lib" else e for e in CW_9_100)),
        targets=(
            t.all_fall("ours"),
            t.nearest("ours", 1.005, 1.05),
            t.faster("ours", "art_cw", 10),
            t.faster("ours", "adv_lib_cw", 5),
        ),
        minutes=10,
    ),
    "carlini_wagner": Suite(
        about="Carlini and Wagner's own algorithm, at equal iterations.",
        grid=(("resnet20", 64),),
        norm="l2",
        eps=(),
        entries=(*CW_9_100, Entry("actsec", "carlini_wagner(steps=200, search_steps=9)", OURS, "longer", runs=1)),
        targets=(
            t.no_farther("ours_cw", "cw"),
            t.converged("ours_cw", "longer", 1.02),
            t.faster("ours_cw", "cw", 2),
            t.faster("ours_cw", "art_cw", 10),
        ),
        minutes=3,
    ),
    "one_pixel": Suite(
        about="One pixel of a colour image. Libraries that loop over images get a few of them.",
        grid=(("resnet20", 64),),
        full=(("resnet20", 256),),
        norm="l0",
        eps=(1,),
        entries=(
            Entry("actsec", "one_pixel(mode=fast)", OURS, "fast"),
            Entry("actsec", "one_pixel", OURS, "default", runs=1),
            Entry("actsec", "one_pixel", OURS, runs=1, stand_in="float32"),
            Entry("actsec", "one_pixel", OURS, runs=1, stand_in="bfloat16"),
            Entry("actsec", "one_pixel(mode=exhaustive)", TRUTH, "exhaustive", runs=1),
            Entry("art", "PixelAttack(th=1, es=1)", DOCUMENTED, "art", runs=1, images=4),
            Entry("torchattacks", "OnePixel", DOCUMENTED, runs=1),
            Entry("torchattacks", "OnePixel(steps=100, popsize=400)", BEST, runs=1, images=2),
        ),
        targets=(
            t.no_weaker("fast", "art"),
            t.faster("fast", "art", 100),
            t.share_of("default", "exhaustive", 0.97),
            t.fewer_forwards("default", "exhaustive", 8),
            t.faster("default", "art", 50),
        ),
        minutes=8,
    ),
    "overhead": Suite(
        about="PGD with 40 steps and nobody leaving early, against the same passes of the bare model.",
        grid=(("resnet20", 64), ("mnist_robust", 256), ("digits: cnn", 256)),
        norm="linf",
        eps=(8 / 255,),
        entries=(
            Entry("actsec", "pgd(steps=40)", OURS, "ours", settle=False),
            Entry("bare", "passes(gradients=40, forwards=3)", TRUTH, "bare"),
            Entry("bare", "passes(gradients=40, forwards=3)", TRUTH, "bare_again", seed=1),
        ),
        targets=(
            t.paired("ours", "bare", "bare_again", {"resnet20": 1.05, "mnist_robust": 1.15, "digits: cnn": 1.15}),
        ),
        repeats=9,
        minutes=3,
    ),
    "hidden_kwta": Suite(
        about="k-winners-take-all, an activation function that hides its gradient.",
        grid=(("digits: cnn(activation=kwta)", 128),),
        norm="linf",
        eps=(0.1,),
        entries=hidden(0.1),
        targets=(t.no_weaker("ours", "rival"), t.no_weaker("ours_standard", "rival")),
        minutes=2,
    ),
    "hidden_scaled": Suite(
        about="Logits multiplied by 1,000: the same decisions, a cross-entropy without gradient.",
        grid=(("resnet20 * 1000", 64),),
        norm="linf",
        eps=(8 / 255,),
        entries=hidden(8 / 255),
        targets=(t.no_weaker("ours", "rival"), t.no_weaker("ours_standard", "rival")),
        minutes=2,
    ),
    "activations": Suite(
        about="The digits: two networks, four activation functions.",
        grid=tuple((name, 128) for name in DIGITS),
        norm="linf",
        eps=(0.1,),
        entries=(
            Entry("actsec", "cascade", OURS, "ours"),
            *(entry for entry in pgd_40(0.1) if entry.setting == BEST),
            Entry("autoattack", STANDARD, DOCUMENTED, "standard", runs=1),
        ),
        targets=(t.no_weaker("ours", "pgd_40"), t.no_weaker("ours", "standard")),
        minutes=3,
    ),
    "growth_images": Suite(
        about="How time grows with the number of images, on a model that few examples fall on.",
        grid=tuple(("mnist_robust", n) for n in (64, 250, 1000, 2000)),
        norm="linf",
        eps=(0.1,),
        entries=(
            Entry("actsec", "cascade", OURS, "ours"),
            Entry("actsec", "pgd(steps=40)", OURS),
            *(entry for entry in pgd_40(0.1) if entry.setting == BEST),
        ),
        repeats=3,
        correct=False,
        minutes=3,
        axis="images",
    ),
    "growth_model": Suite(
        about="How time grows with the size of the model: the reference CNN, its channels doubled four times.",
        grid=tuple((f"digits: cnn(channels={channels})", 256) for channels in WIDTHS),
        norm="linf",
        eps=(0.1,),
        entries=(
            Entry("actsec", "cascade", OURS, "ours"),
            Entry("actsec", "pgd(steps=40)", OURS),
            *(entry for entry in pgd_40(0.1) if entry.setting == BEST),
        ),
        repeats=3,
        minutes=2,
        axis="parameters",
    ),
}


def quick(suite: Suite) -> Suite:
    """The same suite on so few images that it ends soon: it shows that everything starts, and measures nothing."""
    grid = tuple((scene, min(n, 6)) for scene, n in suite.grid[:2])
    entries = tuple(replace(e, runs=1, images=None if e.images is None else min(e.images, 1)) for e in suite.entries)
    return replace(suite, grid=grid, entries=entries, repeats=1)


def sized(suite: Suite, images: int | None, *, full: bool = False) -> Suite:
    """The suite with at most so many images; at the sizes that the targets speak of when full."""
    suite = replace(suite, grid=suite.full) if full and suite.full else suite
    return suite if images is None else replace(suite, grid=tuple((s, min(n, images)) for s, n in suite.grid))
