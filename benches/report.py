"""The report of one run: what it ran on, the bars, a table for each question."""

from collections.abc import Callable
from dataclasses import dataclass

from benches import text
from benches.bars import PPE, judge
from benches.peers import PEERS
from benches.results import Results

Show = Callable[[float], str]

METHOD = (
    "Every question runs in a process of its own, in sweeps; a sweep measures all peers one after "
    "the other, each warm, with only one pool alive. The figures of the sweeps are put together; "
    "tables show medians unless they name a quantile. "
    "Pools have {workers} workers unless the table says otherwise, and start by forkserver if they "
    "can. "
    "Ratios in parentheses are to ProcessPoolExecutor in the same column: 2× is twice as good. "
    "KB and MB of arrays are powers of 1024; GB/s are 10^9 bytes a second."
)


@dataclass(frozen=True)
class Column:
    """One case of a question, or one quantile of it."""

    header: str
    case: str
    share: float = 0.5
    nbytes: int = 0


@dataclass(frozen=True)
class Table:
    """A question's figures, a peer each row; `show` turns a figure, in seconds, into text."""

    question: str
    title: str
    columns: tuple[Column, ...]
    show: Show = text.seconds
    base: str = PPE
    ratios: bool = True
    remark: str = ""


def _rate(seconds: float) -> str:
    return f"{text.amount(1 / seconds)}/s"


def _columns(*cases: str, prefix: str = "") -> tuple[Column, ...]:
    return tuple(Column(case, f"{prefix}{case}") for case in cases)


_ARRAYS = (
    ("10 KB", 10 * 1024),
    ("100 KB", 100 * 1024),
    ("1 MB", 1024**2),
    ("8 MB", 8 * 1024**2),
    ("64 MB", 64 * 1024**2),
)


def _array_table(direction: str, title: str, remark: str = "") -> Table:
    columns = tuple(Column(label, f"{direction} {label}", nbytes=size) for label, size in _ARRAYS)
    return Table("arrays", title, columns, remark=remark)


TABLES = (
    Table(
        "tools",
        "Tools of an adapter",
        (
            Column("no-op, p50", "no-op"),
            Column("echo of a word, p50", "echo"),
            Column("the same in a session, p50", "echo, session"),
            Column("echo of 1 KB, 8 callers, 2 workers", "1 KB, 8 callers"),
        ),
        base="snakepit",
        remark="One worker and one caller, but in the last column: seconds a call there.",
    ),
    Table(
        "latency",
        "No-op round trip",
        (Column("p50", "no-op"), Column("p99", "no-op", 0.99)),
        remark="submit().result() in a closed loop.",
    ),
    Table(
        "throughput",
        "No-op tasks a second",
        _columns("no-op"),
        _rate,
        remark="20,000 submitted, then gathered.",
    ),
    Table(
        "map",
        "Tiny calls a second through map",
        _columns("best chunk size", "chunks of 256"),
        _rate,
        remark="200,000 items.",
    ),
    _array_table(
        "in", "Arrays in", "The answer is a scalar. memcpy: into memory that was touched before."
    ),
    _array_table("out", "Arrays out"),
    _array_table("both", "Arrays there and back", "Counted once, though they travel twice."),
    Table(
        "arena",
        "An array that lies in shared memory already",
        _columns("1 MB", "64 MB", "1 GB"),
        ratios=False,
    ),
    Table(
        "startup",
        "Until all workers have answered, numpy imported",
        _columns("2 workers", "16 workers", "100 workers"),
    ),
    Table(
        "memory",
        "Memory of an idle worker with numpy (PSS)",
        _columns("2 workers", "16 workers"),
        lambda value: f"{text.significant(value)} MB",
    ),
    Table(
        "preload",
        "Memory of a worker beyond what its adapter's preload() holds (PSS)",
        _columns("8 workers"),
        lambda value: f"{text.significant(value)} MB",
        ratios=False,
    ),
    Table(
        "idle",
        "CPU of an idle pool, % of a core",
        _columns("16 workers"),
        lambda value: f"{text.significant(value)} %",
        ratios=False,
    ),
    Table(
        "blocking",
        "No-ops beside a task that takes one of two workers for a second",
        (
            Column("sleeps, p50", "a task sleeps"),
            Column("p99", "a task sleeps", 0.99),
            Column("max", "a task sleeps", 1.0),
            Column("computes, p50", "a task computes"),
            Column("p99", "a task computes", 0.99),
            Column("max", "a task computes", 1.0),
        ),
        ratios=False,
        remark="1,000 no-ops in bursts of ten, each timed from submit() to its callback.",
    ),
    Table(
        "payload",
        "Round trip of a no-op by the size of its argument (bytes)",
        _columns("10 B", "100 B", "1 kB", "10 kB", "100 kB", "1 MB"),
    ),
    Table(
        "pending",
        "Time a task by the number that wait",
        _columns("100", "1,000", "10,000", "100,000", "1,000,000"),
    ),
    Table(
        "affinity",
        "Round trip of a no-op in one of 10,000 sessions",
        (
            Column("no session", "none beside hint"),
            Column("hint", "hint"),
            Column("no session", "none beside strict"),
            Column("strict", "strict"),
            Column("no session, one worker", "none beside strict, one worker"),
            Column("strict, one worker", "strict, one worker"),
        ),
    ),
    Table(
        "streams",
        "Small chunks of a stream a second",
        _columns("small chunks"),
        _rate,
        "mp.Queue",
        remark="Integers, from one generator to one reader.",
    ),
    Table(
        "streams",
        "The first chunk of a stream, from the call on",
        _columns("plain call", "first chunk"),
        ratios=False,
    ),
    Table(
        "streams",
        "Memory that a slow reader costs (PSS of owner and workers)",
        _columns("reader 100 times slower"),
        lambda value: f"{text.significant(value)} MB",
        ratios=False,
    ),
    Table(
        "threads",
        "Threads: time of a piece of work on one and on two, and a no-op beside ThreadPoolExecutor",
        _columns(
            "pure Python, 1 thread",
            "pure Python, 2 threads",
            "numpy, 1 thread",
            "numpy, 2 threads",
            "no-op, there and back",
            "no-ops, submitted then gathered",
        ),
        ratios=False,
        remark="Pure Python is measured on free-threaded builds alone.",
    ),
    Table(
        "imports",
        "Import, in a fresh interpreter",
        _columns("import"),
        base="import concurrent.futures",
    ),
    Table(
        "session_store",
        "The session store, beside a call",
        _columns("no-op call", "create", "fetch", "delete"),
        ratios=False,
        remark="5,000 sessions made, fetched and deleted, in a store that holds 2,500 others.",
    ),
    Table(
        "sessions",
        "A session's variables and host tools, from a worker, beside a call",
        _columns("no-op call", "get, cached", "get, asked for", "set", "host tool"),
        ratios=False,
    ),
)


