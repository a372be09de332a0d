"""A scikit-learn model, trained once, serves from two processes and from two threads of one.

`preload()` trains it in the template, the process from which workers are forked: they share its
memory, and start in no time. Its predictions give the GIL away, so threads run them at once.
"""

import os
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from snakepit import Adapter, Pool, tool

BATCH, ROUNDS = 50, 8


def load_halves() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """The 8×8 images of written digits and what they are: one half to learn from, one to test."""
    images, digits = load_digits(return_X_y=True)
    half = len(digits) // 2
    return (images[:half], digits[:half]), (images[half:], digits[half:])


class Reader(Adapter):
    """Reads written digits. Threads may share it: a trained model does not change."""

    __thread_safe__ = True

    model: ClassVar[SVC]
    trained_by: ClassVar[int]

    @classmethod
    def preload(cls) -> None:
        """Train the model."""
        images, digits = load_halves()[0]
        cls.model = SVC(gamma=0.001).fit(images, digits)
        cls.trained_by = os.getpid()

    @tool
    def read(self, images: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """The digits that some images show."""
        digits: npt.NDArray[np.int64] = self.model.predict(images)
        return digits

    @tool
    def is_shared(self) -> bool:
        """Whether the model was trained by the process that this one was forked from."""
        return self.trained_by == os.getppid()


def serve(name: str, pool: Pool) -> None:
    """Have a pool read the test images, several times over, and print how well it did."""
    images, digits = load_halves()[1]
    batches = [{"images": images[at : at + BATCH]} for at in range(0, len(images), BATCH)]
    with pool:
        pool.await_ready(60)
        found = np.concatenate(list(pool.map("read", batches)))
        accuracy = np.mean(found == digits)

        begin = perf_counter()
        answers = pool.map("read", batches * ROUNDS, chunksize=1)
        count = sum(len(answer) for answer in answers)
        rate = count / (perf_counter() - begin)
        shared = "in its template" if pool.execute("is_shared") else "in each worker"
    print(f"{name}: accuracy {accuracy:.3f}, {rate:,.0f} images/s, trained {shared}")


def main() -> None:
    """Serve the same adapter in both ways."""
    serve("2 processes", Pool(Reader, pool_size=2))
    serve(
        "1 process of 2 threads", Pool(Reader, profile="thread", pool_size=1, threads_per_worker=2)
    )


if __name__ == "__main__":
    main()
