"""`authsvc doctor` compares limits of memory, CPU and files with the settings."""

import resource
from collections.abc import Mapping
from pathlib import Path

import pytest

from authsvc.cli.doctor.findings import Level
from authsvc.config import Settings
from tests.support.control_groups import tree
from tests.support.doctor import examine, levels, only
from tests.support.probe import with_changes

MIB = 1 << 20


@pytest.mark.parametrize(
    ("membership", "files", "level", "said"),
    [
        ("0::/\n", {"memory.max": f"{768 * MIB}\n"}, Level.OK, "limit is 768 MiB"),
        ("0::/\n", {"memory.max": f"{512 * MIB}\n"}, Level.WARNING, "when its caches are full"),
        ("0::/\n", {"memory.max": f"{256 * MIB}\n"}, Level.ERROR, "busy logins get it killed"),
        (
            "8:memory:/\n",
            {"memory/memory.limit_in_bytes": f"{256 * MIB}\n"},
            Level.ERROR,
            "busy logins get it killed",
        ),
    ],
)
async def test_memory_is_compared_with_what_the_settings_take(
    settings: Settings,
    tmp_path: Path,
    membership: str,
    files: Mapping[str, str],
    level: Level,
    said: str,
) -> None:
    groups = tree(tmp_path, membership, files)
    assert said in await only(level, "machine.memory", settings, groups=groups)


async def test_without_a_limit_the_machine_is_what_counts(
    settings: Settings, tmp_path: Path
) -> None:
    groups = tree(tmp_path, "0::/\n", {})
    huge = with_changes(settings, "passwords", hash_memory_mib=1_048_576)
    text = await only(Level.ERROR, "machine.memory", huge, groups=groups)
    assert text.startswith("this machine's memory is ")


async def test_quota_of_less_than_a_processor_is_named(settings: Settings, tmp_path: Path) -> None:
    groups = tree(tmp_path, "0::/\n", {"cpu.max": "50000 100000\n"})
    text = await only(Level.WARNING, "machine.processors", settings, groups=groups)
    assert text.startswith("the CPU quota is 0.5 processors")


async def test_more_hashing_threads_than_processors_are_named(settings: Settings) -> None:
    assert await levels("machine.processors", settings) == [Level.OK]
    busy = with_changes(settings, "passwords", hash_workers=200, hash_memory_mib=10_000)
    text = await only(Level.WARNING, "machine.processors", busy)
    assert text.startswith("passwords.hash_workers is 200")


async def test_hashes_that_do_not_fit_into_their_memory_are_named(settings: Settings) -> None:
    passwords = {"argon2_memory_kib": 200 * 1024, "hash_workers": 3, "hash_memory_mib": 500}
    found = await examine("machine.processors", with_changes(settings, "passwords", **passwords))
    assert found[0].text.startswith("of 3 threads that hash, only 2 can work at a time")
    assert "passwords.hash_memory_mib to 600" in found[0].remedy


async def test_more_connections_than_files_are_named(settings: Settings) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert await levels("machine.files", with_changes(settings, "grpc", max_connections=10)) == [
        Level.OK
    ]
    many = with_changes(settings, "grpc", max_connections=limit)
    text = await only(Level.WARNING, "machine.files", many)
    assert f"of {limit} (ulimit -n)" in text
