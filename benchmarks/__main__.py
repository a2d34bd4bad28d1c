"""python -m benchmarks: our attacks beside those of other libraries. See benchmarks/README.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from actsec.errors import ActsecError, unknown

NO_DEPENDENCIES = ("torchattacks", "adv-lib", "git+https://github.com/fra31/auto-attack")
"""torchattacks pins a requests that no longer builds, adv-lib a plotting server; AutoAttack is on no index."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Our attacks beside those of other libraries: same models, same images, one judge."""


@main.command()
def setup() -> None:
    """Install the libraries that cannot be installed as they declare themselves, without their dependencies."""
    for what in NO_DEPENDENCIES:
        command = [sys.executable, "-m", "pip", "install", "--no-deps", what]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own list
        said = (done.stderr or done.stdout).strip().splitlines()
        words = ("fatal:", "No matching distribution", "error")
        reason = next((line for word in words for line in said if word in line), "no reason given")
        print(f"{what}: {'installed' if done.returncode == 0 else f'not installed: {reason.strip()}'}")
    from benchmarks.peers import versions

    for name, version in versions().items():
        print(f"{name:14s} {version}")


@main.command(name="list")
def listing() -> None:
    """Every suite: what it runs, where, and how long it takes on two cores."""
    from benchmarks.suites import SUITES

    for name, suite in SUITES.items():
        print(f"{name:17s} about {suite.minutes:g} min  {suite.about}")
        print(f"{'':17s} on {', '.join(f'{scene} [{n}]' for scene, n in suite.grid)}")
        for entry in suite.entries:
            print(f"{'':19s} {entry.peer} {entry.spec} ({entry.setting})")


@main.command()
@click.argument("suites", nargs=-1)
@click.option("--repeats", default=5, show_default=True, help="Timed runs of each contender.")
@click.option("--cap", default=60.0, show_default=True, help="Seconds after which a contender is not run again.")
@click.option("--images", type=int, help="At most so many images in every suite.")
@click.option("--threads", type=int, help="Threads torch may use; recorded. Default: torch's own choice.")
@click.option("--device", default="cpu", show_default=True, help="Where the models lie: cpu or cuda.")
@click.option("--full", is_flag=True, help="The sizes the targets speak of where the default is smaller (one_pixel).")
@click.option("--quick", is_flag=True, help="A few images and one run: shows that everything starts, measures nothing.")
@click.option("--out", default="runs/benchmarks", show_default=True, type=click.Path(path_type=Path))
def run(
    suites: tuple[str, ...],
    repeats: int,
    cap: float,
    images: int | None,
    threads: int | None,
    device: str,
    full: bool,
    quick: bool,
    out: Path,
) -> None:
    """Run SUITES (all when none is named), then print the table; cells already in OUT are not run again."""
    import torch

    from benchmarks import running
    from benchmarks import suites as table
    from benchmarks.measuring import environment
    from benchmarks.results import opened

    if threads is not None:
        torch.set_num_threads(threads)
    chosen = {}
    for name in suites or tuple(table.SUITES):
        if name not in table.SUITES:
            raise unknown("suite", name, table.SUITES)
        suite = table.sized(table.SUITES[name], images, full=full)
        chosen[name] = table.quick(suite) if quick else suite
    results = opened(out, environment(device))
    try:
        running.run(chosen, results, running.Options(1 if quick else repeats, cap, device))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here")
    _write(chosen, out)


@main.command(name="report")
@click.argument("folder", type=click.Path(path_type=Path))
def rendered(folder: Path) -> None:
    """Print the table and draw the plot again from FOLDER's results.json."""
    from benchmarks.suites import SUITES, sized

    _write({name: sized(suite, None, full=True) for name, suite in SUITES.items()}, folder)


def _write(suites: dict, folder: Path) -> None:  # type: ignore[type-arg]  # Suite is not imported for --help
    from benchmarks.plots import draw
    from benchmarks.results import opened
    from benchmarks.tables import report

    results = opened(folder, None)
    text = report(suites, results)
    (folder / "table.md").write_text(text)
    print(f"\n{text}")
    plot = draw(suites, results)
    print(f"\nWritten: {folder / 'results.json'}, {folder / 'table.md'}" + (f", {plot}" if plot else ""))


def start() -> None:
    """Suites may be named without ``run``: python -m benchmarks linf."""
    known = {*main.commands, "-h", "--help"}
    if not any(word in known for word in sys.argv[1:2]):
        sys.argv.insert(1, "run")
    try:
        main(standalone_mode=True)
    except ActsecError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    start()
