"""Owns where in the code a module's constants, classes and statements are used, by their names."""

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.mutants.mutant import Lines

Name = tuple[str, str]


class Names:
    """The names of all modules below a package, and the functions that use them."""

    def __init__(self, root: Path, package: str) -> None:
        self._files = {
            ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
            for path in sorted((root / package).rglob("*.py"))
        }
        self._root = root
        # Per name: names that are made of it, and functions that use it as (path, lines).
        self._made_of: dict[Name, set[Name]] = defaultdict(set)
        self._used_in: dict[Name, list[tuple[str, frozenset[int]]]] = defaultdict(list)
        self._functions: dict[str, set[int]] = defaultdict(set)
        self._importers: dict[str, set[str]] = defaultdict(set)
        for module, path in self._files.items():
            self._read(module, path)

    def users(self, path: str, name: str) -> Lines:
        """Return the bodies of all functions that use a name, directly or through other names."""
        start = (self.module(path), name)
        seen, waiting = {start}, [start]
        lines: dict[str, set[int]] = defaultdict(set)
        while waiting:
            current = waiting.pop()
            for user, body in self._used_in[current]:
                lines[user] |= body
            for other in self._made_of[current] - seen:
                seen.add(other)
                waiting.append(other)
        return {user: frozenset(body) for user, body in lines.items()}

    def functions(self, path: str) -> Lines:
        """Return the bodies of all functions of a file."""
        return {path: frozenset(self._functions[path])}

    def independent_of(self, paths: Iterable[str]) -> set[str]:
        """Return the modules that import none of these files, not even indirectly."""
        waiting = [self.module(path) for path in paths]
        dependent: set[str] = set()
        while waiting:
            current = waiting.pop()
            if current not in dependent:
                dependent.add(current)
                waiting += self._importers[current]
        return set(self._files) - dependent

    def module(self, path: str) -> str:
        """Return the name by which a file is imported."""
        return next(name for name, file in self._files.items() if file == self._root / path)

    def _read(self, module: str, path: Path) -> None:
        relative = str(path.relative_to(self._root))
        tree = ast.parse(path.read_text())
        for imported in _imported(module, tree):
            self._importers[imported].add(module)
        aliases = self._imports(module, tree)
        for statement in tree.body:
            defined = _targets(statement)
            functions, rest = _split(statement)
            for used in self._used(module, aliases, rest):
                self._made_of[used] |= {(module, name) for name in defined if name}
            for function in functions:
                lines = body_lines(function)
                self._functions[relative] |= lines
                for used in self._used(module, aliases, function.body):
                    self._used_in[used].append((relative, lines))

    def _imports(self, module: str, tree: ast.Module) -> dict[str, str]:
        """Note what is imported by name; return the modules that are, by their local names."""
        aliases = {}
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            for alias in node.names:
                local = alias.asname or alias.name
                submodule = f"{node.module}.{alias.name}"
                if submodule in self._files:
                    aliases[local] = submodule
                elif node.module in self._files:
                    self._made_of[node.module, alias.name].add((module, local))
        return aliases

    def _used(self, module: str, aliases: dict[str, str], nodes: Iterable[ast.AST]) -> set[Name]:
        used = set()
        for node in nodes:
            for part in ast.walk(node):
                match part:
                    case ast.Name(name):
                        used.add((module, name))
                    case ast.Attribute(ast.Name(name), attribute) if name in aliases:
                        used.add((aliases[name], attribute))
        return used


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> frozenset[int]:
    """Return the lines of a function's body, without its docstring."""
    body = function.body
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(body) > 1:
        first = body[1]
    return frozenset(range(first.lineno, (function.end_lineno or first.lineno) + 1))


def _imported(module: str, tree: ast.Module) -> set[str]:
    """Return what a module may import anywhere, and the packages around all that."""
    found = {module}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(source), names=names):
                found |= {source, *(f"{source}.{alias.name}" for alias in names)}
    around = {name.rsplit(".", count)[0] for name in found for count in range(name.count(".") + 1)}
    return (found | around) - {module}


def _targets(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
            return [name]
        case ast.Assign(targets=targets):
            return [name.id for name in targets if isinstance(name, ast.Name)]
        case ast.AnnAssign(target=ast.Name(name)):
            return [name]
    return []


def _split(
    statement: ast.stmt,
) -> tuple[list[ast.FunctionDef | ast.AsyncFunctionDef], list[ast.AST]]:
    """Part a module's statement into its functions and what runs at import."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return [statement], [
                *statement.args.defaults,
                *filter(None, statement.args.kw_defaults),
            ]
        case ast.ClassDef():
            functions: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
            rest: list[ast.AST] = []
            for part in statement.body:
                inner, outer = _split(part)
                functions += inner
                rest += outer
            return functions, rest
        case ast.Assign(value=value):
            return [], [value]
        case ast.AnnAssign(value=value) if value is not None:
            return [], [value]
    return [], []
