"""What a machine without a language's toolchain makes of its test."""

from dataclasses import replace

import pytest

from tests.polyglot.languages import GO_CLIENT

ABSENT = replace(GO_CLIENT, clients=["no-such-toolchain"])


def test_missing_toolchain_skips_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLYGLOT_TOOLCHAINS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="go: no-such-toolchain is not on the PATH"):
        ABSENT.built()


def test_missing_toolchain_fails_where_all_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGLOT_TOOLCHAINS", "required")
    with pytest.raises(pytest.fail.Exception, match="go: no-such-toolchain is not on the PATH"):
        ABSENT.built()
