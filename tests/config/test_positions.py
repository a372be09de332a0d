"""On which line of a TOML document a key stands, in every form that TOML has for it."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from snakepit.config.positions import KeyPath, key_lines

DOCUMENT = '''\
# pool = 1
plain = 1
"quoted key" = "# and = 2"
dotted.a.b = """
[not.a.table]
x = 1 \\"""
"""
list = [
  1,  # one
  { inner = [2, 3], other = "]}" },
]
date = 1979-05-27 07:32:00

[table]
key = \'\'\'
three = 3
\'\'\'
[ table . "sub table" ]
deep = { a.b = 1, c = {} }
[[pools]]
name = "a"
[[pools]]
name = "b"
[pools.env]
X = "1"
[[pools.inner]]
y = 1
'''


def test_lines_of_keys() -> None:
    tomllib.loads(DOCUMENT)
    lines = key_lines(DOCUMENT)
    assert lines[("plain",)] == 2
    assert lines[("quoted key",)] == 3
    assert lines[("dotted",)] == lines[("dotted", "a", "b")] == 4
    assert lines[("list",)] == 8
    assert lines[("list", 0)] == 9
    assert lines[("list", 1, "inner")] == lines[("list", 1, "other")] == 10
    assert lines[("date",)] == 12
    assert lines[("table",)] == 14
    assert lines[("table", "sub table", "deep", "a", "b")] == 19
    assert lines[("table", "sub table", "deep", "c")] == 19
    assert lines[("pools", 0, "name")] == 21
    assert lines[("pools", 1)] == 22
    assert lines[("pools", 1, "env", "X")] == 25
    assert lines[("pools", 1, "inner", 0, "y")] == 27
    assert ("x",) not in lines
    assert ("three",) not in lines


def paths(value: Any, path: KeyPath = ()) -> list[KeyPath]:
    if isinstance(value, dict):
        inner = [found for key, entry in value.items() for found in paths(entry, (*path, key))]
    elif isinstance(value, list):
        inner = [found for key, entry in enumerate(value) for found in paths(entry, (*path, key))]
    else:
        inner = []
    return [path, *inner] if path else inner


def inline(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {inline(entry)}" for key, entry in value.items())
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list):
        return "[\n" + ",\n".join(map(inline, value)) + "\n]"
    return json.dumps(value)


NAMES = st.text("abc #[]{}=.,'\n\"\\", max_size=5)
VALUES = st.recursive(
    st.integers(-5, 5) | st.booleans() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_every_key_of_a_generated_document_is_found(document: dict[str, Any]) -> None:
    blocks = [f"{json.dumps(key)} = {inline(value)}\n" for key, value in document.items()]
    text = "\n".join(blocks)
    assert tomllib.loads(text) == document
    lines = key_lines(text)
    assert sorted(lines, key=repr) == sorted(paths(document), key=repr)
    begins = 1
    for key, block in zip(document, blocks, strict=True):
        assert lines[(key,)] == begins
        begins += block.count("\n") + 1
