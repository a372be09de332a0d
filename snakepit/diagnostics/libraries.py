"""What is known about the libraries that adapters use: threads, the GIL, and who says so.

Only what a source states is here; where none was found the answer is "unknown", not a guess. Each
source was read on the day that stands with it, in the version that was at hand on that day: look
again before you rely on it.

- Thread safety is the library's own statement, in its documentation or its issue tracker.
- Modules of the standard library are part of Python, and support every build that it has. Few of
  them say anything of threads; only those are listed.
- The first version that supports the free-threaded build is from the compatibility table of the
  py-free-threading guide, which is kept by hand; it names no version for what was never released.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

__all__ = ["LIBRARIES", "Library", "Source", "needing_care"]

Threads = Literal["thread_safe", "conditional", "not_thread_safe", "unknown"]


@dataclass(frozen=True)
class Source:
    """Where a statement stands, and when it was read there."""

    url: str
    read: str


READ = "2026-11-28"
TRACKER = Source(
    "https://github.com/Quansight-Labs/free-threaded-compatibility/blob/"
    "00304ccd7b49e237ba41e369affc398fa03cb70e/docs/tracking.md",
    READ,
)


@dataclass(frozen=True)
class Library:
    """One library.

    `threads`: "thread_safe" (threads with objects of their own may use it), "conditional" (as
    `note` says), "not_thread_safe", or "unknown". `free_threaded_since`: the first version that
    supports the free-threaded build, None if none was known; `pure`: it has no extension modules,
    so that the build does not matter; `standard`: it is part of Python. `releases_gil`: most of its
    computing leaves the GIL to others.
    """

    name: str
    threads: Threads
    note: str
    source: Source
    module: str = ""
    free_threaded_since: str | None = None
    pure: bool = False
    releases_gil: bool = False
    standard: bool = False

    @property
    def import_name(self) -> str:
        """The name of its module."""
        return self.module or self.name


def _stated(url: str) -> Source:
    return Source(url, READ)


def _tracked(name: str, since: str | None = None, module: str = "", note: str = "") -> Library:
    """A library of which only the support for the free-threaded build is known."""
    note = note or "no statement about threads was found"
    return Library(name, "unknown", note, TRACKER, module, since)


def _standard(
    name: str, threads: Threads, note: str, url: str, *, releases_gil: bool = False
) -> Library:
    """A module of the standard library."""
    source = Source(url, "2026-11-29")
    return Library(name, threads, note, source, releases_gil=releases_gil, standard=True)


_RELEASING = "https://docs.python.org/3/c-api/init.html#releasing-the-gil-from-extension-code"
_COMPRESSED_FILES = (
    "https://github.com/python/cpython/commit/695d47b51e3e197de5448a1eb2f618bef6d59ac8"
)

_ALL = (
    _standard(
        "bz2",
        "thread_safe",
        "a BZ2File that threads share needs a lock",
        _COMPRESSED_FILES,
        releases_gil=True,
    ),
    _standard(
        "hashlib",
        "thread_safe",
        "hashing of more than 2047 bytes at a time leaves the GIL to others",
        _RELEASING,
        releases_gil=True,
    ),
    _standard(
        "lzma",
        "thread_safe",
        "an LZMAFile that threads share needs a lock",
        _COMPRESSED_FILES,
        releases_gil=True,
    ),
    _standard(
        "sqlite3",
        "conditional",
        "a connection is for the thread that made it; with check_same_thread=False others may use "
        "it, and writes need a lock",
        "https://docs.python.org/3/library/sqlite3.html#sqlite3.connect",
    ),
    _standard(
        "ssl",
        "conditional",
        "an SSLContext may be shared by threads, unless it is changed once a connection uses it",
        "https://github.com/python/cpython/pull/118597",
    ),
    _standard(
        "tkinter",
        "conditional",
        "calls of other threads are run by the one that made the Tk object, and fail where that "
        "does not run the event loop",
        "https://docs.python.org/3/library/tkinter.html#threading-model",
    ),
    _standard(
        "zlib",
        "thread_safe",
        "compressing leaves the GIL to others",
        _RELEASING,
        releases_gil=True,
    ),
    Library(
        "boto3",
        "conditional",
        "sessions and resources may not be shared by threads",
        _stated("https://boto3.amazonaws.com/v1/documentation/api/1.19.2/guide/session.html"),
        pure=True,
    ),
    Library(
        "h5py",
        "thread_safe",
        "one lock for the whole library: calls from several threads run one at a time",
        _stated("https://docs.h5py.org/en/stable/threads.html"),
        free_threaded_since="3.16.0",
    ),
    Library(
        "jax",
        "conditional",
        "its functions may be called from several threads; traced values may not be shared",
        _stated(
            "https://github.com/jax-ml/jax/blob/"
            "1242ba3284dba9f79216f80f211bbd862da371ed/docs/concurrency.rst"
        ),
        free_threaded_since="0.5.1",
    ),
    Library(
        "matplotlib",
        "not_thread_safe",
        "known races; at best separate figures in separate threads with the Agg backend",
        _stated(
            "https://github.com/matplotlib/matplotlib/blob/"
            "1307f7e7d2ecae4a1f9907e5eeaad1b902468d3e/doc/users/faq.rst"
        ),
        free_threaded_since="3.9.0",
    ),
    Library(
        "numba",
        "conditional",
        "functions with parallel=True need the tbb or omp layer: workqueue is not thread-safe",
        _stated("https://numba.readthedocs.io/en/0.62.0/user/threading-layer.html"),
        free_threaded_since="0.65.0",
    ),
    Library(
        "numpy",
        "thread_safe",
        "an array that several threads use must not be changed without a lock",
        _stated("https://numpy.org/doc/stable/reference/thread_safety.html"),
        free_threaded_since="2.1.0",
        releases_gil=True,
    ),
    Library(
        "onnxruntime",
        "conditional",
        "InferenceSession.run may be called from several threads",
        _stated(
            "https://github.com/microsoft/onnxruntime/commit/"
            "674afbe1cc324883d1e388102430154dc42ec12e"
        ),
    ),
    Library(
        "pandas",
        "not_thread_safe",
        "not entirely thread-safe: copying a DataFrame that threads share needs a lock",
        _stated("https://pandas.pydata.org/docs/user_guide/gotchas.html#thread-safety"),
        free_threaded_since="2.2.3",
    ),
    Library(
        "pillow",
        "thread_safe",
        "an image that several threads use must be loaded first, and not be changed",
        _stated("https://pillow.readthedocs.io/en/latest/handbook/thread-safety.html"),
        module="PIL",
        free_threaded_since="11.0.0",
        releases_gil=True,
    ),
    Library(
        "psycopg",
        "conditional",
        "connections may be shared by threads, and so are their transactions; cursors may not",
        _stated("https://psycopg.org/psycopg3/docs/advanced/async.html"),
    ),
    Library(
        "redis",
        "conditional",
        "clients may be shared by threads; PubSub and Pipeline objects may not",
        _stated("https://redis.readthedocs.io/en/stable/advanced_features.html"),
        pure=True,
    ),
    Library(
        "requests",
        "conditional",
        "nothing is promised for a Session that threads share: give each thread its own",
        _stated("https://github.com/psf/requests/issues/2766"),
        pure=True,
    ),
    Library(
        "scikit-learn",
        "unknown",
        "free-threaded Python is supported as an experiment; no statement about sharing an "
        "estimator was found",
        _stated("https://zenodo.org/records/14340513"),
        module="sklearn",
        free_threaded_since="1.6.0",
    ),
    Library(
        "scipy",
        "thread_safe",
        "objects with a state of their own should not be shared by threads",
        _stated("https://docs.scipy.org/doc/scipy-1.18.0/tutorial/thread_safety.html"),
        free_threaded_since="1.15.0",
        releases_gil=True,
    ),
    Library(
        "sqlalchemy",
        "conditional",
        "a Session is for one thread at a time: give each its own",
        _stated("https://docs.sqlalchemy.org/en/20/orm/session_basics.html"),
        free_threaded_since="2.0.45",
    ),
    Library(
        "tables",
        "not_thread_safe",
        "file handles may not be shared by threads, and opening and closing needs a lock",
        _stated(
            "https://github.com/PyTables/PyTables/blob/master/doc/source/cookbook/threading.rst"
        ),
        free_threaded_since="3.11.0",
    ),
    Library(
        "torch",
        "conditional",
        "several threads may run a model's forward pass; its own threads are shared by them",
        _stated("https://pytorch.org/docs/2.1/notes/cpu_threading_torchscript_inference.html"),
        free_threaded_since="2.6.0",
    ),
    Library(
        "xgboost",
        "conditional",
        "prediction with tree boosters, since 1.4; not while another thread trains or sets "
        "parameters",
        _stated(
            "https://github.com/dmlc/xgboost/blob/"
            "0a719403716ce48e52a4c8e73e5a55e66342e9a7/doc/prediction.rst"
        ),
    ),
    _tracked("aiohttp", "3.13.0"),
    _tracked("cryptography", "46.0.0"),
    _tracked("grpcio", module="grpc"),
    _tracked("lxml"),
    _tracked("msgpack", note="wheels are there since 1.1.2, but the work is not finished"),
    _tracked("numexpr", "2.11.0"),
    _tracked("opencv-python", module="cv2"),
    _tracked("orjson"),
    _tracked("polars"),
    _tracked("protobuf", module="google.protobuf"),
    _tracked("psutil", "7.1.2"),
    _tracked("pyarrow", "18.0.0"),
    _tracked("pydantic", "2.11.0"),
    _tracked("pyyaml", "6.0.3", module="yaml"),
    _tracked("scikit-image", "0.25.2", module="skimage"),
    _tracked("shapely", "2.1.0"),
    _tracked("spacy"),
    _tracked("statsmodels"),
    _tracked("tokenizers"),
)

LIBRARIES: dict[str, Library] = {library.name: library for library in _ALL}


def needing_care(modules: Container[str]) -> dict[str, str]:
    """Return which of the libraries whose modules are among these threads may not freely use.

    By name, with what is to be minded.
    """
    return {
        library.name: library.note
        for library in _ALL
        if library.threads in ("conditional", "not_thread_safe") and library.import_name in modules
    }
