"""Owns the changes that are made to Python code, one at a time.

Left alone are logging, docstrings, annotations, decorators, texts, `__all__` and `__repr__`. Of
changes that any test notices together, only the one that is hardest to notice is made: a condition
is replaced by True and False but not negated as well, and an `if` whose body is one statement does
not lose that statement too.
"""

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.mutants import syntax
from tests.mutants.mutant import Key, Mutant, module_of
from tests.mutants.names import Names, body_lines


class _Change(NamedTuple):
    node: ast.expr | ast.stmt
    operator: str
    text: str
    function: str
    # The statement that has to be run, or the name that a module's own statement defines.
    reach: frozenset[int] | str


def python_mutants(path: str, source: str, names: Names) -> list[Mutant]:
    """Return all mutants of a file, in the order of its lines."""
    text = source.encode()
    finder = _Finder(text)
    seen: Counter[tuple[str, ...]] = Counter()
    made, mutants = set(), []
    for change in finder.changes(ast.parse(source)):
        start, end = finder.span(change.node)
        mutated = (text[:start] + change.text.encode() + text[end:]).decode()
        if mutated in made:
            continue
        made.add(mutated)
        before, after = syntax.plain(text[start:end].decode()), syntax.plain(change.text)
        same = (change.function, change.operator, before, after)
        seen[same] += 1
        if isinstance(change.reach, str):
            reach = names.users(path, change.reach)
        else:
            reach = {path: change.reach}
        key = Key(module_of(path), *same, seen[same])
        mutants.append(Mutant(key, path, change.node.lineno, mutated, reach))
    return mutants


