"""What Snakepit is held to: the bar that it must clear, and the goal that it aims at."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benches import text
from benches.results import Results

Measure = Callable[[Results], float | None]

OWN = "snakepit"
TOOLS = "snakepit-tools"
PPE = "ppe"


@dataclass(frozen=True)
class Check:
    """One measured value and its limit."""

    measure: Measure
    sense: Literal["≤", "≥"]
    limit: float
    show: Callable[[float], str]
    of: str = ""

    def met(self, value: float) -> bool:
        """Tell whether the value keeps to the limit."""
        return value <= self.limit if self.sense == "≤" else value >= self.limit

    def __str__(self) -> str:
        return f"{self.sense} {self.show(self.limit)}{self.of}"


@dataclass(frozen=True)
class Bar:
    """A row of the table. Without `bar` there is only a goal."""

    what: str
    bar: Check | None
    goals: tuple[Check, ...] = ()


def own(question: str, case: str, share: float = 0.5, *, peer: str = OWN) -> Measure:
    """Measure a figure of Snakepit's, in the way in which `peer` uses it: median, or quantile."""
    return lambda results: results.at(question, case, peer, share)


def quotient(above: Measure, below: Measure) -> Measure:
    """Measure one value over another."""

    def measure(results: Results) -> float | None:
        numerator, denominator = above(results), below(results)
        return numerator / denominator if numerator is not None and denominator else None

    return measure


def faster(question: str, case: str, than: str = PPE, than_case: str | None = None) -> Measure:
    """Measure how many times the peer's time Snakepit's time goes into it: 2 is twice as fast."""
    return quotient(
        lambda results: results.at(question, case if than_case is None else than_case, than),
        own(question, case),
    )


def slower_tool(case: str, than_case: str) -> Measure:
    """Measure how many times a plain call's time a tool's takes."""
    return quotient(own("tools", case, peer=TOOLS), own("tools", than_case))


def faster_tool(case: str, than: str = PPE) -> Measure:
    """Measure how many times a tool's time goes into the peer's time of a plain call."""
    return quotient(
        lambda results: results.at("tools", case, than),
        own("tools", case, peer=TOOLS),
    )


def slower_import(statement: str) -> Measure:
    """Measure the seconds that an import takes beyond importing concurrent.futures."""

    def measure(results: Results) -> float | None:
        whole = results.at("imports", "import", statement)
        base = results.at("imports", "import", "import concurrent.futures")
        return whole - base if whole is not None and base is not None else None

    return measure


def at_least(
    limit: float, measure: Measure, show: Callable[[float], str] = text.times, of: str = ""
) -> Check:
    """Make a check against a lower limit, of a ratio unless `show` says otherwise."""
    return Check(measure, "≥", limit, show, of)


def at_most(limit: float, measure: Measure, show: Callable[[float], str] = text.seconds) -> Check:
    """Make a check against an upper limit, of a time unless `show` says otherwise."""
    return Check(measure, "≤", limit, show)


def megabytes(value: float) -> str:
    """Show an amount of memory."""
    return f"{text.significant(value)} MB"


def of_a_core(value: float) -> str:
    """Show a use of the CPU that is in percent already."""
    return f"{text.significant(value)} %"


def _array_bar(size: str) -> Bar:
    return Bar(
        f"{size} array in",
        at_least(15, faster("arrays", f"in {size}")),
        (at_least(0.8, faster("arrays", f"in {size}", "memcpy"), text.percent, " of memcpy"),),
    )


def _blocking_bar(case: str) -> Bar:
    p99 = own("blocking", case, 0.99)
    return Bar(f"p99 of no-ops while {case}", at_most(5e-3, p99), (at_most(1e-3, p99),))


def _threads_bar(what: str) -> Bar:
    """Hold two threads of one worker against one."""
    gain = quotient(
        lambda results: results.at("threads", f"{what}, 1 thread", "snakepit-thread"),
        lambda results: results.at("threads", f"{what}, 2 threads", "snakepit-thread"),
    )
    return Bar(f"{what}, 2 threads of a worker vs 1", at_least(1.7, gain), (at_least(1.9, gain),))


