"""The configuration costs only those who use it."""

from __future__ import annotations

from pathlib import Path

from tests.support import run_clean


def test_neither_the_package_nor_a_worker_imports_pydantic(tmp_path: Path) -> None:
    lines = run_clean(
        """
        import sys
        import snakepit

        def loaded():
            return sorted(name for name in sys.modules if name.startswith("pydantic"))

        if __name__ == "__main__":
            with snakepit.Executor(1) as executor:
                print(loaded(), executor.submit(loaded).result())
        """,
        tmp_path,
    )
    assert lines == ["[] []"]


def test_a_worker_of_a_configured_pool_imports_no_pydantic(tmp_path: Path) -> None:
    lines = run_clean(
        """
        import sys
        import snakepit

        class Looking(snakepit.Adapter):
            @snakepit.tool
            def loaded(self):
                return sorted(
                    name for name in sys.modules if name.startswith(("pydantic", "snakepit.config"))
                )

        if __name__ == "__main__":
            snakepit.start(adapter=Looking, pool_size=1)
            print(snakepit.execute("loaded"))
            snakepit.stop()
        """,
        tmp_path,
    )
    assert lines == ["[]"]


def test_without_pydantic_it_says_what_to_install(tmp_path: Path) -> None:
    lines = run_clean(
        """
        import sys
        sys.modules["pydantic"] = None
        try:
            import snakepit.config
        except ImportError as error:
            print(error)
        """,
        tmp_path,
    )
    assert lines == ["configuration needs pydantic: pip install 'snakepit-pool[config]'"]
