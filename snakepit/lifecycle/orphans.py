"""Leftovers: processes of runs whose owner is dead, which no lifeline could end.

A process is a leftover only if the registry knows its run, the run's owner is dead for certain
(same boot, same pid namespace, and no process with its pid *and* start time), and one of these is
so:

- the registry has its pid and its start time;
- it is in the process group that such a process leads;
- its command line or environment carries the run id, and it started after the owner.

Anything else is a stranger, and is left alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from snakepit.lifecycle import process_killer
from snakepit.lifecycle.database import Database, RunRow, file_in
from snakepit.lifecycle.identity import process_alive, start_time
from snakepit.lifecycle.place import Place
from snakepit.lifecycle.registry import data_dir

__all__ = ["CleanReport", "Leftover", "clean", "find_leftovers"]

logger = logging.getLogger("snakepit")

GRACE = 1.0  # seconds between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Leftover:
    """A process of a dead run. `start`: its start time in clock ticks since the boot."""

    run_id: str
    pid: int
    start: int
    command: str


@dataclass(frozen=True)
class CleanReport:
    """What `clean` found, and what of it is still there."""

    found: list[Leftover]
    left: list[Leftover]


def clean(
    *, folder: Path | None = None, dry_run: bool = False, instance: str | None = None
) -> CleanReport:
    """End what dead runs left behind, SIGTERM then SIGKILL, and strike them out.

    `folder`: the data directory, by default this process's. `dry_run`: only say what would be
    ended. `instance`: only of instances of this name. Raises DataDirError, and sqlite3.Error when
    the registry cannot be read: it is left as it is.
    """
    folder = data_dir() if folder is None else folder
    if not file_in(folder).exists():
        return CleanReport([], [])
    file = Database(folder, replace=False)
    try:
        here = Place.here()
        dead = [
            run
            for run in file.runs()
            if is_dead(run, here) and instance in (None, run.instance_name)
        ]
        return _clean(file, dead, dry_run=dry_run)
    finally:
        file.close()


def _clean(file: Database, dead: list[RunRow], *, dry_run: bool = False) -> CleanReport:
    found = find_leftovers(file, dead)
    if dry_run:
        return CleanReport(found, found)
    left = end_leftovers(found)
    for run in dead:
        if not any(leftover.run_id == run.run_id for leftover in left):
            file.remove_run(run.run_id)
    return CleanReport(found, left)


def is_dead(run: RunRow, here: Place) -> bool:
    """Whether an owner is dead for certain."""
    return run.place == here.text and not process_alive(run.pid, run.start)


def find_leftovers(file: Database, dead: Iterable[RunRow]) -> list[Leftover]:
    """Return the living processes of dead runs, by pid."""
    found: dict[int, Leftover] = {}
    runs = {run.run_id: run.start for run in dead}
    if not runs:
        return []

    def add(run_id: str, pid: int, start: int) -> None:
        command = " ".join(process_killer.get_process_command(pid))
        found.setdefault(pid, Leftover(run_id, pid, start, command))

    for run_id in runs:
        for row in file.processes(run_id):
            if row.pid is None or row.start is None or not process_alive(row.pid, row.start):
                continue
            add(run_id, row.pid, row.start)
            # As long as its leader lives, the group's number cannot be anybody else's.
            for pid in process_killer.group_members(row.pid):
                start = start_time(pid)
                if start is not None and process_alive(row.pid, row.start):
                    add(run_id, pid, start)
    for pid, start, run_id in process_killer.processes_of_runs(runs):
        add(run_id, pid, start)
    return [found[pid] for pid in sorted(found)]


def end_leftovers(leftovers: list[Leftover], grace: float = GRACE) -> list[Leftover]:
    """End processes, SIGTERM then SIGKILL; return those that would not end."""
    left = set(process_killer.end_all([(one.pid, one.start) for one in leftovers], grace))
    return [one for one in leftovers if (one.pid, one.start) in left]


# -- at an owner's start ---------------------------------------------------------------------------


def same_instance(file: Database, run: RunRow) -> list[RunRow]:
    """Return the other owners, living and dead, of the instance that `run` is of."""
    instance = (run.instance_name, run.instance_token)
    return [
        other
        for other in file.runs()
        if other.run_id != run.run_id and (other.instance_name, other.instance_token) == instance
    ]


def tell_rivals(run: RunRow, others: Iterable[RunRow], told: Collection[str]) -> set[str]:
    """Log an error for each living owner with our token, without those `told` of; return their ids.

    The later of two owners learns of the other at its start, the earlier when it next writes.
    """
    rivals = set()
    for other in others:
        if not run.instance_token or other.place != run.place or other.run_id in told:
            continue
        if process_alive(other.pid, other.start):
            rivals.add(other.run_id)
            logger.error(
                "process %d uses the instance token of instance %r as well; both go on, and "
                "neither ends the other's processes: give each its own "
                "SNAKEPIT_INSTANCE_TOKEN",
                other.pid,
                run.instance_name,
            )
    return rivals


def sweep(file: Database, others: Iterable[RunRow]) -> None:
    """Have a thread of its own end what dead runs of these left."""
    here = Place.here()
    dead = [other for other in others if is_dead(other, here)]
    if dead:
        thread = threading.Thread(
            target=_sweep, args=(file.path.parent, dead), name="snakepit-orphans", daemon=True
        )
        thread.start()


def _sweep(folder: Path, dead: list[RunRow]) -> None:
    try:
        file = Database(folder)
        try:
            report = _clean(file, dead)
        finally:
            file.close()
    except Exception:
        logger.warning("could not look for processes that dead runs left behind", exc_info=True)
        return
    for one in report.found:
        logger.warning(
            "ended process %d, left behind by dead run %s: %s", one.pid, one.run_id, one.command
        )
    for one in report.left:
        logger.error("process %d of dead run %s does not end", one.pid, one.run_id)
