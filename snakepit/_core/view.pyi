from collections.abc import Callable
from typing import ParamSpec, TypeVar

from snakepit.pool.futures import Future
from snakepit.pool.local import LocalPool
from snakepit.pool.pool import ProcessPool
from snakepit.pool.terms import Terms
from snakepit.pool.uses import SessionUses

P = ParamSpec("P")
T = TypeVar("T")

class SessionEnds:
    def note_end(self) -> None: ...
    @property
    def ends(self) -> int: ...

class CallView:
    def __init__(
        self, pool: ProcessPool | LocalPool, terms: Terms, executor: object = None
    ) -> None: ...
    @property
    def _pool(self) -> ProcessPool | LocalPool: ...
    @property
    def _terms(self) -> Terms: ...
    @property
    def _uses(self) -> SessionUses: ...
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    def _use_session(self) -> None: ...
    def _note_use(self, ends: int, seconds: float) -> None: ...
