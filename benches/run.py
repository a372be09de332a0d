"""Runs the file of one question in this process: ``python -m benches.run QUESTION RESULT.json``.

Only the standard library is imported above main(): workers that are spawned import their owner's
main module, and that must not cost the peers anything.
"""

import json
import sys
from pathlib import Path
from typing import Any


class Faults:
    """Collects the runs that failed, with the last line of what they said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a failed phase of a test."""
        if report.failed:
            last = report.longreprtext.strip().splitlines()[-1]
            self.lines.append(f"{report.nodeid.rpartition('::')[2]}: {last}")


def main(question: str, result: Path) -> int:
    """Run the question; write pytest-benchmark's JSON to `result` and the faults beside it."""
    import pytest

    folder = Path(__file__).parent
    faults = Faults()
    code = pytest.main(
        [
            str(folder / f"bench_{question}.py"),
            f"--config-file={folder / 'pytest.ini'}",
            f"--rootdir={folder.parent}",
            f"--benchmark-json={result}",
            "--benchmark-quiet",
            "--benchmark-columns=median",
            "-q",
            "--tb=short",
        ],
        plugins=[faults],
    )
    result.with_suffix(".faults").write_text(json.dumps(faults.lines))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
