"""Figures as people read them."""


def significant(value: float) -> str:
    """Return at most three significant digits without an exponent, thousands separated."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def amount(value: float) -> str:
    """Return a large number in thousands or millions."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return significant(value)


def seconds(value: float) -> str:
    """Return a time in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(value) >= size:
            return f"{significant(value / size)} {unit}"
    return f"{significant(value * 1e9)} ns"


def times(value: float) -> str:
    """Return a ratio."""
    return f"{significant(value)}×"


def percent(value: float) -> str:
    """Return a share of one."""
    return f"{100 * value:.0f} %"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, padded for the terminal; all columns but the first to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "| "
        + " | ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in [header, *rows]
    ]
    rule = (
        "|"
        + "|".join("-" * (width + 1) + ("-" if n == 0 else ":") for n, width in enumerate(widths))
        + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])
