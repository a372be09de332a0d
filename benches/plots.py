"""The report's plots: few, each under the table whose figures it shows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

from benches import text
from benches.report import Show, label
from benches.results import Results

OWN = "snakepit"
OWN_COLOUR = "#d1495b"
OTHERS_COLOUR = "#8a94a0"
LIMIT_COLOUR = "#333333"
# Muted, and the same for a peer in every plot.
COLOURS = {
    "ppe": "#30638e",
    "ppe-spawn": "#7ba6c9",
    "ppe-fork": "#a9c6dd",
    "pool": "#3b8f7f",
    "loky": "#8d6bb1",
    "pebble": "#c98f3a",
    "mpire": "#8c8c3d",
    "threads": "#9a9a9a",
    "ray": "#5c7a99",
    "dask": "#b07a5c",
}
MARKERS = dict(zip(COLOURS, "os^vDPX*<>", strict=True))


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the plots into `folder`; return file names by the table above each."""
    plt.rcParams.update(
        {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110}
    )
    drawings = {
        "Tiny calls a second through map": ("calls.png", _calls),
        "Arrays there and back": ("arrays.png", _arrays),
        "Memory of an idle worker with numpy (PSS)": ("startup.png", _startup),
        "Time a task by the number that wait": ("scaling.png", _scaling),
        "No-ops beside a task that takes one of two workers for a second": (
            "blocking.png",
            _blocking,
        ),
    }
    written = {}
    for title, (name, drawing) in drawings.items():
        figure = drawing(results)
        if figure is not None:
            figure.savefig(folder / name, bbox_inches="tight")
            plt.close(figure)
            written[title] = name
    return written


def _microseconds(value: float) -> str:
    return f"{text.significant(value)} µs"


def _colour(key: str) -> str:
    return OWN_COLOUR if key == OWN else COLOURS.get(key, LIMIT_COLOUR)


def _ranking(axes: Any, values: dict[str, float], title: str, axis: str, show: Show) -> None:
    """Draw a row a peer, the best on top; a dot and no bar, since a log axis has no zero."""
    more_is_better = "second" in axis
    keys = sorted(values, key=lambda key: values[key], reverse=not more_is_better)
    left = min(values.values()) / 2
    for row, key in enumerate(keys):
        own = key == OWN
        colour = OWN_COLOUR if own else OTHERS_COLOUR
        axes.hlines(row, left, values[key], color=colour, linewidth=2.5 if own else 1.2, alpha=0.6)
        axes.plot(values[key], row, "o", color=colour, markersize=11 if own else 8)
        axes.annotate(
            show(values[key]),
            (values[key], row),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            fontweight="bold" if own else "normal",
        )
    axes.set_yticks(range(len(keys)), [label(key) for key in keys])
    for tick, key in zip(axes.get_yticklabels(), keys, strict=True):
        tick.set_fontweight("bold" if key == OWN else "normal")
    axes.set_xscale("log")
    axes.set_xlim(left, max(values.values()) * 5)
    axes.set_ylim(-0.6, len(keys) - 0.4)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(axis)
    axes.tick_params(axis="y", length=0)


def _medians(results: Results, question: str, case: str, share: float = 0.5) -> dict[str, float]:
    return {
        key: value
        for key in results.keys(question, case)
        if (value := results.at(question, case, key, share)) is not None
    }


def _calls(results: Results) -> Any:
    latency = _medians(results, "latency", "no-op")
    throughput = _medians(results, "throughput", "no-op")
    mapped = _medians(results, "map", "best chunk size")
    if not (latency and throughput and mapped):
        return None
    figure, axes = plt.subplots(1, 3, figsize=(15, 3.6), layout="constrained")
    latency = {key: value * 1e6 for key, value in latency.items()}
    _ranking(axes[0], latency, "No-op round trip, p50", "µs, less is better", _microseconds)
    for panel, values, title, unit in (
        (axes[1], throughput, "No-ops submitted, then gathered", "tasks a second"),
        (axes[2], mapped, "map, each with its best chunk size", "items a second"),
    ):
        rates = {key: 1 / value for key, value in values.items()}
        _ranking(panel, rates, title, f"{unit}, more is better", text.amount)
    return figure


