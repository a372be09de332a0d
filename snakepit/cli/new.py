"""`snakepit new adapter NAME`: an adapter, its test and an example, which run at once."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from pathlib import Path

__all__ = ["write_adapter"]

ADAPTER = '''\
"""{title}: what each worker of its pool keeps, and the tools that callers run there."""

from __future__ import annotations

from collections.abc import Iterator

from snakepit import Adapter, tool


class {title}(Adapter):
    """Counts words; put what is expensive to have in the place of `counts`."""

    def __init__(self, language: str = "en") -> None:
        # With the pool's adapter_args. Nothing expensive here: that is for setup().
        self.language = language
        self.counts: dict[str, int] = {{}}

    @classmethod
    def preload(cls) -> None:
        """Load what all workers share, once, before they are forked."""

    def setup(self) -> None:
        """Open what this worker needs: connections, files, caches."""

    def teardown(self) -> None:
        """Give it back."""

    @tool(description="Count the words of a text, and return how often each was met so far.")
    def count(self, text: str) -> dict[str, int]:
        for word in text.lower().split():
            self.counts[word] = self.counts.get(word, 0) + 1
        return self.counts

    @tool(idempotent=True)
    def describe(self) -> str:
        """Say what this worker is."""
        return f"{title} for {{self.language}}, {{len(self.counts)}} words known"

    @tool(streaming=True)
    def words(self, text: str) -> Iterator[str]:
        """Yield the words of a text one by one."""
        yield from text.split()
'''

TEST = '''\
"""Tests of {title}: of the class itself, and of its tools in a pool."""

from __future__ import annotations

import pytest
from {module} import {title}

import snakepit
from snakepit.errors import ToolArgumentError


def test_counts_words() -> None:
    assert {title}().count("to be or not to be")["be"] == 2


def test_its_tools_run_in_a_worker_that_keeps_its_state() -> None:
    with snakepit.Pool({title}, pool_size=1, adapter_args={{"language": "fr"}}) as pool:
        pool.execute("count", {{"text": "oui oui"}})
        assert pool.execute("count", {{"text": "non"}}) == {{"oui": 2, "non": 1}}
        assert pool.execute("describe") == "{title} for fr, 2 words known"


def test_a_wrong_argument_is_named() -> None:
    with snakepit.Pool({title}, pool_size=1) as pool:
        with pytest.raises(ToolArgumentError, match="'text' must be str"):
            pool.execute("count", {{"text": 5}})
'''

EXAMPLE = '''\
"""Runs {title} in a pool of two workers."""

from __future__ import annotations

from {module} import {title}

import snakepit

TEXTS = ["the quick brown fox", "the lazy dog", "the end"]


def main() -> None:
    with snakepit.Pool({title}, pool_size=2) as pool:
        # Calls of one session go to the worker that ran the last, if it is free.
        for text in TEXTS:
            print(pool.execute("count", {{"text": text}}, session="reader"))
        print(pool.execute("describe", session="reader"))


if __name__ == "__main__":
    main()
'''


def write_adapter(name: str, folder: Path) -> int:
    """Write the three files into `folder`; return the exit code: 0, or 2 with the reason printed.

    Nothing is overwritten: with one of the files there, none is written.
    """
    module = _module_name(name)
    if module is None:
        return _refuse(
            f"{name!r} is no name for an adapter: letters, digits and underscores, a letter first, "
            "such as TextTools or text_tools"
        )
    title = "".join(part[:1].upper() + part[1:] for part in module.split("_"))
    if _hides(module, folder):
        return _refuse(
            f"{module}.py would hide the module {module!r} that Python finds already: choose "
            f"another name, such as {title}Tools"
        )
    files = {
        folder / f"{module}.py": ADAPTER,
        folder / f"test_{module}.py": TEST,
        folder / f"example_{module}.py": EXAMPLE,
    }
    there = [str(path) for path in files if path.exists()]
    if there:
        return _refuse(f"{', '.join(there)} is there already; choose another name or --folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, template in files.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(template.format(module=module, title=title))
            print(f"wrote {path}")
    except OSError as error:
        return _refuse(f"cannot write to {folder}: {error}")
    print(f"try it: python {folder / f'example_{module}.py'}")
    # In the environment of this interpreter, which has Snakepit.
    missing = importlib.util.find_spec("pytest") is None
    needs = ", which is not installed here: pip install pytest" if missing else ""
    print(f"its test needs pytest{needs}; then: python -m pytest {folder}")
    return 0


def _module_name(name: str) -> str | None:
    """Return the module's name for "TextTools", "text-tools" or "text_tools"; None for what is none."""  # noqa: E501
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.replace("-", "_")).lower()
    known = words.isidentifier() and words.isascii() and words[0].isalpha()
    return words if known and not keyword.iskeyword(words) else None


def _hides(module: str, folder: Path) -> bool:
    """Whether programs of `folder` would find a module of this name there in place of another."""
    if module in sys.stdlib_module_names or module == "snakepit":
        return True
    spec = importlib.util.find_spec(module)
    if spec is None:
        return False
    places = spec.submodule_search_locations or [str(spec.origin)]
    here = folder.resolve()
    # What is there itself is not hidden; what an environment further down has would be.
    own = {here, here / module, here / f"{module}.py"}
    return not own.issuperset(Path(place).resolve() for place in places)


def _refuse(reason: str) -> int:
    print(f"snakepit new adapter: {reason}", file=sys.stderr)
    return 2
