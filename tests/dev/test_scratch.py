"""The folder of a service that is thrown away goes with its process, however that ends."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from authsvc.dev import remover, scratch, temp_folders
from authsvc.dev.scratch import ScratchFolder

_PATIENCE = 60.0
_KILLED = """
import os, signal, sys
from pathlib import Path
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.dev.scratch import ScratchFolder
folder = ScratchFolder()
postgres = EmbeddedPostgres(folder.path, durable=False)
postgres.start()
print(folder.path, postgres.pid, flush=True)
# As a supervisor does that ends a whole group.
os.killpg(0, signal.SIGKILL)
"""


def _until_gone(path: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while path.exists():
        assert time.monotonic() < deadline, f"{path} is left"
        time.sleep(0.01)


def test_folder_is_private_and_removed_when_closed() -> None:
    with ScratchFolder() as folder:
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("content")
    assert not folder.exists()


def test_folder_and_server_of_killed_process_are_gone() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _KILLED],
        check=False,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    folder, server = run.stdout.split()
    _until_gone(Path(folder))
    _until_gone(Path(f"/proc/{server}"))


def test_folder_outlives_its_remover_and_is_removed_by_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "_MEMORY", tmp_path / "none")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held = ScratchFolder()
    with ScratchFolder():
        assert held.path.exists(), "a folder in use is left alone"
    held._remover.kill()
    held.close()
    assert held.path.exists()
    with ScratchFolder():
        assert not held.path.exists()
    assert list(tmp_path.iterdir()) == []


def test_linked_temporary_folders_go_along(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    (folder / "postgres").mkdir(parents=True)
    linked = temp_folders.make(folder / "postgres" / "run")
    (folder / "postgres" / "other").symlink_to(tmp_path)
    remover.remove(folder)
    assert not linked.exists()
    assert not folder.exists()
    assert tmp_path.exists()


def test_remover_waits_for_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a server that still runs are not removed under it, unless it never ends."""
    (tmp_path / "postgres").mkdir()
    lock = os.open(tmp_path / "postgres" / "server.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        assert tmp_path.exists()
        os.close(lock)

    monkeypatch.setattr(time, "sleep", sleep)
    remover.remove(tmp_path)
    assert len(waits) == 1
    assert not tmp_path.exists()
