"""The selection of tests by their kind."""

import pytest

pytest_plugins = ["pytester"]

INI = """
[pytest]
asyncio_default_fixture_loop_scope = function
markers =
    slow
    fast
    world
    drill
"""
TESTS = """
import pytest

@pytest.fixture
def database_dsn(): ...

@pytest.fixture
def start_service(database_dsn): ...

@pytest.mark.parametrize("case", [1, 2])
def test_pure(case): ...

@pytest.mark.slow
def test_marked(): ...

@pytest.mark.world
def test_on_a_pooler(database_dsn): ...

@pytest.mark.parametrize("case", [1, 2])
def test_on_a_database(database_dsn, case): ...

def test_also_on_a_database(database_dsn): ...

def test_on_one_database_too_many(database_dsn): ...

def test_on_the_service(start_service): ...

@pytest.mark.fast
@pytest.mark.parametrize("case", [1, 2])
def test_on_the_service_but_chosen(start_service, case): ...
"""


def chosen(pytester: pytest.Pytester, folder: str, mark: str = "not slow") -> list[str]:
    """Return the names of the TESTS that `-m mark` selects, if they are in `folder`."""
    path = pytester.mkpydir(folder) / "test_it.py"
    path.write_text(TESTS)
    pytester.makeini(INI)
    options = ["-p", "tests.support.selection", "-m", mark, "--collect-only", "--quiet"]
    result = pytester.runpytest_inprocess(*options, str(path))
    return [line.split("::")[1] for line in result.outlines if "::" in line]


def test_slow_kinds_are_skipped(pytester: pytest.Pytester) -> None:
    assert chosen(pytester, "core") == [
        "test_pure[1]",
        "test_pure[2]",
        "test_on_a_database[1]",
        "test_also_on_a_database",
        "test_on_the_service_but_chosen[1]",
    ]


def test_attacks_are_skipped_unless_marked_fast(pytester: pytest.Pytester) -> None:
    assert chosen(pytester, "security") == ["test_on_the_service_but_chosen[1]"]


def test_tests_of_the_world_are_selected_by_their_mark_alone(pytester: pytest.Pytester) -> None:
    assert chosen(pytester, "core", "world") == ["test_on_a_pooler"]


def test_drills_are_selected_by_their_folder(pytester: pytest.Pytester) -> None:
    assert "test_pure[1]" in chosen(pytester, "drills", "drill")


def test_drills_are_skipped(pytester: pytest.Pytester) -> None:
    assert chosen(pytester, "drills", "not drill") == []
