"""What `examples.stdlib_report` finds out about one Python source file.

It stands in a module of its own so that workers import these functions by name; in the report
itself they would belong to ``__main__``.

Complexity is McCabe's cyclomatic complexity, V(G) = E - N + 2 of a function's control flow graph,
which for structured code is the number of conditions plus one (T. J. McCabe, "A Complexity
Measure", IEEE Transactions on Software Engineering SE-2(4), 1976, section IV; conditions within a
compound predicate count one by one, as in section VII there). Counted as conditions are:

- if, elif, a conditional expression, while, for and async for, assert
- every ``except`` clause
- every ``for`` and ``if`` of a comprehension
- every ``and`` and ``or``
- every ``case`` that can fail to match, and a guard of any

``else``, ``finally`` and ``with`` decide nothing. A nested function or class is a graph of its own;
a lambda, which has no name to report, belongs to the function around it.
"""

import ast
import io
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

_BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.While,
    ast.For,
    ast.AsyncFor,
    ast.Assert,
    ast.ExceptHandler,
)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_LEAVES = (ast.Name, ast.expr_context, ast.operator, ast.cmpop, ast.boolop, ast.unaryop)
_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER}


@dataclass(frozen=True, slots=True)
class FunctionReport:
    """A function or method: its dotted name within the file, first line and complexity."""

    name: str
    line: int
    complexity: int


@dataclass(frozen=True, slots=True)
class FileReport:
    """One file. Lines are physical lines; a line within a string is code, also when it is blank.

    error: why the file is not Python of this interpreter's version, or None; then the counts are 0.
    seconds: what the analysis took; no part of the comparison of two reports.
    """

    path: str
    code: int = 0
    comment: int = 0
    blank: int = 0
    classes: int = 0
    functions: tuple[FunctionReport, ...] = ()
    error: str | None = None
    seconds: float = field(default=0.0, compare=False)

    @property
    def lines(self) -> int:
        """All lines of the file."""
        return self.code + self.comment + self.blank


def analyse_file(path: str) -> FileReport:
    """Analyse one file; one that cannot be decoded or parsed is reported with its `error`.

    Raises OSError when the file cannot be read.
    """
    begin = perf_counter()
    source = Path(path).read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        text = io.TextIOWrapper(io.BytesIO(source), encoding).read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source, path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = f"{type(error).__name__}: {error}"
        return FileReport(path, error=reason, seconds=perf_counter() - begin)
    functions, classes, strings = survey(tree)
    code, comment, blank = count_lines(text, strings)
    return FileReport(
        path,
        code=code,
        comment=comment,
        blank=blank,
        classes=classes,
        functions=tuple(functions),
        seconds=perf_counter() - begin,
    )


def survey(tree: ast.Module) -> tuple[list[FunctionReport], int, list[ast.expr]]:
    """The functions, those nested in others too, in the order of the source; the number of classes;
    and the strings that span several lines.
    """
    classes = 0
    found: list[tuple[str, int, list[int]]] = []  # name, line and conditions of each function
    strings: list[ast.expr] = []
    # Below a function or class its own list takes the conditions; below an f-string, whose span has
    # all of its parts, a list that nobody reads takes the strings.
    pending: list[tuple[ast.AST, str, list[int], list[ast.expr]]] = [(tree, "", [], strings)]
    while pending:
        node, prefix, conditions, spans = pending.pop()
        if isinstance(node, _SCOPES):
            conditions = []
            prefix = f"{prefix}{node.name}."
            if isinstance(node, ast.ClassDef):
                classes += 1
            else:
                found.append((prefix[:-1], node.lineno, conditions))
        elif isinstance(node, ast.Constant | ast.JoinedStr):
            if node.end_lineno != node.lineno:
                spans.append(node)
            if isinstance(node, ast.JoinedStr):
                spans = []
        elif count := count_conditions(node):
            conditions.append(count)
        pending.extend((child, prefix, conditions, spans) for child in _children(node))
    functions = [
        FunctionReport(name, line, 1 + sum(conditions)) for name, line, conditions in found
    ]
    functions.sort(key=lambda function: (function.line, function.name))
    return functions, classes, strings


def count_conditions(node: ast.AST) -> int:
    """How many conditions the node itself adds, as this module's docstring defines them."""
    if isinstance(node, _BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.match_case):
        return (not _always_matches(node.pattern)) + (node.guard is not None)
    return 0


def _always_matches(pattern: ast.pattern) -> bool:
    """Whether the pattern is a wildcard or a name, perhaps as the last alternative of several."""
    if isinstance(pattern, ast.MatchOr):
        return _always_matches(pattern.patterns[-1])
    return isinstance(pattern, ast.MatchAs) and (
        pattern.pattern is None or _always_matches(pattern.pattern)
    )


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """As ast.iter_child_nodes, without the nodes that have neither children nor conditions."""
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            for item in value:
                if isinstance(item, ast.AST) and not isinstance(item, _LEAVES):
                    yield item
        elif isinstance(value, ast.AST) and not isinstance(value, _LEAVES):
            yield value


def count_lines(text: str, strings: list[ast.expr]) -> tuple[int, int, int]:
    """Count the lines that hold code, a comment alone, and nothing.

    ``strings`` are the nodes of the text's strings that span several lines.
    """
    lines = [line.strip() for line in text.split("\n")]
    if not lines[-1]:
        lines.pop()
    no_code = {at for at, line in enumerate(lines, 1) if not line or line.startswith("#")}
    physical = text.split("\n")
    for node in strings:
        assert node.end_lineno is not None
        if not no_code.isdisjoint(range(node.lineno, node.end_lineno + 1)):
            no_code.difference_update(_string_lines(physical, node))
    blank = sum(not lines[at - 1] for at in no_code)
    return len(lines) - len(no_code), len(no_code) - blank, blank


def _string_lines(physical: list[str], node: ast.expr) -> Iterator[int]:
    """The lines that belong to a string; not those between strings that follow one another."""
    assert node.end_lineno is not None
    segment = [line.encode() for line in physical[node.lineno - 1 : node.end_lineno]]
    segment[-1] = segment[-1][: node.end_col_offset]
    segment[0] = segment[0][node.col_offset :]
    # The brackets that let a string go on in the next line are outside the node. They are put back,
    # on lines of their own.
    source = b"(\n" + b"\n".join(segment) + b"\n)\n"
    for token in tokenize.generate_tokens(io.StringIO(source.decode()).readline):
        if token.type not in _LAYOUT and token.string not in ("(", ")"):
            for line in range(token.start[0], token.end[0] + 1):
                yield node.lineno + line - 2