def _lines(axes: Any, series: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """Draw one line a peer on log axes, named at its right end."""
    for key, (x, y) in series.items():
        own = key == OWN
        axes.plot(
            x,
            y,
            color=_colour(key),
            marker=MARKERS.get(key, "o" if own else None),
            markersize=7 if own else 5,
            linewidth=3 if own else 1.4,
            linestyle="-" if own or key in COLOURS else "--",
            zorder=3 if own else 2,
            label=label(key),
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(True, which="major", alpha=0.25)


def _series(
    results: Results, question: str, cases: dict[str, float], over_bytes: bool = False
) -> dict[str, tuple[list[float], list[float]]]:
    """Return each peer's points: x from `cases`, y the median, or the GB/s that it means."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for case, x in cases.items():
        for key, value in _medians(results, question, case).items():
            xs, ys = series.setdefault(key, ([], []))
            xs.append(x)
            ys.append(x / value / 1e9 if over_bytes else value)
    return series


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


def _arrays(results: Results) -> Any:
    sizes = {"10 KB": 10 * 1024, "100 KB": 100 * 1024, "1 MB": 2**20, "8 MB": 2**23, "64 MB": 2**26}
    titles = {"in": "Array in", "out": "Array out", "both": "There and back"}
    figure, all_axes = plt.subplots(1, 3, figsize=(14, 4.2), sharey=True, layout="constrained")
    limit = _series(results, "arrays", {f"in {k}": v for k, v in sizes.items()}, True).get("memcpy")
    if limit is None:
        plt.close(figure)
        return None
    for axes, (direction, title) in zip(all_axes, titles.items(), strict=True):
        cases = {f"{direction} {size}": float(nbytes) for size, nbytes in sizes.items()}
        series = {**_series(results, "arrays", cases, True), "memcpy": limit}
        _lines(axes, series)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xticks(list(sizes.values()), list(sizes))
        axes.minorticks_off()
    all_axes[0].set_ylabel("GB/s, more is better")
    _legend(figure, all_axes[0])
    return figure


def _startup(results: Results) -> Any:
    counts = {"2 workers": 2.0, "16 workers": 16.0, "100 workers": 100.0}
    series = _series(results, "startup", counts)
    memory = _medians(results, "memory", "16 workers")
    if not series or not memory:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.4), layout="constrained")
    _lines(left, series)
    left.set_title("Until all workers have answered, numpy imported", loc="left", fontsize=11)
    left.set_xticks(list(counts.values()), ["2", "16", "100"])
    left.minorticks_off()
    left.set_xlabel("workers")
    left.set_ylabel("seconds, less is better")
    left.legend(frameon=False, fontsize=8, loc="upper left")
    _ranking(
        right, memory, "Idle worker of 16, with numpy", "PSS, MB, less is better", text.significant
    )
    return figure


def _scaling(results: Results) -> Any:
    sizes = {"10 B": 1e1, "100 B": 1e2, "1 kB": 1e3, "10 kB": 1e4, "100 kB": 1e5, "1 MB": 1e6}
    counts = {"100": 1e2, "1,000": 1e3, "10,000": 1e4, "100,000": 1e5, "1,000,000": 1e6}
    payload = _series(results, "payload", sizes)
    pending = _series(results, "pending", counts)
    if not payload or not pending:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.4), layout="constrained")
    for axes, series, title in (
        (left, payload, "Round trip by the size of the argument"),
        (right, pending, "Time a task by the number that wait"),
    ):
        _lines(axes, {k: (x, [v * 1e6 for v in y]) for k, (x, y) in series.items()})
        axes.set_title(title, loc="left", fontsize=11)
    left.set_xticks(list(sizes.values()), list(sizes))
    left.minorticks_off()
    left.set_ylabel("µs, less is better")
    right.set_xlabel("no-ops submitted, then gathered")
    _legend(figure, left)
    return figure


def _blocking(results: Results) -> Any:
    cases = {"a task sleeps": "time.sleep(1)", "a task computes": "1 s of pure Python"}
    values = {case: _medians(results, "blocking", case, 0.99) for case in cases}
    if not all(values.values()):
        return None
    figure, all_axes = plt.subplots(1, 2, figsize=(13, 3.4), layout="constrained")
    for axes, (case, what) in zip(all_axes, cases.items(), strict=True):
        milliseconds = {key: value * 1e3 for key, value in values[case].items()}
        title = f"No-ops beside {what}, p99"
        _ranking(axes, milliseconds, title, "ms, less is better", text.significant)
    return figure
