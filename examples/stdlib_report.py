"""Analyse every file of the running interpreter's standard library, three times, and compare.

    python -m examples.stdlib_report [--workers N] [--limit N] [--root PATH] [--no-compare]
                                     [--json FILE]

A snakepit Executor, this process alone, and a ProcessPoolExecutor with as many workers do the same
work. Their results must be equal; their wall times, from making the pool to its shutdown, are shown
side by side. Files that are no valid Python, which the test packages contain on purpose, are named.
"""

import argparse
import json
import sys
import sysconfig
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.table import Table

from examples._analysis import FileReport, FunctionReport, analyse_file
from snakepit import Executor, PoolStats

TOP = 8
PEER_CHUNKSIZE = 4


@dataclass(frozen=True)
class Run:
    """One way of doing the whole work: its name, wall time in seconds and results."""

    name: str
    seconds: float
    reports: list[FileReport]


def main(arguments: list[str] | None = None) -> int:
    """Run the report; the exit code is 1 when the ways of running it disagree."""
    options = _parse(arguments)
    root = Path(options.root)
    paths = find_files(root, options.limit)
    if not paths:
        print(f"no Python files below {root}", file=sys.stderr)
        return 2
    for path in paths:  # so that every run, and not only the last, finds them in the page cache
        Path(path).read_bytes()

    ours, stats = with_snakepit(paths, options.workers)
    runs = [ours]
    if not options.no_compare:
        runs += [alone(paths), with_peer(paths, stats.workers)]
    different = [run.name for run in runs if run.reports != ours.reports]

    console = Console()
    console.print(f"Python files below {root}", highlight=False, soft_wrap=True)
    console.print(totals_table(ours.reports))
    for report in unparseable(ours.reports):
        place = _below(root, report.path)
        console.print(f"Unparseable: {place}: {report.error}", markup=False, soft_wrap=True)
    console.print(slowest_table(root, ours.reports))
    console.print(complex_table(root, ours.reports))
    console.print(runs_table(runs))
    console.print(pool_table(stats))
    if different:
        console.print(f"[red]The results differ from those of: {', '.join(different)}")
    elif len(runs) > 1:
        console.print(f"All {len(runs)} runs gave identical results.")
    if options.json:
        write_json(Path(options.json), runs, stats)
    return 1 if different else 0


def find_files(root: Path, limit: int | None) -> list[str]:
    """The .py files below ``root`` in the order of their names, without installed packages."""
    found = (path for path in root.rglob("*.py") if "site-packages" not in path.parts)
    return sorted(str(path) for path in found if path.is_file())[:limit]


def with_snakepit(paths: list[str], workers: int | None) -> tuple[Run, PoolStats]:
    """Do the work on snakepit's pool, with a progress bar; also what the pool saw of it."""
    begin = perf_counter()
    with Executor(workers) as executor:
        reports = list(executor.map(analyse_file, paths, progress=True))
        stats = executor.stats()
    return Run("snakepit.Executor", perf_counter() - begin, reports), stats


def alone(paths: list[str]) -> Run:
    """Do the work in this process."""
    print("the same in one process …", file=sys.stderr)
    begin = perf_counter()
    reports = [analyse_file(path) for path in paths]
    return Run("one process", perf_counter() - begin, reports)


def with_peer(paths: list[str], workers: int) -> Run:
    """Do the work on the standard library's pool."""
    print("the same with ProcessPoolExecutor …", file=sys.stderr)
    begin = perf_counter()
    with ProcessPoolExecutor(workers) as executor:
        reports = list(executor.map(analyse_file, paths, chunksize=PEER_CHUNKSIZE))
    name = f"ProcessPoolExecutor (chunks of {PEER_CHUNKSIZE})"
    return Run(name, perf_counter() - begin, reports)


def unparseable(reports: list[FileReport]) -> list[FileReport]:
    """The files that are no valid Python."""
    return [report for report in reports if report.error is not None]


def slowest(reports: list[FileReport]) -> list[FileReport]:
    """The files whose analysis took longest."""
    return sorted(reports, key=lambda report: -report.seconds)[:TOP]


def most_complex(reports: list[FileReport]) -> list[tuple[FunctionReport, str]]:
    """The functions of the highest complexity, each with its file."""
    every = ((function, report.path) for report in reports for function in report.functions)
    return sorted(every, key=lambda pair: (-pair[0].complexity, pair[1], pair[0].line))[:TOP]