class _Finder:
    """Walks a module and says what can be changed where."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._starts = [0]
        for line in text.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Return where a node begins and ends, in bytes."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._starts[node.lineno - 1] + node.col_offset
        return start, self._starts[node.end_lineno - 1] + node.end_col_offset

    def changes(self, module: ast.Module) -> Iterator[_Change]:
        """Yield every change in a module."""
        for statement in module.body:
            yield from self._outer(statement, "", syntax.defined(statement))

    def _outer(self, statement: ast.stmt, scope: str, name: str) -> Iterator[_Change]:
        """Yield changes in a statement that runs at import, as part of what `name` names."""
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from self._function(statement, scope)
            case ast.ClassDef():
                if any(syntax.last_name(base) == "Protocol" for base in statement.bases):
                    return
                inner = f"{scope}.{statement.name}" if scope else statement.name
                for part in statement.body:
                    yield from self._outer(part, inner, name)
            case ast.Assign() | ast.AnnAssign() if name and name not in syntax.SKIPPED_NAMES:
                skipped = isinstance(statement, ast.AnnAssign) and (
                    syntax.last_name(statement.annotation) == "TypeAlias"
                )
                if statement.value is not None and not skipped:
                    yield from self._value(statement.value, scope, name)

    def _function(
        self, function: ast.FunctionDef | ast.AsyncFunctionDef, scope: str
    ) -> Iterator[_Change]:
        if function.name in syntax.SKIPPED_FUNCTIONS:
            return
        scope = f"{scope}.{function.name}" if scope else function.name
        arguments = function.args
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                yield from self._value(default, scope, body_lines(function))
        yield from self._block(function.body, scope)

    def _block(
        self, body: Sequence[ast.stmt], scope: str, *, droppable: bool = True
    ) -> Iterator[_Change]:
        """Yield changes in statements; not `droppable` are those whose loss is a change already."""
        droppable = droppable or len(body) > 1
        for statement in body:
            yield from self._statement(statement, scope, droppable=droppable)

    def _statement(self, statement: ast.stmt, scope: str, *, droppable: bool) -> Iterator[_Change]:
        lines = syntax.header_lines(statement)
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from self._function(statement, scope)
                return
            case ast.Expr(ast.Constant()) | ast.ClassDef() | ast.Assert():
                return
            case ast.Expr(value) if syntax.is_logging(value):
                return
        if droppable and syntax.can_be_dropped(statement, scope):
            yield _Change(statement, "drop", "pass", scope, lines)
        yield from self._whole(statement, scope, lines)
        yield from self._parts(statement, scope, lines)
        for block in syntax.blocks(statement):
            alone = isinstance(statement, ast.If | ast.While) and not statement.orelse
            yield from self._block(block, scope, droppable=not alone)

    def _whole(self, statement: ast.stmt, scope: str, lines: frozenset[int]) -> Iterator[_Change]:
        """Yield changes of a statement into another of its kind."""
        match statement:
            case ast.Return(value) if value is not None and not syntax.is_answer(value):
                yield _Change(statement, "return", "return None", scope, lines)
            case ast.Return(None):
                yield _Change(statement, "drop", "pass", scope, lines)
            case ast.Continue():
                yield _Change(statement, "loop", "break", scope, lines)
            case ast.Break():
                yield _Change(statement, "loop", "continue", scope, lines)
            case ast.AugAssign(target, operator, value) if type(operator) in syntax.ARITHMETIC:
                if not isinstance(value, syntax.TEXTS):
                    changed = syntax.ARITHMETIC[type(operator)]
                    text = f"{self._segment(target)} {changed}= {self._segment(value)}"
                    yield _Change(statement, "arithmetic", text, scope, lines)

    def _parts(self, statement: ast.stmt, scope: str, lines: frozenset[int]) -> Iterator[_Change]:
        """Yield changes within the expressions of a statement."""
        match statement:
            case ast.If(test) | ast.While(test):
                yield from self._condition(
                    test, scope, lines, loop=isinstance(statement, ast.While)
                )
            case ast.For(iter=value) | ast.AsyncFor(iter=value):
                yield from self._value(value, scope, lines)
            case ast.With(items=items) | ast.AsyncWith(items=items):
                for item in items:
                    yield from self._value(item.context_expr, scope, lines)
            case ast.Raise(exc=value) | ast.Return(value) if value is not None:
                yield from self._value(value, scope, lines)
            case ast.Expr(value) | ast.Assign(value=value) | ast.AugAssign(value=value):
                yield from self._value(value, scope, lines)
            case ast.AnnAssign(value=value) if value is not None:
                yield from self._value(value, scope, lines)

    def _condition(
        self, test: ast.expr, scope: str, reach: frozenset[int] | str, *, loop: bool = False
    ) -> Iterator[_Change]:
        """Yield changes of an expression that decides between two ways."""
        defines = any(isinstance(node, ast.NamedExpr) for node in ast.walk(test))
        if isinstance(test, ast.Constant):
            return
        # Dropping an operand of `and` is harder to notice than True, and as with `or` and False.
        if not (isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And)) and not (
            defines or loop
        ):
            yield _Change(test, "condition", "True", scope, reach)
        if not (isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or)):
            yield _Change(test, "condition", "False", scope, reach)
        yield from self._value(test, scope, reach, decides=True)

    def _value(  # noqa: C901, PLR0912 - one case for each kind of expression
        self, node: ast.expr, scope: str, reach: frozenset[int] | str, *, decides: bool = False
    ) -> Iterator[_Change]:
        """Yield changes of an expression and within it.

        One that `decides` has other changes that show the same as its negation would.
        """
        match node:
            case ast.JoinedStr() | ast.Lambda(body=ast.Constant()):
                return
            case ast.Call() if syntax.is_logging(node):
                return
            case ast.Constant(value):
                for text in syntax.neighbours(value):
                    yield _Change(node, "constant", text, scope, reach)
            case ast.BoolOp():
                yield from self._operands(node, scope, reach)
                for operand in node.values:
                    yield from self._value(operand, scope, reach, decides=True)
                return
            case ast.Compare():
                yield from self._comparison(node, scope, reach, negate=not decides)
            case ast.UnaryOp(ast.Not(), operand):
                if not decides:
                    yield _Change(node, "not", self._atom(operand), scope, reach)
                yield from self._value(operand, scope, reach, decides=True)
                return
            case ast.BinOp(left, operator, right) if type(operator) in syntax.ARITHMETIC:
                if not (syntax.is_text(left) or syntax.is_text(right)):
                    changed = syntax.ARITHMETIC[type(operator)]
                    text = f"({self._atom(left)} {changed} {self._atom(right)})"
                    yield _Change(node, "arithmetic", text, scope, reach)
            case ast.IfExp(test, body, orelse):
                yield from self._condition(test, scope, reach)
                yield from self._value(body, scope, reach)
                yield from self._value(orelse, scope, reach)
                return
            case ast.Call(ast.Name(name)) if name in syntax.CALLS:
                yield _Change(node.func, "call", syntax.CALLS[name], scope, reach)
        yield from self._children(node, scope, reach)

    def _children(
        self, node: ast.expr, scope: str, reach: frozenset[int] | str
    ) -> Iterator[_Change]:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.expr():
                    yield from self._value(child, scope, reach)
                case ast.keyword(arg="strict") if syntax.last_name(node) == "zip":
                    pass
                case ast.keyword(value=value):
                    yield from self._value(value, scope, reach)
                case ast.comprehension(iter=iterated, ifs=ifs):
                    yield from self._value(iterated, scope, reach)
                    for test in ifs:
                        yield from self._condition(test, scope, reach)

    def _operands(
        self, node: ast.BoolOp, scope: str, reach: frozenset[int] | str
    ) -> Iterator[_Change]:
        joint = " and " if isinstance(node.op, ast.And) else " or "
        for dropped in node.values:
            if any(isinstance(part, ast.NamedExpr) for part in ast.walk(dropped)):
                continue
            rest = [self._atom(operand) for operand in node.values if operand is not dropped]
            yield _Change(node, "operand", f"({joint.join(rest)})", scope, reach)

    def _comparison(
        self, node: ast.Compare, scope: str, reach: frozenset[int] | str, *, negate: bool
    ) -> Iterator[_Change]:
        operands = [self._atom(operand) for operand in (node.left, *node.comparators)]
        for index, operator in enumerate(node.ops):
            opposite, boundary = syntax.COMPARISONS[type(operator)]
            for name, changed in (("boundary", boundary), ("comparison", opposite)):
                if changed is None or (name == "comparison" and not negate):
                    continue
                spelled = [syntax.SPELLINGS[type(other)] for other in node.ops]
                spelled[index] = changed
                parts = [operands[0]]
                for spelling, operand in zip(spelled, operands[1:], strict=True):
                    parts += [spelling, operand]
                yield _Change(node, name, f"({' '.join(parts)})", scope, reach)

    def _segment(self, node: ast.expr) -> str:
        start, end = self.span(node)
        return self._text[start:end].decode()

    def _atom(self, node: ast.expr) -> str:
        """Return a node's source so that anything may stand beside it."""
        text = self._segment(node)
        return text if isinstance(node, syntax.ATOMS) else f"({text})"
