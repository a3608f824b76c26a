"""A test that waits forever is ended, and the place where it waited is printed."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_timeout_shows_where_test_waits(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile("""
        import asyncio

        async def wait_for_good():
            await asyncio.Event().wait()

        async def test_it():
            await asyncio.create_task(wait_for_good())

        def test_another():
            pass
    """)
    options = ["--timeout=5", "--timeout-method=signal", "--asyncio-mode=auto"]
    result = pytester.runpytest_subprocess("-p", "tests.support.timeouts", *options)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*Timeout (>5*", "*in wait_for_good"])
