"""A worker follows a log that is being written, and streams what is odd in it as it appears.

It keeps a running mean and deviation of each page's times (Welford's method): a request is slow by
the standard of its own page. The stream ends with the log's last line, or when its reader leaves.
"""

import math
import random
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from snakepit import Adapter, Pool, tool

TIMES = {"/": 0.02, "/search": 0.30, "/cart": 0.08}  # seconds that each page takes
REQUESTS, LAST = 3000, "stopped"
BURST, SPAN = 5, 10  # errors, and the seconds of the log within which they are a burst


class Page:
    """What is known of a page so far."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.errors: deque[int] = deque()

    def is_slow(self, seconds: float) -> bool:
        """Whether a time is more than 6 deviations above the mean; learns from it if not."""
        if self.count > 50 and seconds > self.mean + 6 * math.sqrt(self.squares / self.count):
            return True
        self.count += 1
        before, self.mean = self.mean, self.mean + (seconds - self.mean) / self.count
        self.squares += (seconds - before) * (seconds - self.mean)
        return False

    def begins_burst(self, at: int) -> bool:
        """Whether an error at this second makes a burst of those before it."""
        self.errors.append(at)
        while self.errors[0] <= at - SPAN:
            self.errors.popleft()
        return len(self.errors) == BURST


def follow(path: str) -> Iterator[str]:
    """The lines of a growing file, each once it is whole."""
    with open(path, encoding="utf-8") as log:
        line = ""
        while True:
            line += log.readline()
            if line.endswith("\n"):
                yield line.rstrip()
                line = ""
            else:
                time.sleep(0.005)  # half a line, or none: the writer is not so far yet


class LogAnalyser(Adapter):
    """Finds what is odd in the log of a web server."""

    @tool(streaming=True)
    def watch(self, path: str) -> Iterator[str]:
        """Findings, as they are made."""
        pages: dict[str, Page] = {}
        for number, line in enumerate(follow(path)):
            if line == LAST:
                yield f"{number} requests of {len(pages)} pages"
                break
            at, name, status, seconds = line.split()
            page = pages.setdefault(name, Page())
            if status == "500" and page.begins_burst(int(at)):
                yield f"at {at} s: {BURST} errors of {name} within {SPAN} s"
            if page.is_slow(float(seconds)):
                yield f"at {at} s: {name} took {seconds} s, usually {page.mean:.2f} s"


def write_log(path: Path) -> None:
    """Write, in fits and starts, the log of a server that has two bad moments."""
    chance = random.Random(4)
    with path.open("w", encoding="utf-8") as log:  # its buffer may end within a line
        for number in range(REQUESTS):
            name = chance.choice(list(TIMES))
            seconds = TIMES[name] * chance.gauss(1.0, 0.1) * (20 if number == 1700 else 1)
            status = 500 if 2200 <= number < 2260 and name == "/cart" else 200
            log.write(f"{number // 10} {name} {status} {seconds:.3f}\n")
            if number % 50 == 0:
                time.sleep(0.005)
        log.write(LAST + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, Pool(LogAnalyser, pool_size=1) as pool:
        path = Path(folder, "access.log")
        path.touch()
        threading.Thread(target=write_log, args=[path]).start()
        for finding in pool.stream("watch", {"path": str(path)}):
            print(finding)
