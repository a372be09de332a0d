"""Calls into a pool under given terms: what `Executor.options` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from snakepit._core.view import CallView
from snakepit.options import with_hints

if TYPE_CHECKING:
    from snakepit.pool.streams import Stream

__all__ = ["InnerView", "PoolView"]

P = ParamSpec("P")
T = TypeVar("T")


class PoolView(CallView):
    """Calls into a pool under given terms; what `Executor.options` returns."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        from snakepit.pool.travel import refuse_to_travel

        refuse_to_travel("a view of an executor", self._pool.name)

    def _use_session(self) -> None:
        terms, uses = self._terms, self._uses
        if not terms.session:
            return
        ends = uses.ends
        name = str(terms.session.name)  # type: ignore[attr-defined]
        # A worker is kept for a strict session: the store is to tell when that ends.
        session = uses.use_strictly(name)[2] if terms.affinity else uses.known_session(name)
        self._note_use(ends, uses.freshness(session))

    @with_hints
    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | str | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        progress: bool = False,
    ) -> Iterator[Any]:
        """Call `fn` with the items of the iterables; return an iterator (see `Executor.map`)."""
        self._use_session()
        from snakepit.pool.mapping import start_map

        return start_map(
            self._pool,
            self._terms,
            fn,
            iterables,
            timeout,
            chunksize,
            buffersize,
            ordered=ordered,
            progress=progress,
        )

    def stream(
        self, fn: Callable[P, Iterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[T]:
        """Queue the call and return the stream of what it yields (see `Executor.stream`)."""
        self._use_session()
        return self._pool.stream(fn, args, kwargs, self._terms)


class InnerView(PoolView):
    """A pool of threads, seen from inside a task that it runs."""

    __slots__ = ()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> NoReturn:
        """Raise RuntimeError: the pool's owner shuts it down."""
        from snakepit.worker.context import refuse_shutdown

        refuse_shutdown()
