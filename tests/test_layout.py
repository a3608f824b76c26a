"""The rules of the house that a tool can hold: see also the import contracts in pyproject.toml."""

import ast
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PACKAGE = _ROOT / "authsvc"
_MAX_POSITIONAL = 3


def _modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield each module that is written by hand, by its path in the repository."""
    for path in sorted(_PACKAGE.rglob("*.py")):
        if _PACKAGE / "v1" not in path.parents:
            yield path.relative_to(_ROOT).as_posix(), ast.parse(path.read_text())


def _constructors(module: ast.Module) -> Iterator[tuple[ast.ClassDef, ast.FunctionDef]]:
    for found in ast.walk(module):
        if isinstance(found, ast.ClassDef):
            for member in found.body:
                if isinstance(member, ast.FunctionDef) and member.name == "__init__":
                    yield found, member


def test_constructors_of_many_parameters_take_them_by_keyword_only() -> None:
    offenders = []
    for path, module in _modules():
        for owner, constructor in _constructors(module):
            arguments = constructor.args
            positional = len(arguments.posonlyargs) + len(arguments.args) - 1
            if positional and positional + len(arguments.kwonlyargs) > _MAX_POSITIONAL:
                offenders.append(f"{path}:{constructor.lineno}: {owner.name}")
    assert offenders == [], "put `*,` after self"
