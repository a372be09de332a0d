"""Commands about programs: what an adapter has made is kept in a session, and given to it again.

create_program: the tool runs in the session --> what it returns is kept, under its "program_id"
execute_program: the program of args["program_id"] --> the tool runs, with it as `program`
any other: the tool runs in the session
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from snakepit.adapters.tools import name_of_adapter, tools_of, unknown_tool
from snakepit.errors import (
    AdapterError,
    ProgramNotFoundError,
    ToolArgumentError,
    ToolNotFoundError,
)
from snakepit.options import did_you_mean

if TYPE_CHECKING:
    from snakepit.adapters.adapter import Adapter
    from snakepit.adapters.tools import Tool
    from snakepit.pools import Pool
    from snakepit.sessions.session import Session

__all__ = ["run_command"]

CREATE, EXECUTE = "create_program", "execute_program"
ID, PROGRAM = "program_id", "program"


def run_command(
    pool: Pool, session_id: str, command: str, args: Mapping[str, Any], terms: dict[str, Any]
) -> Any:
    """Do what `Pool.execute_program_command` says."""
    if not isinstance(session_id, str):
        raise TypeError(
            f"session_id must be a string, not {session_id!r}: programs are kept in a session"
        )
    if command in (CREATE, EXECUTE):
        tool = _tool(pool.adapter, command)
        if command == EXECUTE:
            args = _with_program(pool, tool, session_id, args)
    value = pool.execute(command, args, session=session_id, **terms)
    if command == CREATE:
        pool.session(session_id).store_program(_id_of(pool.adapter, value, args), value)
    return value


def _tool(adapter: type[Adapter], command: str) -> Tool:
    tool = tools_of(adapter).get(command)
    if tool is None:
        what = (
            f"one that returns a dict with {ID!r}"
            if command == CREATE
            else f"one that takes the parameter {PROGRAM!r}"
        )
        error = unknown_tool(adapter, command)
        raise ToolNotFoundError(
            f"{error}; for this command it needs a tool of that name, {what}", details=error.details
        )
    return tool


def _with_program(pool: Pool, tool: Tool, session_id: str, args: Any) -> dict[str, Any]:
    """Return the arguments with the program that they name."""
    if not tool.signature.takes(PROGRAM):
        raise AdapterError(
            f"the tool {EXECUTE!r} of adapter {name_of_adapter(pool.adapter)} takes no parameter "
            f"{PROGRAM!r}, as which it would be given the stored program: add one",
            details={"adapter": name_of_adapter(pool.adapter), "step": EXECUTE},
        )
    if not isinstance(args, Mapping):
        tool.signature.check(args)  # says what is wrong with them
    given = dict(args)
    if PROGRAM in given:
        raise _bad_argument(PROGRAM, f"is given by the session, by {ID!r}; leave it out", "unknown")
    if ID not in given:
        raise _bad_argument(ID, f"is missing: give that of what {CREATE!r} has returned", "missing")
    name = given[ID]
    if not isinstance(name, str):
        raise _bad_argument(ID, f"must be a string, not {name!r}", "type")
    given[PROGRAM] = _stored(pool, pool.session(session_id), name)
    if not tool.signature.takes(ID):
        del given[ID]
    return given


def _stored(pool: Pool, session: Session, name: str) -> Any:
    """Return a program of the session or else a global one."""
    for get in (session.get_program, pool.session_store.get_global_program):
        with contextlib.suppress(ProgramNotFoundError):
            return get(name)
    known = session.list_programs()
    hint = did_you_mean(name, known) or f"; it has {', '.join(known) or 'none'}"
    raise ProgramNotFoundError(
        f"session {session.id!r} has no program {name!r}, nor is there a global one{hint}. The "
        f"command {CREATE!r} keeps what it returns, for as long as the session lives",
        details={"session": session.id, "program": name},
    )


def _id_of(adapter: type[Adapter], value: Any, args: Mapping[str, Any]) -> str:
    """Return the name under which a program is kept: the tool's choice, or else the caller's."""
    name = value.get(ID) if isinstance(value, Mapping) else None
    if name is None:
        name = args.get(ID)
    if isinstance(name, str) and name:
        return name
    what = f"{ID} {name!r}" if name is not None else f"a {type(value).__name__!r} without {ID!r}"
    raise AdapterError(
        f"the tool {CREATE!r} of adapter {name_of_adapter(adapter)} has returned {what}, so the "
        f"program cannot be kept: have it return a dict whose {ID!r} is text, or take that as an "
        "argument",
        details={"adapter": name_of_adapter(adapter), "step": CREATE},
    )


def _bad_argument(name: str, what: str, problem: str) -> ToolArgumentError:
    return ToolArgumentError(
        f"the argument {name!r} of the tool {EXECUTE!r} {what}",
        details={"tool": EXECUTE, "argument": name, "problem": problem},
    )
