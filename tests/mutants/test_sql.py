"""The list of SQL mutants."""

from pathlib import Path

import pytest

from tests.mutants.mutant import Mutant
from tests.mutants.names import Names
from tests.mutants.sql import ListError, sql_mutants

_STORE = '''
_LIVE = "end > $2"
_OTHER = "SELECT a FROM t WHERE id = $1"
_CLAIM = f"""
DELETE FROM t WHERE id = $1 AND {_LIVE}
"""


async def claim(connection):
    return await connection.fetch(_CLAIM)


async def other(connection):
    return await connection.fetch(_OTHER)
'''
_MIGRATION = """
CREATE FUNCTION first(a bigint) RETURNS bigint LANGUAGE sql AS $$
    SELECT a + 1
$$;
CREATE FUNCTION second(a bigint) RETURNS bigint LANGUAGE sql AS $$
    SELECT a + 1
$$;
"""


def listed(root: Path, text: str) -> list[Mutant]:
    package = root / "toy"
    package.mkdir()
    (package / "store.py").write_text(_STORE)
    (package / "0001_first.sql").write_text(_MIGRATION)
    (root / "list.toml").write_text(text)
    return sql_mutants(root, "list.toml", Names(root, "toy"))


def test_condition_replaced_by_true_is_a_mutant(tmp_path: Path) -> None:
    (mutant,) = listed(
        tmp_path,
        """
        [[statement]]
        file = "toy/store.py"
        constant = "_CLAIM"
        drop = ["id = $1"]
        """,
    )
    assert "DELETE FROM t WHERE (id = $1 OR true) AND {_LIVE}" in mutant.source
    assert "SELECT a FROM t WHERE id = $1" in mutant.source
    assert mutant.reach == {"toy/store.py": {10}}
    assert mutant.is_sql


def test_fragment_is_covered_by_users_of_its_statement(tmp_path: Path) -> None:
    (mutant,) = listed(
        tmp_path,
        """
        [[statement]]
        file = "toy/store.py"
        constant = "_LIVE"
        swap = [["end > $2", "end >= $2"]]
        """,
    )
    assert mutant.reach == {"toy/store.py": {10}}


def test_only_named_database_function_is_mutated(tmp_path: Path) -> None:
    (mutant,) = listed(
        tmp_path,
        """
        [[statement]]
        file = "toy/0001_first.sql"
        function = "second"
        used_by = "toy/store.py"
        swap = [["a + 1", "a"]]
        """,
    )
    assert mutant.source.count("a + 1") == 1
    assert mutant.source.index("a + 1") < mutant.source.index("second")
    assert mutant.reach == {"toy/store.py": {10, 14}}


@pytest.mark.parametrize(
    "change",
    ['constant = "_CLAIM"\ndrop = ["nothing"]', 'constant = "_GONE"\ndrop = ["id = $1"]'],
)
def test_list_not_matching_code_is_rejected(tmp_path: Path, change: str) -> None:
    with pytest.raises(ListError):
        listed(tmp_path, f'[[statement]]\nfile = "toy/store.py"\n{change}')
