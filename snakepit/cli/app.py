"""The commands and their options, as typer reads them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from snakepit import __version__
from snakepit.cli import configuration
from snakepit.cli.items import NEWLINE, NUL
from snakepit.cli.mapping import Options
from snakepit.cli.runner import Profile, map_lines
from snakepit.cli.target import UsageError

app = typer.Typer(
    name="snakepit",
    help="A fast pool of Python workers.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(configuration.commands)


def run() -> int:
    """Run the command line in ``sys.argv``; typer itself ends usage errors with code 2.

    Raises OSError when the output cannot be written.
    """
    try:
        code = app(prog_name="snakepit", standalone_mode=True)
    except SystemExit as end:
        # typer, and rich for the help, answer a broken pipe with code 1, which is an item's.
        if isinstance(end.__context__, BrokenPipeError):
            raise end.__context__ from None
        code = end.code
    return code if isinstance(code, int) else 0


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"snakepit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command("map")
def _map(
    function: Annotated[
        str, typer.Argument(metavar="MODULE:FUNCTION", help="What to call with each item.")
    ],
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="Where items come from, one after the other; - is stdin, and the default.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="How many workers.", show_default="one a usable CPU"),
    ] = None,
    profile: Annotated[
        Profile,
        typer.Option(help="Worker processes, or threads of this process."),
    ] = Profile.PROCESS,
    as_json: Annotated[
        bool, typer.Option("--json", help="Items and results are one JSON value a line.")
    ] = False,
    print0: Annotated[
        bool,
        typer.Option(
            "--print0",
            "-0",
            help="End each result with a NUL in place of a newline; it may then have line breaks.",
        ),
    ] = False,
    unordered: Annotated[
        bool, typer.Option("--unordered", help="Write results as they come, not in input order.")
    ] = False,
    progress: Annotated[
        bool, typer.Option("--progress", help="Show a progress bar on stderr.")
    ] = False,
    stop_on_error: Annotated[
        bool, typer.Option("--stop-on-error", help="Stop at the first item that fails.")
    ] = False,
    chunksize: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The most items that one call to a worker takes. If the worker dies, its other "
            "items are run again; so with 1, no item is run twice.",
            show_default="what takes 10 ms",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.001, help="The most seconds that an item may take."),
    ] = None,
) -> None:
    """Call a function with each line of the input and write each result as a line.

    An item is a line without its newline, or the JSON value that it holds. Results are written as they become ready: as str() says, None as an empty line, or as JSON. A result whose text has a line break is no line: without --json or --print0 its item fails. What the function itself prints goes to stderr. An item that fails is named on stderr; the others go on.

    Exit code: 0; 1 if an item failed; 2 for a usage error; 130 after Ctrl-C; 141 when nobody reads the output any more.
    """  # noqa: E501 - the help keeps line ends, and wraps by itself
    options = Options(
        as_json=as_json,
        end=NUL if print0 else NEWLINE,
        ordered=not unordered,
        stop_on_error=stop_on_error,
        chunksize=chunksize,
        timeout=timeout,
    )
    try:
        code = map_lines(
            function, files or ["-"], options, workers=workers, profile=profile, progress=progress
        )
    except UsageError as error:
        print(f"snakepit map: {error}", file=sys.stderr)
        code = 2
    raise typer.Exit(code)


@app.command("info")
def _info() -> None:
    """Show what is true here: interpreter, CPUs, shared memory, versions."""
    from snakepit.cli.info import print_facts

    print_facts()


@app.command("dump")
def _dump(
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="PID|NAME",
            help="A pool's name, or the pid of its owner or of one of its workers.",
            show_default="every pool of this user",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
    stacks: Annotated[
        bool, typer.Option("--stacks/--no-stacks", help="With the Python stacks of the workers.")
    ] = True,
    timeout: Annotated[
        float, typer.Option(min=0.0, help="Seconds that a pool's workers may take to answer.")
    ] = 2.0,
) -> None:
    """Show where every worker of a running pool is: task, age, deadline, Python stack.

    Workers are neither stopped nor interrupted, and may be stuck in C code; one that cannot show its stack is listed with the reason.

    Exit code: 0; 1 if there is no such pool; 2 for a usage error.
    """  # noqa: E501 - the help keeps line ends, and wraps by itself
    from snakepit.cli.dump import print_dump

    raise typer.Exit(print_dump(which, as_json=as_json, stacks=stacks, timeout=timeout))


@app.command("clean")
def _clean(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be ended.")
    ] = False,
    instance: Annotated[
        str | None, typer.Option(help="Only of instances of this name.", show_default="all")
    ] = None,
) -> None:
    """End the processes that dead programs left behind: SIGTERM, a second later SIGKILL.

    Only what the process registry proves to be of a program that is gone is ended. Exit code: 0; 1 if a process would not end; 2 if the registry cannot be read.
    """  # noqa: E501 - the help keeps line ends, and wraps by itself
    from snakepit.cli.clean import clean_up

    raise typer.Exit(clean_up(dry_run=dry_run, instance=instance))


_new = typer.Typer(help="Write files to begin with.", no_args_is_help=True)
app.add_typer(_new, name="new")


@_new.callback()
def _new_what() -> None:
    pass


@_new.command("adapter")
def _new_adapter(
    name: Annotated[str, typer.Argument(help="Of the adapter, such as TextTools.")],
    folder: Annotated[
        Path, typer.Option(help="Where to; made if it is not there.", show_default="here")
    ] = Path("."),
) -> None:
    """Write an adapter, its test, and an example; all three run at once.

    Exit code: 0; 2 if there is such a file already, or the name is none, or a module's elsewhere.
    """
    from snakepit.cli.new import write_adapter

    raise typer.Exit(write_adapter(name, folder))
