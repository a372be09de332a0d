"""Measures a pool in a fresh process that did nothing before: start-up, memory, idle CPU.

A fresh one each time, because a forkserver that was started once stays, and because the owner's own
modules would be part of what its forked workers share.

Peers that can preload get the harness's own tasks preloaded beside numpy, and those tasks do as
little as they can: what the harness imports and runs is not what a worker costs.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

from benches import processes, work
from benches.peers import PEERS, Peer

PRELOAD = ("numpy",)
OWN = (work.__name__,)  # preloaded too, where a peer can
READY_LIMIT = 120.0
SETTLE = 1.0


def run(kind: str, peer: str, workers: int, seconds: float = 0.0) -> dict[str, float]:
    """Measure in a new process; return what `measure` returned there."""
    # By -c there is no main module for spawned workers to import, so that none counts.
    code = f"from {__name__} import main; main()"
    arguments = [kind, peer, str(workers), str(seconds)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=2 * READY_LIMIT,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(kind: str, key: str, workers: int, seconds: float) -> dict[str, float]:
    """Start the peer and measure it.

    Returns `seconds` until all workers had answered; or the PSS in MB of the median `worker` and of
    `all` processes but the owner; or the CPU use of all processes, in `percent` of one core.
    """
    peer = PEERS[key]()
    importlib.import_module(peer.module)  # importing is another question
    begun = time.perf_counter()
    peer.start(workers, (*PRELOAD, *OWN))
    with tempfile.TemporaryDirectory() as folder:
        pids = _all_answered(peer, workers, Path(folder))
    elapsed = time.perf_counter() - begun
    try:
        if kind == "start":
            return {"seconds": elapsed}
        time.sleep(SETTLE)
        if kind == "memory":
            shares = sorted(pss(pid) for pid in pids)
            return {"worker": shares[len(shares) // 2], "all": sum(map(pss, _children()))}
        before, begun = _cpu_seconds(), time.perf_counter()
        time.sleep(seconds)
        return {"percent": 100 * (_cpu_seconds() - before) / (time.perf_counter() - begun)}
    finally:
        peer.close()


def _all_answered(peer: Peer, workers: int, folder: Path) -> set[int]:
    """Run one call on every worker at the same time; return the workers' pids."""
    gate = folder / "gate"
    os.mkfifo(gate)
    handles = [peer.submit(work.check_in, str(folder), PRELOAD) for _ in range(workers)]
    deadline = time.monotonic() + READY_LIMIT
    while len(os.listdir(folder)) <= workers:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(os.listdir(folder)) - 1} of {workers} workers are ready")
        time.sleep(0.001)
    # For reading too: a FIFO opens for writing alone only when it has a reader.
    with open(gate, "r+b", buffering=0):
        pids = {handle.result() for handle in handles}
    if len(pids) != workers:
        raise RuntimeError(f"{len(pids)} workers answered, not {workers}")
    return pids


def _children() -> list[int]:
    return [process.pid for process in processes.descendants()]


def pss(pid: int) -> float:
    """Return the proportional set size of a process, in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no Pss in /proc/{pid}/smaps_rollup")


def _cpu_seconds() -> float:
    """Return the CPU time, user and system, of this process and its descendants."""
    return sum(map(_cpu_seconds_of, [os.getpid(), *_children()]))


def _cpu_seconds_of(pid: int) -> float:
    """Return a process's CPU time, from its threads' schedstat: utime and stime tick in 10 ms."""
    try:
        threads: Iterable[Path] = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except FileNotFoundError:
        return 0.0


def main() -> None:
    """Read kind, peer, workers and seconds from the command line; print what was measured."""
    kind, key, workers, seconds = sys.argv[1:5]
    try:
        answer = measure(kind, key, int(workers), float(seconds))
    except Exception:
        traceback.print_exc()
        processes.kill_descendants()
        os._exit(1)  # a pool that failed may wait for its workers at exit, without end
    print(json.dumps(answer))
