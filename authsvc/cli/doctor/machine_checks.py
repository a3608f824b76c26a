"""Owns the checks of what this process gets from its machine or container, against the settings."""

import os
import resource
from collections.abc import Sequence

from authsvc.cli.doctor.deployment import Deployment
from authsvc.cli.doctor.findings import Finding, Skip, error, ok, warning
from authsvc.config import Settings, footprint
from authsvc.core.passwords.processors import spare_processors, usable_processors

_MIB = 1 << 20
# Descriptors that are no connections of callers: files, sockets to the outside, the loop's own.
_OTHER_FILES = 100


async def memory(deployment: Deployment) -> Sequence[Finding]:
    """Compare the limit of memory with what the settings let the service take."""
    limit = deployment.groups.memory()
    whose = "the container's limit"
    if limit is None:
        limit, whose = _physical_memory(), "this machine's memory"
    parts = footprint.memory(deployment.settings)
    whole = sum(parts.values())
    least = parts[""] + parts[_HASHES]
    text = f"{whose} is {limit // _MIB} MiB; the settings let a replica take {whole // _MIB} MiB"
    largest = sorted((size, name) for name, size in parts.items() if name)[:-4:-1]
    shown = ", ".join(f"{name} {size // _MIB} MiB" for size, name in largest)
    if limit < least:
        return [
            error(
                f"{text}, and hashing alone more than that: busy logins get it killed",
                f"raise the limit to {whole // _MIB} MiB, or lower {_HASHES} (at least 272)",
            )
        ]
    if limit < whole:
        return [
            warning(
                f"{text} when its caches are full ({shown})",
                f"raise the limit to {whole // _MIB} MiB, or lower these settings",
            )
        ]
    return [ok(text)]


_HASHES = "passwords.hash_memory_mib"


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


async def processors(deployment: Deployment) -> Sequence[Finding]:
    """Compare the processors with the threads that hash passwords."""
    usable = usable_processors(deployment.groups)
    threads = deployment.settings.passwords.hash_workers
    found = list(_hash_memory(deployment.settings, threads or spare_processors(deployment.groups)))
    if usable < 1:
        found.append(
            warning(
                f"the CPU quota is {usable:g} processors: when it is used up, the kernel stops all"
                " calls, for up to a tenth of a second at a time",
                "give it a quota of 2 or more, or a request without a limit",
            )
        )
    if threads >= max(2, usable):
        found.append(
            warning(
                f"passwords.hash_workers is {threads}, of {usable:g} processors: while logins are"
                " busy, everything else waits",
                "leave it out: it is then one less than the processors",
            )
        )
    return found or [ok(f"{usable:g} processors, of which hashing leaves at least one")]


def _hash_memory(settings: Settings, threads: int) -> Sequence[Finding]:
    passwords = settings.passwords
    at_once = passwords.hash_memory_mib * 1024 // passwords.argon2_memory_kib
    if at_once >= threads:
        return []
    return [
        warning(
            f"of {threads} threads that hash, only {at_once} can work at a time:"
            f" passwords.hash_memory_mib ({passwords.hash_memory_mib}) has room for no more hashes"
            f" of passwords.argon2_memory_kib ({passwords.argon2_memory_kib})",
            f"set passwords.hash_memory_mib to {-(-threads * passwords.argon2_memory_kib // 1024)},"
            " and raise the limit of memory with it",
        )
    ]


async def descriptors(deployment: Deployment) -> Sequence[Finding]:
    """Compare the limit of open files with the connections that the settings allow."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        raise Skip("there is no limit of open files")
    settings = deployment.settings
    needed = (
        settings.grpc.max_connections
        + settings.http.max_connections
        + settings.database.connections
        + _OTHER_FILES
    )
    text = f"up to {needed} files and connections may be open, of {limit} (ulimit -n)"
    if needed <= limit:
        return [ok(text)]
    return [
        warning(
            text,
            "raise the limit (LimitNOFILE= of systemd, ulimit of the container's runtime), or"
            " lower grpc.max_connections",
        )
    ]
