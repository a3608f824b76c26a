"""PostgreSQL servers for the workers, in a process of their own; each has a migrated template.

The runner forks, and a process that forks must have no threads; the servers are watched by some.
"""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_MEMORY = Path("/dev/shm")
# As those of the tests, which remove what killed ones left behind.
_PREFIX = "authsvc-test-"
# Not called as databases of tests are, which are dropped.
TEMPLATE = "migrated"


@contextlib.contextmanager
def running(count: int) -> Iterator[list[str]]:
    """Run `count` servers; gives their addresses."""
    command = [sys.executable, "-m", "tests.mutants.servers", str(count)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait()


def _main(count: int) -> None:
    """Run servers until the input ends; print their addresses."""
    # Imported here, as the runner must not hold any module of the package when it forks.
    from authsvc.dev.postgres import EmbeddedPostgres  # noqa: PLC0415

    parent = _MEMORY if _MEMORY.is_dir() else None
    folders = [Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)) for _ in range(count)]
    servers = [EmbeddedPostgres(folder, durable=False) for folder in folders]
    try:
        for server in servers:
            server.start()
            asyncio.run(_make_template(server.dsn(), server.dsn(TEMPLATE)))
        print(json.dumps([server.dsn() for server in servers]), flush=True)
        sys.stdin.read()
    finally:
        for server in servers:
            server.stop()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


async def _make_template(address: str, template: str) -> None:
    # Imported here for the same reason; projects without a database need no driver either.
    import asyncpg  # noqa: PLC0415

    from authsvc.store.postgres.migrator import migrate  # noqa: PLC0415

    connection = await asyncpg.connect(address)
    try:
        await connection.execute(f"CREATE DATABASE {TEMPLATE}")
    finally:
        await connection.close()
    await migrate(template)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