def _local_bar(what: str, case: str) -> Bar:
    """Hold profile local against ThreadPoolExecutor, on a free-threaded build."""
    measured = quotient(
        lambda results: results.at("threads", case, "threads"),
        lambda results: results.at("threads", case, "snakepit-local"),
    )

    def gain(results: Results) -> float | None:
        # Pure Python is measured there alone.
        free_threaded = results.at("threads", "pure Python, 1 thread", "threads") is not None
        return measured(results) if free_threaded else None

    return Bar(
        f"{what} of profile local vs ThreadPoolExecutor, on a free-threaded build",
        at_least(4, gain),
        (at_least(8, gain),),
    )


def _import_bar(statement: str) -> Bar:
    beyond = slower_import(statement)
    return Bar(
        f"{statement}, beyond import concurrent.futures",
        at_most(60e-3, beyond),
        (at_most(30e-3, beyond),),
    )


def _store_bar(case: str) -> Bar:
    share = quotient(own("session_store", case), own("session_store", "no-op call"))
    return Bar(
        f"{case} a session, vs a no-op call",
        at_most(1 / 3, share, text.times),
        (at_most(1 / 8, share, text.times),),
    )


def _variable_bar(case: str, bar: float, goal: float) -> Bar:
    share = quotient(own("sessions", case), own("sessions", "no-op call"))
    return Bar(
        f"a session's variable in a worker ({case}), vs a no-op call",
        at_most(bar, share, text.times),
        (at_most(goal, share, text.times),),
    )


def _affinity_bar(case: str) -> Bar:
    ratio = quotient(own("affinity", case), own("affinity", f"none beside {case}"))
    return Bar(
        f"call in one of 10,000 sessions ({case}), vs none",
        at_most(1.15, ratio, text.times),
        (at_most(1.05, ratio, text.times),),
    )


_STREAM_START = quotient(own("streams", "first chunk"), own("streams", "plain call"))

