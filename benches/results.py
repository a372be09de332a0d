"""The figures of one run of the suite, read from the JSON files of pytest-benchmark."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Key = tuple[str, str, str]


def quantile(values: Iterable[float], share: float) -> float:
    """Return the value below which `share` of the values lie, interpolated linearly."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


@dataclass
class Figure:
    """What one peer did in one case of a question: its values by sweep, in `unit`."""

    unit: str = "s"
    note: str = ""
    sweeps: dict[int, list[float]] = field(default_factory=dict)

    def at(self, share: float) -> float:
        """Return a quantile over all sweeps."""
        return quantile([value for values in self.sweeps.values() for value in values], share)


@dataclass
class Results:
    """All figures of one run, what went wrong in it, and where and when it was."""

    figures: dict[Key, Figure] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    peers: dict[str, str] = field(default_factory=dict)

    def at(self, question: str, case: str, peer: str, share: float = 0.5) -> float | None:
        """Return a quantile of a figure, the median by default, or None if it was not measured."""
        figure = self.figures.get((question, case, peer))
        return figure.at(share) if figure else None

    def keys(self, question: str, case: str) -> list[str]:
        """Return the peers that were measured in a case, in the order in which they ran."""
        return [peer for asked, within, peer in self.figures if (asked, within) == (question, case)]

    def asked(self, question: str) -> bool:
        """Tell whether the question has any figure."""
        return any(asked == question for asked, _, _ in self.figures)

    def by_sweep(self) -> list["Results"]:
        """Return the run split into its sweeps."""
        numbers = sorted({number for figure in self.figures.values() for number in figure.sweeps})
        return [
            Results(
                {
                    key: Figure(figure.unit, figure.note, {number: figure.sweeps[number]})
                    for key, figure in self.figures.items()
                    if number in figure.sweeps
                }
            )
            for number in numbers
        ]

    def add(self, path: Path) -> None:
        """Add the figures of a question's JSON file."""
        for entry in json.loads(path.read_text())["benchmarks"]:
            info: dict[str, Any] = entry["extra_info"]
            figure = self.figures.setdefault(
                (info["question"], info["case"], info["peer"]),
                Figure(info.get("unit", "s"), info.get("note", "")),
            )
            values = info.get("values") or [each / info["per"] for each in entry["stats"]["data"]]
            figure.sweeps.setdefault(info["sweep"], []).extend(values)
