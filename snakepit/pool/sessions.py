"""The sessions of a pool: its store, and what workers may ask of it."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from snakepit.errors import (
    HostToolNotFoundError,
    PoolShutdownError,
    SessionNotFoundError,
)
from snakepit.options import did_you_mean
from snakepit.pool.terms import session_name, session_number

if TYPE_CHECKING:
    from snakepit.pool.terms import SessionName
    from snakepit.sessions.session import Session
    from snakepit.sessions.store import SessionStore
    from snakepit.sessions.tools import HostTool

# What a worker may call of its session, by the method's name; quick, and without code of users.
METHODS = (
    "register_variable",
    "compare_and_set_variable",
    "delete_variable",
    "list_variables",
    "get_variables",
    "set_variables",
    "store_program",
    "get_program",
    "update_program",
    "delete_program",
    "list_programs",
)

# What is asked for all the time, straight of a session that is known.
QUICKEST = ("get", "read", "set")
MOST_KNOWN = 1024


@functools.cache
def quickest() -> dict[str, Callable[..., Any]]:
    """Return the functions for these topics, which take the session itself."""
    from snakepit.sessions.session import Session  # Lazily: most pools have none.

    return {
        "get": Session.get_variable,
        # A list, which travels by the quicker codec.
        "read": lambda session, name: list(session.read_variable(name)),
        "set": Session.set_variable,
    }


class SessionDesk:
    """Keeps the store, made when first wanted unless it is given, and answers for its sessions.

    `known`: where to keep the sessions that workers ask about, by their keys. `pool`: its name.

    `note_change(key)` is called after each change of a session's variables, before anybody hears of
    it, `note_end(key)` when a session has ended, under a lock: it must be quick, and wait for none.
    """

    def __init__(
        self,
        store: SessionStore | None,
        note_change: Callable[[int], object],
        note_end: Callable[[int], object],
        known: dict[int, Session] | None = None,
        *,
        pool: str,
    ) -> None:
        self._pool = pool
        self._given = store
        self._store: SessionStore | None = None
        self._note_change = note_change
        self._note_end = note_end
        # Re-entrant: a signal handler may come here in the middle.
        self._lock = threading.RLock()
        self._forget: list[Callable[[], None]] = []
        self.on_ended: Callable[[str], object] | None = None  # who else hears of a session's end
        self.on_store: Callable[[], object] | None = None  # who hears that there is a store now
        # Those of strict calls, by their keys: which of an id a worker is kept for.
        self._strict: dict[int, Session] = {}
        self._closed = False
        self.handlers = self._make_handlers()
        # Sessions that workers asked about, by their keys; what ended is found out when it is used.
        # Their names are held beside, so that no other id can get the same key meanwhile.
        self.known: dict[int, Session] = {} if known is None else known
        self.on_file = store is not None and store.get_stats()["backend"] != "memory"
        self._names: dict[int, SessionName] = {}
        if store is not None:
            self._adopt(store)

    @property
    def store(self) -> SessionStore:
        """The store of the pool's sessions."""
        store = self._store
        if store is None:
            from snakepit.sessions.store import SessionStore

            with self._lock:
                if self._closed:
                    raise self._shut_down()
                if self._store is None:
                    self._adopt(SessionStore())
                store = self._store
        assert store is not None
        return store

    def _shut_down(self) -> PoolShutdownError:
        return PoolShutdownError(
            f"pool {self._pool!r} has been shut down, and its sessions with it; make another, with "
            "a session_store of yours for sessions that outlive it",
            details={"pool": self._pool},
        )

    def _adopt(self, store: SessionStore) -> None:
        # The store may be used by several pools and outlive them.
        note = weakref.WeakMethod(self._changed)

        def changed(session: str) -> None:
            method = note()
            if method is not None:
                method(session)

        end = weakref.WeakMethod(self._ended)

        def ended(session: str) -> None:
            method = end()
            if method is not None:
                method(session)

        self._forget = [store.on_change(changed), store.on_end(ended)]
        self._store = store
        if self.on_store is not None:
            self.on_store()

    def _changed(self, session: str) -> None:
        self._note_change(session_number(session))

    def begin_strict(self, key: int, session: Session) -> None:
        """A strict call is of this session: forget what one before it of the same id has left.

        That it has ended may be heard later, for its id is free before anybody hears of it.
        """
        if self._strict.get(key) is session:
            return
        with self._lock:
            if self._strict.get(key) is not session:
                self._note_end(key)
                self._strict[key] = session

    def keep_strict(self, key: int, name: str) -> None:
        """Have the session of a strict call that runs, also if it has ended since it was made."""
        session = self.session(name)
        with self._lock:
            self._strict.setdefault(key, session)

    def _ended(self, session: str) -> None:
        key = session_number(session)
        with self._lock:
            present = self._strict.get(key)
            # If that is alive, the one that has ended came before it, and is forgotten.
            if present is None or not present.alive:
                self._strict.pop(key, None)
                self._note_end(key)
        if self.on_ended is not None:
            self.on_ended(session)

    def close(self) -> None:
        """Close a store that was made here; leave one that was given."""
        with self._lock:
            self._closed = True
            store = self._store
            forget, self._forget = self._forget, []
        for hook in forget:
            hook()
        if store is not None and self._given is None:
            store.close()

    def session(self, session_id: str | None) -> Session:
        """Return a session, made when it is new. Raises SessionNotFoundError, SessionQuotaError."""
        if session_id is None:
            raise SessionNotFoundError(
                "the call that asks belongs to no session, or its session is not in use any more; "
                "submit it with options(session=...)"
            )
        # Plain: who keeps it must not keep the name in use.
        return self.store.ensure_session(str(session_id))

    def owned(self, session_id: str) -> Session:
        """Return a session for the owner. Raises PoolShutdownError once the store is closed."""
        if self._closed:
            raise self._shut_down()
        return self.store.ensure_session(session_id)

    @property
    def has_store(self) -> bool:
        """Whether there is a store yet."""
        return self._store is not None

    def find(self, session_id: str) -> Session | None:
        """Use a session and return it; None if there is none."""
        return None if self._store is None else self._store._find(session_id)

    def know(self, key: int) -> None:
        """Know a session by its key from now on, made when it is new; not one that has no name."""
        name = session_name(key)
        if name is None:
            return
        if len(self.known) >= MOST_KNOWN:
            self.known.clear()
            self._names.clear()
        self._names[key] = name
        self.known[key] = self.store.ensure_session(str(name))

    # -- for workers -------------------------------------------------------------------------------

    def _make_handlers(self) -> dict[str, Callable[..., Any]]:
        """Return the quick handlers, by topic."""
        found: dict[str, Callable[..., Any]] = {
            "id": self._id,
            "metadata": lambda session_id: self.session(session_id).metadata,
            "tools": self._tools,
            "swap": self._swap,
        }
        for name in METHODS:
            found[name] = self._caller(name)
        for topic in QUICKEST:
            found[topic] = self._quickest(topic)
        return found

    def _quickest(self, topic: str) -> Callable[..., Any]:
        return lambda session_id, *args: quickest()[topic](self.session(session_id), *args)

    def _caller(self, name: str) -> Callable[..., Any]:
        return lambda session_id, *args: getattr(self.session(session_id), name)(*args)

    def _swap(self, session_id: str | None, *args: Any) -> list[Any]:
        return self.session(session_id)._swap_variable(*args)

    def _id(self, session_id: str | None) -> str | None:
        return None if session_id is None else str(session_id)

    def _tools(self, session_id: str | None) -> list[tuple[str, str, Any]]:
        tools = self.session(session_id).tools
        return [
            (name, tool.description, tool.parameters)
            for name, tool in sorted(tools.items())
            if tool.exposed
        ]

    def exposed_tool(self, session_id: str | None, name: str) -> HostTool:
        """Return a host tool that workers may call. Raises HostToolNotFoundError."""
        tools = self.session(session_id).tools
        tool = tools.get(name)
        if tool is not None and tool.exposed:
            return tool
        # One that is not exposed is not told apart from one that is not there.
        known = sorted(known for known, tool in tools.items() if tool.exposed)
        raise unknown_tool(session_id, name, known)


def unknown_tool(session_id: str | None, name: object, known: list[str]) -> HostToolNotFoundError:
    """Return the error for a host tool that is not there, with the nearest one that is."""
    hint = did_you_mean(name, known) or f"; it has {', '.join(known) or 'none'}"
    return HostToolNotFoundError(
        f"session {session_id!r} has no host tool {name!r} for workers{hint}",
        details={"session": session_id, "tool": str(name), "tools": known},
    )
