"""A worker is killed while it works: only the task that it was running fails."""

import os
import signal
from collections import Counter

from snakepit import Executor
from snakepit.errors import WorkerCrashedError

FATAL = 7


def work(number: int) -> tuple[int, int]:
    """Return a checksum and the worker's pid; one number is the worker's last."""
    if number == FATAL:
        os.kill(os.getpid(), signal.SIGKILL)
    return sum(n * n % 97 for n in range(50_000 + number)), os.getpid()


def main() -> None:
    """Run 20 tasks, of which one kills its worker."""
    with Executor(2) as executor:
        executor.wait_ready()
        print("workers at first:", executor.worker_pids())
        futures = [executor.submit(work, number) for number in range(20)]
        done: Counter[int] = Counter()
        for number, future in enumerate(futures):
            try:
                done[future.result()[1]] += 1
            except WorkerCrashedError as error:
                print(f"task {number} failed: {error}")
        for pid, count in done.items():
            print(f"worker {pid} completed {count} tasks")
        executor.wait_ready()
        print("workers at last: ", executor.worker_pids())
        stats = executor.stats()
        print(f"{done.total()} results, {stats.crashed} crash, {stats.restarted} restart")


if __name__ == "__main__":
    main()