# Ratios are to ProcessPoolExecutor over forkserver unless they name another; times are Snakepit's
# own.
BARS = (
    Bar(
        "no-op round trip, p50",
        at_least(30, faster("latency", "no-op")),
        (
            at_least(50, faster("latency", "no-op")),
            at_most(8e-6, own("latency", "no-op")),
        ),
    ),
    Bar(
        "echo by a tool in a session, vs a plain call of echo",
        at_most(2, slower_tool("echo, session", "echo"), text.times),
        (at_most(1.4, slower_tool("echo, session", "echo"), text.times),),
    ),
    Bar(
        "echo of 1 KB by a tool, 8 callers",
        at_least(10, faster_tool("1 KB, 8 callers")),
        (at_least(20, faster_tool("1 KB, 8 callers")),),
    ),
    Bar("no-op round trip, p99", None, (at_most(60e-6, own("latency", "no-op", 0.99)),)),
    Bar(
        "no-op tasks a second",
        at_least(40, faster("throughput", "no-op")),
        (
            at_least(60, faster("throughput", "no-op")),
            at_least(18, faster("throughput", "no-op", "pool"), of=" multiprocessing.Pool"),
        ),
    ),
    Bar(
        "map, no chunk size, vs Pool.imap in chunks of 256",
        at_least(1, faster("map", "best chunk size", "pool", "chunks of 256")),
        (at_least(1.5, faster("map", "best chunk size", "pool", "chunks of 256")),),
    ),
    _array_bar("1 MB"),
    _array_bar("8 MB"),
    _array_bar("64 MB"),
    Bar(
        "8 MB array there and back",
        at_least(8, faster("arrays", "both 8 MB")),
        (at_least(15, faster("arrays", "both 8 MB")),),
    ),
    Bar(
        "array in the arena, 1 GB vs 1 MB",
        at_most(1.5, quotient(own("arena", "1 GB"), own("arena", "1 MB")), text.times),
        (at_most(30e-6, own("arena", "1 GB")),),
    ),
    Bar(
        "100 workers ready with numpy, vs spawn",
        at_least(5, faster("startup", "100 workers", "ppe-spawn")),
        (at_most(1.0, own("startup", "100 workers")),),
    ),
    Bar("2 workers ready with numpy", None, (at_most(0.12, own("startup", "2 workers")),)),
    Bar(
        "memory of an idle worker (PSS), of 16",
        at_most(5, own("memory", "16 workers"), megabytes),
        (at_most(4, own("memory", "16 workers"), megabytes),),
    ),
    Bar(
        "memory of a worker beyond what preload() holds (PSS), of 8",
        at_most(8, own("preload", "8 workers", peer=TOOLS), megabytes),
        (at_most(5, own("preload", "8 workers", peer=TOOLS), megabytes),),
    ),
    Bar(
        "CPU of an idle pool of 16",
        at_most(1, own("idle", "16 workers"), of_a_core),
        (at_most(0.5, own("idle", "16 workers"), of_a_core),),
    ),
    Bar(
        "small chunks of a stream a second, vs multiprocessing.Queue",
        at_least(5, faster("streams", "small chunks", "mp.Queue")),
        (at_least(12, faster("streams", "small chunks", "mp.Queue")),),
    ),
    Bar(
        "first chunk of a stream, vs a plain call",
        at_most(2.5, _STREAM_START, text.times),
        (at_most(1.3, _STREAM_START, text.times),),
    ),
    Bar(
        "memory of a stream whose reader is 100 times slower",
        at_most(20, own("streams", "reader 100 times slower"), megabytes),
        (at_most(8, own("streams", "reader 100 times slower"), megabytes),),
    ),
    _blocking_bar("a task sleeps"),
    _blocking_bar("a task computes"),
    _affinity_bar("hint"),
    _affinity_bar("strict"),
    _threads_bar("pure Python"),
    _threads_bar("numpy"),
    _local_bar("no-op round trip, p50,", "no-op, there and back"),
    _local_bar("no-op tasks a second", "no-ops, submitted then gathered"),
    _import_bar("import snakepit"),
    _import_bar("from snakepit import Executor"),
    _variable_bar("get, cached", 1 / 5, 1 / 15),
    _variable_bar("get, asked for", 2, 1.2),
    _store_bar("create"),
    _store_bar("fetch"),
    _store_bar("delete"),
)


def judge(results: Results) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table: bar, goal, measured, verdict."""
    sweeps = results.by_sweep()
    rows = []
    for bar in BARS:
        checks = [bar.bar, *bar.goals] if bar.bar else [*bar.goals]
        values = [check.measure(results) for check in checks]
        measured: list[str] = []
        for check, value in zip(checks, values, strict=True):
            shown = "–" if value is None else check.show(value) + check.of + _spread(check, sweeps)
            if shown not in measured:
                measured.append(shown)
        goal = ", ".join(str(check) for check in bar.goals)
        verdict = _verdict(bar, checks, values)
        rows.append([bar.what, str(bar.bar or "–"), goal, "; ".join(measured), verdict])
    return ["Snakepit", "bar", "goal", "measured (by sweep)", "met"], rows


def _spread(check: Check, sweeps: list[Results]) -> str:
    values = [value for sweep in sweeps if (value := check.measure(sweep)) is not None]
    if len(values) < 2:
        return ""
    return f" ({check.show(min(values))} … {check.show(max(values))})"


def _verdict(bar: Bar, checks: list[Check], values: list[float | None]) -> str:
    met = [
        None if value is None else check.met(value)
        for check, value in zip(checks, values, strict=True)
    ]
    if met[0] is None:
        return "not measured"
    if all(met):
        return "goal"
    return "bar" if bar.bar and met[0] else "NO"
