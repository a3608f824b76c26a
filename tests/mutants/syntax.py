"""Owns what the operators ask of Python's syntax: what becomes of what, and what is left alone."""

import ast

COMPARISONS: dict[type[ast.cmpop], tuple[str, str | None]] = {
    # The opposite, and the same but for the boundary.
    ast.Lt: (">=", "<="),
    ast.LtE: (">", "<"),
    ast.Gt: ("<=", ">="),
    ast.GtE: ("<", ">"),
    ast.Eq: ("!=", None),
    ast.NotEq: ("==", None),
    ast.Is: ("is not", None),
    ast.IsNot: ("is", None),
    ast.In: ("not in", None),
    ast.NotIn: ("in", None),
}
SPELLINGS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}
ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "//",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.LShift: ">>",
    ast.RShift: "<<",
    ast.BitAnd: "|",
    ast.BitOr: "&",
    ast.BitXor: "&",
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
_LOGGERS = frozenset({"logger", "log", "_log"})
SKIPPED_FUNCTIONS = frozenset({"__repr__", "__str__"})
SKIPPED_NAMES = frozenset({"__all__", "__slots__"})
ATOMS = (ast.Name, ast.Constant, ast.Attribute, ast.Call, ast.Subscript, ast.Tuple, ast.List)
TEXTS = (ast.JoinedStr, ast.List, ast.Tuple)
# Above this, one more and one less are much the same.
_LARGE = 100


def plain(text: str) -> str:
    """Return code on one line, without the parentheses that a change put around itself."""
    text = " ".join(text.split())
    if text.startswith("(") and text.endswith(")"):
        try:
            if ast.dump(ast.parse(text[1:-1])) == ast.dump(ast.parse(text)):
                return text[1:-1]
        except SyntaxError:
            pass
    return text


def defined(statement: ast.stmt) -> str:
    """Return the name that a module's statement defines."""
    match statement:
        case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
            return name
        case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
            return name
    return ""


def blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """Return the blocks of a compound statement."""
    match statement:
        case ast.Try(body, handlers, orelse, finalbody):
            return [body, *(handler.body for handler in handlers), orelse, finalbody]
        case ast.Match(cases=cases):
            return [case.body for case in cases]
        case ast.With(body=body) | ast.AsyncWith(body=body):
            return [body]
        case ast.If(body=body, orelse=orelse) | ast.While(body=body, orelse=orelse):
            return [body, orelse]
        case ast.For(body=body, orelse=orelse) | ast.AsyncFor(body=body, orelse=orelse):
            return [body, orelse]
    return []


def header_lines(statement: ast.stmt) -> frozenset[int]:
    """Return the lines of a statement without those of the statements within it."""
    end = statement.end_lineno or statement.lineno
    body = getattr(statement, "body", None)
    if isinstance(body, list) and body:
        end = max(statement.lineno, body[0].lineno - 1)
    return frozenset(range(statement.lineno, end + 1))


def can_be_dropped(statement: ast.stmt, scope: str) -> bool:
    """Tell whether a statement acts on something that outlives it, so that its loss may show."""
    match statement:
        case ast.Expr(ast.Call() | ast.Await()) | ast.Raise() | ast.AugAssign() | ast.Delete():
            return True
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return not scope.endswith("__init__")
    return False


def is_answer(value: ast.expr) -> bool:
    """Tell whether other changes say the same as returning None."""
    match value:
        case ast.Constant() | ast.Compare() | ast.UnaryOp(ast.Not()):
            return True
        case ast.BoolOp(ast.And(), values):
            return all(is_answer(operand) for operand in values)
        case ast.Tuple(elts=[]):
            return True
    return False


def is_logging(node: ast.expr) -> bool:
    """Tell whether a call writes to the log."""
    match node:
        case ast.Call(ast.Attribute(ast.Name(name))):
            return name in _LOGGERS
    return False


def is_text(node: ast.expr) -> bool:
    """Tell whether an operand of + is joined and not added."""
    match node:
        case ast.Constant(str() | bytes()):
            return True
    return isinstance(node, TEXTS)


def last_name(node: ast.expr) -> str:
    """Return the last part of a dotted name, whatever is called or subscripted by it."""
    match node:
        case ast.Name(name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value=value) | ast.Call(func=value):
            return last_name(value)
    return ""


def neighbours(value: object) -> list[str]:
    """Return constants that are easily taken for this one."""
    match value:
        case bool():
            return [str(not value)]
        case int() if 0 < value < _LARGE:
            return [str(value + 1), str(value - 1)]
        case int():
            return [str(value + 1)]
        case float():
            return [str(value + 1)]
    return []
