"""One big array in shared memory: many readers, and writers that change it in place."""

from time import perf_counter

import numpy as np
import numpy.typing as npt

from snakepit import Executor, share, shared_array

Matrix = npt.NDArray[np.float64]

ROWS, COLUMNS, BLOCKS = 4_000, 1_000, 8


def summarise(data: Matrix, rows: slice) -> tuple[float, float]:
    """Mean and standard deviation of some rows; the array itself is never copied."""
    return float(data[rows].mean()), float(data[rows].std())


def try_to_write(data: Matrix) -> str:
    """What a reader is told that writes."""
    try:
        data[0, 0] = 0.0
    except ValueError as error:
        return str(error)
    return "written"


def normalise(data: Matrix, result: Matrix, rows: slice) -> None:
    """Write the rows, with mean 0 and deviation 1, to the same rows of ``result``."""
    block = data[rows]
    result[rows] = (block - block.mean()) / block.std()


def main() -> None:
    """Read, then write, block by block, in all workers at once."""
    blocks = [slice(at, at + ROWS // BLOCKS) for at in range(0, ROWS, ROWS // BLOCKS)]
    values = np.random.default_rng(1).normal(5.0, 3.0, (ROWS, COLUMNS))
    data = share(values)
    result = shared_array((ROWS, COLUMNS), np.float64, writable=True)
    print(f"{data.nbytes / 1e6:.0f} MB in shared memory, {BLOCKS} blocks")

    with Executor(preload=["numpy"]) as executor:
        executor.wait_ready()
        for name, array in (("by reference", data), ("copied", values)):
            sent, begin = executor.stats().bytes_in, perf_counter()
            futures = [executor.submit(summarise, array, rows) for rows in blocks]
            mean = sum(future.result()[0] for future in futures) / BLOCKS
            seconds, sent = perf_counter() - begin, executor.stats().bytes_in - sent
            print(f"the array {name}: mean {mean:.4f}, {seconds:.3f} s, {sent:,} bytes sent")
        print("a reader that writes:", executor.submit(try_to_write, data).result())

        begin = perf_counter()
        for future in [executor.submit(normalise, data, result, rows) for rows in blocks]:
            future.result()
        print(f"normalised in place by the workers: {perf_counter() - begin:.3f} s")
    print(f"seen here: mean {result.mean():.4f}, deviation {result.std():.4f}")


if __name__ == "__main__":
    main()
