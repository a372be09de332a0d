"""Two pools make a picture: what one streams, the other maps, strip by strip.

A process computes strips of the Mandelbrot set; threads of this process compress them at the same
time, for zlib gives the GIL away. The parts make one PNG file, because each strip's compressed
bytes end with a byte of their own. The slower pool sets the pace: strips are computed a few ahead
of the compressors and no further, so of a picture of any height only few are in memory.
"""

import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from snakepit import Adapter, Pool, Stream, tool

WIDTH, HEIGHT, STRIP, STEPS = 900, 600, 20, 60


class Painter(Adapter):
    """Computes pictures."""

    @tool(streaming=True)
    def paint(self, width: int, height: int, strip: int) -> Iterator[np.ndarray[Any, Any]]:
        """The picture from its top, `strip` rows at a time: how soon each point escapes."""
        real = np.linspace(-2.2, 0.8, width)
        for top in range(0, height, strip):
            imaginary = np.linspace(1, -1, height)[top : top + strip, None] * 1j
            place = real + imaginary
            value, steps = np.zeros_like(place), np.zeros(place.shape, np.uint8)
            for _ in range(STEPS):
                inside = np.abs(value) <= 2
                value[inside] = value[inside] ** 2 + place[inside]
                steps[inside] += 255 // STEPS
            yield steps


class Packer(Adapter):
    """Compresses strips. It keeps nothing, so threads may share it."""

    __thread_safe__ = True

    @tool
    def pack(self, rows: bytes) -> bytes:
        """Raw deflate of some rows, which may be followed by that of others."""
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        return packer.compress(rows) + packer.flush(zlib.Z_FULL_FLUSH)


class Rows(Iterator[dict[str, bytes]]):
    """What the compressors get: a PNG's rows, each after a byte for its filter (none)."""

    def __init__(self, strips: Stream[np.ndarray[Any, Any]]) -> None:
        self.strips = strips
        self.size, self.checksum = 0, 1

    def __next__(self) -> dict[str, bytes]:
        rows = np.pad(next(self.strips), ((0, 0), (1, 0))).tobytes()
        self.size += len(rows)
        self.checksum = zlib.adler32(rows, self.checksum)
        return {"rows": rows}


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file: length, kind, data, checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def main(path: Path) -> None:
    """Write the picture."""
    begin = perf_counter()
    size = {"width": WIDTH, "height": HEIGHT, "strip": STRIP}
    with (
        Pool(Painter, name="paint", pool_size=1) as painter,
        Pool(Packer, name="pack", profile="local", threads_per_worker=2) as packer,
        painter.stream("paint", size, max_chunks=4) as strips,
    ):
        rows = Rows(strips)
        parts = list(packer.map("pack", rows, chunksize=1, buffersize=4))
    end = zlib.compressobj(wbits=-zlib.MAX_WBITS).flush() + struct.pack(">I", rows.checksum)
    data = b"\x78\xda" + b"".join(parts) + end
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0)
    png = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + png)

    print(f"{len(parts)} strips, {rows.size:,} bytes of pixels, {len(data):,} compressed")
    print(f"it is whole: {len(zlib.decompress(data)) == rows.size}")
    print(f"{perf_counter() - begin:.2f} s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder, "mandelbrot.png"))