def totals(reports: list[FileReport]) -> dict[str, int | float]:
    """The sums over all files, and the mean complexity of a function (0 without any)."""
    scores = [function.complexity for report in reports for function in report.functions]
    sums: dict[str, int | float] = {
        "files": len(reports),
        "unparseable files": len(unparseable(reports)),
        "lines": sum(report.lines for report in reports),
        "lines of code": sum(report.code for report in reports),
        "comment lines": sum(report.comment for report in reports),
        "blank lines": sum(report.blank for report in reports),
        "classes": sum(report.classes for report in reports),
        "functions": len(scores),
        "mean complexity": sum(scores) / len(scores) if scores else 0.0,
    }
    return sums


def totals_table(reports: list[FileReport]) -> Table:
    """What the files hold."""
    table = _table("In all", "", ">")
    for name, value in totals(reports).items():
        table.add_row(name, f"{value:.2f}" if isinstance(value, float) else f"{value:,}")
    return table


def slowest_table(root: Path, reports: list[FileReport]) -> Table:
    """The files that took longest in a worker."""
    table = _table("Slowest files", "file", ">lines", ">ms")
    for report in slowest(reports):
        milliseconds = f"{1000 * report.seconds:.1f}"
        table.add_row(_below(root, report.path), f"{report.lines:,}", milliseconds)
    return table


def complex_table(root: Path, reports: list[FileReport]) -> Table:
    """The functions with the most conditions."""
    table = _table("Most complex functions", "function", "file", ">complexity")
    for function, path in most_complex(reports):
        place = f"{_below(root, path)}:{function.line}"
        table.add_row(function.name, place, str(function.complexity))
    return table


def runs_table(runs: list[Run]) -> Table:
    """The wall times, and each as a multiple of the first."""
    table = _table("Wall time, start-up and shutdown included", "run", ">seconds", ">ratio")
    for run in runs:
        table.add_row(run.name, f"{run.seconds:.2f}", f"{run.seconds / runs[0].seconds:.2f}")
    return table


def pool_table(stats: PoolStats) -> Table:
    """What the pool counted."""
    table = _table("What snakepit's pool saw", "", ">")
    for name, value in {
        "workers": f"{stats.workers}",
        "calls and chunks done / failed": f"{stats.completed:,} / {stats.failed:,}",
        "workers that crashed": f"{stats.crashed}",
        "bytes to / from workers": f"{stats.bytes_in:,} / {stats.bytes_out:,}",
        "submit to settled, p50 / p99": _milliseconds(stats.latency_p50, stats.latency_p99),
        "in the worker, p50 / p99": _milliseconds(stats.run_p50, stats.run_p99),
    }.items():
        table.add_row(name, value)
    return table


def write_json(path: Path, runs: list[Run], stats: PoolStats) -> None:
    """Write the same findings as data; times in seconds."""
    reports = runs[0].reports
    findings = {
        "totals": totals(reports),
        "unparseable": {report.path: report.error for report in unparseable(reports)},
        "slowest": {report.path: report.seconds for report in slowest(reports)},
        "most_complex": [
            {"path": path} | asdict(function) for function, path in most_complex(reports)
        ],
        "wall": {run.name: run.seconds for run in runs},
        "identical": all(run.reports == reports for run in runs),
        "pool": asdict(stats),
    }
    path.write_text(json.dumps(findings, indent=2) + "\n", encoding="utf-8")


def _table(title: str, *columns: str) -> Table:
    """An empty table; a column whose name begins with > is aligned to the right."""
    headed = any(column.strip(">") for column in columns)
    table = Table(title=title, title_justify="left", show_header=headed)
    for column in columns:
        name = column.removeprefix(">")
        table.add_column(name, justify="right" if column.startswith(">") else "left")
    return table


def _below(root: Path, path: str) -> str:
    return str(Path(path).relative_to(root))


def _milliseconds(p50: float, p99: float) -> str:
    return f"{1000 * p50:.2f} / {1000 * p99:.2f} ms"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Analyse the standard library's own source.")
    parser.add_argument("--workers", type=int, help="default: as many as there are usable CPUs")
    parser.add_argument("--limit", type=int, help="analyse the first N files only")
    parser.add_argument("--root", default=sysconfig.get_paths()["stdlib"], help="another tree")
    parser.add_argument("--no-compare", action="store_true", help="run on snakepit's pool only")
    parser.add_argument("--json", metavar="FILE", help="also write the findings to a file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