def label(key: str) -> str:
    """Return a peer's name as people read it."""
    return PEERS[key].label if key in PEERS else key


def markdown(results: Results, plots: dict[str, str], title: str, workers: int) -> str:
    """Return the report. `plots` are file names by the question whose table they stand under."""
    parts = [f"# {title}", _machine(results), "## Bars", text.table(*judge(results))]
    parts.append(METHOD.format(workers=workers))
    for table in TABLES:
        if results.asked(table.question):
            parts += _section(table, results)
            if table.title in plots:
                parts.append(f"![{table.title}]({plots[table.title]})")
    if results.faults:
        parts += ["## What failed", "\n".join(f"- {fault}" for fault in results.faults)]
    return "\n\n".join(parts) + "\n"


def _machine(results: Results) -> str:
    lines = [f"- {name}: {value}" for name, value in results.facts.items()]
    versions = ", ".join(f"{name} ({value})" for name, value in results.peers.items())
    return "\n".join([*lines, f"- peers: {versions}"])


def _section(table: Table, results: Results) -> list[str]:
    columns = [column for column in table.columns if results.keys(table.question, column.case)]
    keys = dict.fromkeys(
        key for column in columns for key in results.keys(table.question, column.case)
    )
    notes = {key: _note(table, columns, results, key) for key in keys}
    header = ["", *(column.header for column in columns)]
    rows = [
        [_emphasised(key), *(_cell(table, column, results, key) for column in columns)]
        for key in keys
    ]
    if any(notes.values()):
        header.append("")
        for row, key in zip(rows, keys, strict=True):
            row.append(notes[key])
    parts = [f"## {table.title}"]
    if table.remark:
        parts.append(table.remark)
    return [*parts, text.table(header, rows)]


def _emphasised(key: str) -> str:
    return f"**{label(key)}**" if "snakepit" in key else label(key)


def _note(table: Table, columns: list[Column], results: Results, key: str) -> str:
    notes = (results.figures.get((table.question, column.case, key)) for column in columns)
    return "; ".join(dict.fromkeys(figure.note for figure in notes if figure and figure.note))


def _cell(table: Table, column: Column, results: Results, key: str) -> str:
    value = results.at(table.question, column.case, key, column.share)
    if value is None:
        return ""
    if column.nbytes:
        shown = f"{text.significant(column.nbytes / value / 1e9)} GB/s"
    else:
        shown = table.show(value)
    base = results.at(table.question, column.case, table.base, column.share)
    if not table.ratios or base is None or key == table.base:
        return shown
    return f"{shown} ({text.times(base / value)})"
