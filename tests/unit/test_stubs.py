"""The type stubs of the compiled modules name exactly what is there."""

import ast
import enum
import importlib
from pathlib import Path
from types import ModuleType

import pytest

import snakepit._core

FOLDER = Path(snakepit._core.__path__[0])
MODULES = sorted(path.stem for path in FOLDER.glob("*.pyx"))


def public(names: set[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def names_declared(stub: ast.Module) -> dict[str, set[str]]:
    """Public names of the stub's module and of each class in it; attributes as well as methods."""
    declared = {"": {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}}
    for cls in stub.body:
        if isinstance(cls, ast.ClassDef):
            members = {node.name for node in cls.body if isinstance(node, ast.FunctionDef)}
            for node in cls.body:
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    members.add(node.target.id)
            declared[cls.name] = public(members)
    return declared


def names_present(module: ModuleType) -> dict[str, set[str]]:
    """The same of the module itself; what it merely imported is not its own."""
    own = {
        name: value
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
    }
    # The members of an enum are the .pxd's, for C code.
    own = {name: value for name, value in own.items() if not isinstance(value, enum.EnumMeta)}
    classes = {name: value for name, value in own.items() if isinstance(value, type)}
    present = {name: public(set(vars(cls))) for name, cls in classes.items()}
    return {"": public(own.keys() - classes.keys()), **present}


@pytest.mark.parametrize("name", MODULES)
def test_stub_names_what_the_module_has(name: str) -> None:
    module = importlib.import_module(f"snakepit._core.{name}")
    stub = ast.parse((FOLDER / f"{name}.pyi").read_text(encoding="utf-8"))
    assert names_declared(stub) == names_present(module)


@pytest.mark.parametrize("name", MODULES)
def test_stub_has_the_bases_of_the_classes(name: str) -> None:
    module = importlib.import_module(f"snakepit._core.{name}")
    stub = ast.parse((FOLDER / f"{name}.pyi").read_text(encoding="utf-8"))
    for node in stub.body:
        if isinstance(node, ast.ClassDef):
            bases = [base.__name__ for base in getattr(module, node.name).__bases__]
            assert ([ast.unparse(base) for base in node.bases] or ["object"]) == bases
