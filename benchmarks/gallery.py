"""python -m benchmarks.gallery: the masking battery against models that only look robust, and honest ones.

python -m benchmarks.gallery list
python -m benchmarks.gallery run                             # all that is missing, cell by cell
python -m benchmarks.gallery run --gallery first --room mnist --seed 0
python -m benchmarks.gallery report                          # runs/gallery -> docs/galleries.md
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import click

from actsec.errors import ActsecError, unknown

OUT = Path("runs/gallery")
_OUT = click.option("--out", default=OUT, show_default=True, type=click.Path(path_type=Path))
_GALLERY = click.option(
    "--gallery", "galleries", multiple=True, help="first or second; all that may be judged when not given."
)
_ROOM = click.option("--room", "rooms", multiple=True, help="One of the rooms; all when not given.")
Task = tuple[str, str, str, int]
"""A cell to make: gallery, room, exhibit, seed."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The masking battery against planted frauds and honest models."""


@main.command(name="list")
def listing() -> None:
    """Every exhibit of every gallery, and every room."""
    from benchmarks.galleries import GALLERIES
    from benchmarks.galleries.rooms import ROOMS

    for name, exhibits in GALLERIES.items():
        for kind in ("fraud", "honest"):
            for exhibit in (e for e in exhibits if e.kind == kind):
                print(f"{name:7s} {kind:7s} {exhibit.name:20s} {exhibit.about}")
    for room in ROOMS.values():
        print(f"room    {room.name:12s} {room.base}, eps {room.eps:.4g}, {room.images} images")


@main.command()
@_GALLERY
@_ROOM
@click.option("--exhibit", "names", multiple=True, help="By name; all when not given.")
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2), show_default=True)
@click.option("--workers", default=1, show_default=True, help="Cells at a time, each in a process and a thread.")
@click.option("--keep", is_flag=True, help="Keep the audits: another battery then judges their attacks anew.")
@_OUT
def run(
    galleries: tuple[str, ...],
    rooms: tuple[str, ...],
    names: tuple[str, ...],
    seeds: tuple[int, ...],
    workers: int,
    keep: bool,
    out: Path,
) -> None:
    """Make every cell that is missing or was judged by another battery; each is stored at once."""
    tasks = chosen(galleries, rooms, names, seeds)
    waiting = [task for task in tasks if not _done(task, out)]
    print(f"{len(tasks)} cells, {len(waiting)} to make", flush=True)
    began = time.perf_counter()
    if workers > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context) as pool:
            futures = [pool.submit(make, task, out, keep) for task in waiting]
            ended = (future.result() for future in as_completed(futures))
            _tell(ended, len(waiting), began)
    else:
        _tell((make(task, out, keep) for task in waiting), len(waiting), began)


@main.command()
@click.option("--to", default=Path("docs/galleries.md"), show_default=True, type=click.Path(path_type=Path))
@_OUT
def report(out: Path, to: Path) -> None:
    """Write the tables and the rates of all cells in OUT, and print what the report tells of each rule."""
    from benchmarks.galleries.audited import read
    from benchmarks.galleries.tables import document, measured, summary

    cells = read(out)
    to.write_text(document(cells))
    rates = "".join(f"    {rule!r}: {counts},\n" for rule, counts in measured(cells).items())
    print(f"{summary(cells)}\nFor actsec/verdict/false_alarms.py:\nMEASURED = {{\n{rates}}}\n\nWritten: {to}")


def chosen(
    galleries: tuple[str, ...], rooms: tuple[str, ...], names: tuple[str, ...], seeds: tuple[int, ...]
) -> list[Task]:
    """The cells asked for, seed by seed, cheap rooms first; of the galleries that may be judged when none is named.

    Raises UnknownName, PlanError.
    """
    from benchmarks.galleries import GALLERIES
    from benchmarks.galleries.frozen import open_to, refuse
    from benchmarks.galleries.rooms import ROOMS

    every = {exhibit.name for exhibits in GALLERIES.values() for exhibit in exhibits}
    for given, known, what in ((galleries, GALLERIES, "gallery"), (rooms, ROOMS, "room"), (names, every, "exhibit")):
        for name in given:
            if name not in known:
                raise unknown(what, name, known)
    for name in galleries:
        refuse(name)
    return [
        (gallery, room, exhibit.name, seed)
        for seed in seeds
        for room in rooms or tuple(ROOMS)
        for gallery in galleries or tuple(filter(open_to, GALLERIES))
        for exhibit in GALLERIES[gallery]
        if room in exhibit.rooms and (not names or exhibit.name in names)
    ]


def make(task: Task, out: Path, keep: bool) -> str:
    """Make one cell and store it; what it says, in a line. A room without its files is skipped."""
    import torch

    from benchmarks.galleries import GALLERIES
    from benchmarks.galleries.audited import judged, write
    from benchmarks.galleries.rooms import stage
    from benchmarks.scenes import Absent

    torch.set_num_threads(1)
    gallery, room, name, seed = task
    exhibit = next(each for each in GALLERIES[gallery] if each.name == name)
    try:
        cell = judged(gallery, exhibit, stage(room, seed, out), out, keep=keep)
    except Absent as why:
        return f"{room:11s} skipped: {why}"
    write(out, cell)
    right = "as it should be" if cell.flagged == (cell.kind == "fraud") else "WRONG"
    rules = " ".join(f"{rule.removeprefix('ACT-')}{'!' if voids else ''}" for rule, _, voids in cell.fired)
    words = f"{cell.state}{'' if cell.believable else ', void'}"
    return f"{room:11s} {seed} {exhibit.kind:7s}{name:20s} {words:18s} {rules:30s} {right} ({cell.seconds:.0f} s)"


def _done(task: Task, out: Path) -> bool:
    from benchmarks.galleries.audited import battery, known

    found = known(out, "-".join(map(str, task)))
    return found is not None and found.battery == battery()


def _tell(lines: object, total: int, began: float) -> None:
    for at, line in enumerate(lines, 1):  # type: ignore[call-overload]  # an iterator of texts
        minutes = (time.perf_counter() - began) / 60
        left = minutes / at * (total - at)
        print(f"[{at}/{total}, {minutes:.1f} min, about {left:.0f} left] {line}", flush=True)


if __name__ == "__main__":
    try:
        main(standalone_mode=True)
    except ActsecError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
