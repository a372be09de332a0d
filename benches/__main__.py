"""``python -m benches [QUESTION ...] [--quick]``: run the questions, write and print the report.

A run of all questions writes to docs/benchmarks; any other goes to a temporary folder, so that it
does not replace the published figures, unless --output names one.
"""

import argparse
import compileall
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from benches import machine, processes
from benches.peers import PEERS
from benches.results import Results

HOME = Path(__file__).parent
PUBLISHED = HOME.parent / "docs" / "benchmarks"
QUESTIONS = (
    "latency",
    "throughput",
    "map",
    "arrays",
    "arena",
    "startup",
    "memory",
    "preload",
    "idle",
    "blocking",
    "tools",
    "payload",
    "pending",
    "affinity",
    "streams",
    "threads",
    "imports",
    "session_store",
    "sessions",
)
# Far more than a question takes: it ends a run in which even the limits inside the question did not
# help.
QUESTION_LIMIT = 600
GRACE = 5.0


def main() -> int:
    """Run what the command line asks for; return 1 if anything failed."""
    options = _parse()
    everything = (
        len(options.questions) == len(QUESTIONS) and not options.quick and not options.peers
    )
    results = Results(facts=machine.facts(), peers=machine.peers())
    output = options.output or (PUBLISHED if everything else _scratch())
    output.mkdir(parents=True, exist_ok=True)
    _compile()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for question in options.questions:
            print(f"{question} …", end=" ", flush=True)
            since = time.monotonic()
            _ask(question, Path(folder), options, results)
            print(f"{time.monotonic() - since:.0f} s", flush=True)
        if options.raw:
            _keep(Path(folder), options.raw)
    minutes = (time.monotonic() - begun) / 60
    results.facts["load average after"] = f"{os.getloadavg()[0]:.2f}"
    results.facts["took"] = f"{minutes:.1f} minutes" + (" (smoke run)" if options.quick else "")
    _report(results, output, "Benchmarks" if everything else "Benchmarks, a partial run")
    return 1 if results.faults else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benches", description="Snakepit beside its peers."
    )
    parser.add_argument(
        "questions", nargs="*", metavar="QUESTION", help=f"of: {', '.join(QUESTIONS)}"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run of about two minutes")
    parser.add_argument("--peers", help=f"only these, separated by commas, of: {', '.join(PEERS)}")
    parser.add_argument("--output", type=Path, help="folder of the report")
    parser.add_argument("--raw", type=Path, help="folder to keep pytest-benchmark's JSON files in")
    options = parser.parse_args()
    unknown = set(options.questions) - set(QUESTIONS)
    unknown |= set(options.peers.split(",")) - set(PEERS) if options.peers else set()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    options.questions = options.questions or list(QUESTIONS)
    return options


def _compile() -> None:
    """Compile this suite and the package that it is about, as an installer does with every package.

    Else each process that imports them compiles them anew where the environment forbids Python to
    keep bytecode, and only these: it triples what the import takes.
    """
    import snakepit

    for folder in (HOME, Path(snakepit.__file__).parent):
        compileall.compile_dir(folder, quiet=2)


def _scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="snakepit-benchmarks-"))


def _ask(question: str, folder: Path, options: argparse.Namespace, results: Results) -> None:
    """Run one question in a process of its own; add its figures and faults to the results."""
    result = folder / f"{question}.json"
    mark = uuid.uuid4().hex
    environment = os.environ | {processes.MARK: mark}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if options.quick:
        environment["BENCHES_QUICK"] = "1"
    if options.peers:
        environment["BENCHES_PEERS"] = options.peers
    command = [sys.executable, "-m", "benches.run", question, str(result)]
    with open(folder / f"{question}.log", "wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=HOME.parent, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            code = process.wait(QUESTION_LIMIT)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            left = processes.end_marked(mark, GRACE if process.poll() is not None else 0.0)
            process.wait()
    if code is None:
        results.faults.append(f"{question}: did not end in {QUESTION_LIMIT} s")
    if left and code is not None:
        results.faults.append(f"{question}: left processes behind: {', '.join(left)}")
    if result.exists() and result.stat().st_size:
        results.add(result)
    faults = result.with_suffix(".faults")
    if faults.exists():
        results.faults.extend(f"{question}: {line}" for line in json.loads(faults.read_text()))
    elif code is not None:
        results.faults.append(f"{question}: ended with {code} before it was finished")


def _keep(folder: Path, raw: Path) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        (raw / path.name).write_bytes(path.read_bytes())


def _report(results: Results, output: Path, title: str) -> None:
    """Write the report and its plots; print the report."""
    # Imported late: matplotlib would take its memory and threads through the whole run.
    from benches import plots, report
    from benches.suite import WORKERS

    written = report.markdown(results, plots.draw(results, output), title, WORKERS)
    (output / "README.md").write_text(written)
    print(f"\n{written}\nwritten to {output}")


if __name__ == "__main__":
    sys.exit(main())
