"""The changes that are made to Python code."""

from pathlib import Path
from textwrap import dedent

import pytest

from tests.mutants.mutant import Mutant
from tests.mutants.names import Names
from tests.mutants.operators import python_mutants


def mutants_of(tmp_path: Path, source: str) -> list[Mutant]:
    file = tmp_path / "toy" / "code.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(dedent(source))
    return python_mutants("toy/code.py", file.read_text(), Names(tmp_path, "toy"))


def changes(tmp_path: Path, body: str) -> set[str]:
    source = "async def f(a, b, c=0):\n" + "\n".join(f"    {line}" for line in body.splitlines())
    found = mutants_of(tmp_path, source)
    for mutant in found:
        compile(mutant.source, mutant.path, "exec")
    return {f"{mutant.key.before} → {mutant.key.after}" for mutant in found if mutant.line > 1}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return a < b", {"a < b → a <= b", "a < b → a >= b"}),
        ("return a is None", {"a is None → a is not None"}),
        ("return a == b", {"a == b → a != b"}),
        ("return not a", {"not a → a"}),
        ("return True", {"True → False"}),
        ("return 2", {"2 → 3", "2 → 1"}),
        ("return a[-5:]", {"return a[-5:] → return None", "5 → 6", "5 → 4"}),
        ("return 'text'", set()),
        ("return f'{a + 1}'", {"return f'{a + 1}' → return None"}),
        ("return a + b", {"return a + b → return None", "a + b → a - b"}),
        ("return a + 'b'", {"return a + 'b' → return None"}),
        ("return min(a, b)", {"return min(a, b) → return None", "min → max"}),
        ("await a(b)", {"await a(b) → pass"}),
        ("logger.info('text', n=1)", set()),
        ("a.b = c", {"a.b = c → pass"}),
        ("a += b", {"a += b → pass", "a += b → a -= b"}),
        ("raise a(b)", {"raise a(b) → pass"}),
        ("if a: raise b", {"a → True", "a → False"}),
        ("if a < b: c()", {"a < b → True", "a < b → False", "a < b → a <= b"}),
        ("if a and b: c()", {"a and b → False", "a and b → b", "a and b → a"}),
        ("if a or b: c()", {"a or b → True", "a or b → b", "a or b → a"}),
        ("for x in a:\n    break", {"break → continue"}),
        ("while a: b()", {"a → False"}),
        ("x = [y for y in a if y]", {"y → True", "y → False"}),
        ("x = zip(a, b, strict=True)", set()),
        ("x = a if b else c", {"b → True", "b → False"}),
        ("assert a < b", set()),
    ],
)
def test_code_yields_expected_mutants(tmp_path: Path, body: str, expected: set[str]) -> None:
    assert changes(tmp_path, body) == expected


def test_annotations_and_decorators_are_not_mutated(
    tmp_path: Path,
) -> None:
    source = """
        __all__ = ["f"]
        LIMIT = 5

        @cache(size=3)
        class Thing(Protocol):
            x: int = 7

        @wraps(4)
        def f(a: Literal[1] = 2, *, b: bool = False) -> Literal[6]:
            '''Does something.'''
            return a
    """
    found = mutants_of(tmp_path, source)
    assert {mutant.key.before for mutant in found} == {"5", "2", "False", "return a"}


def test_mutant_id_survives_unrelated_edits(
    tmp_path: Path,
) -> None:
    before = mutants_of(tmp_path, "def f(a):\n    return a > 3\n")
    after = mutants_of(
        tmp_path, "import x\n\n\ndef g(): ...\n\n\ndef f(a):\n    x.y()\n    return a > 3\n"
    )
    assert {mutant.id for mutant in before} < {mutant.id for mutant in after}


def test_equal_changes_in_one_function_have_distinct_ids(tmp_path: Path) -> None:
    found = mutants_of(tmp_path, "def f(a):\n    a.b()\n    a.b()\n")
    assert [mutant.key.ordinal for mutant in found] == [1, 2]
    assert len({mutant.id for mutant in found}) == 2
    assert found[0].source != found[1].source


def test_constant_is_covered_by_functions_using_it(tmp_path: Path) -> None:
    package = tmp_path / "toy"
    package.mkdir()
    (package / "other.py").write_text(
        "from toy.code import TWICE as T\n"
        "from toy import code\n\n\n"
        "def one():\n    return T\n\n\n"
        "def two():\n    return code.LIMIT\n\n\n"
        "def no():\n    return 1\n"
    )
    source = """
        LIMIT = 5
        TWICE = f"{LIMIT}{LIMIT}"

        def direct():
            return LIMIT

        def none():
            return 1
    """
    limit = mutants_of(tmp_path, source)[0]
    assert limit.reach == {"toy/code.py": {6}, "toy/other.py": {6, 10}}


def test_dependents_of_changed_module_are_not_independent(tmp_path: Path) -> None:
    package = tmp_path / "toy"
    (package / "inner").mkdir(parents=True)
    modules = {
        "base": "",
        "direct": "from toy import base",
        "indirect": "import toy.direct",
        "inner/__init__": "from toy.base import x",
        "inner/part": "",
        "outer": "from toy.inner.part import y",
        "alone": "import os",
    }
    for name, source in modules.items():
        (package / f"{name}.py").write_text(source)
    found = Names(tmp_path, "toy").independent_of(["toy/base.py"])
    assert found == {"toy.alone"}
