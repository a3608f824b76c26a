"""Owns `authsvc incident export`: the evidence of a time span as files with their checksums."""

import hashlib
import os
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from authsvc import __version__
from authsvc.cli.arguments import time_of
from authsvc.cli.calls import cli_call
from authsvc.cli.incident_options import DryRunOption, ReasonOption, conclude, reason_of
from authsvc.cli.output import ConfigOption, JsonOption, SecretsOption, fail, settings_of, to_json
from authsvc.cli.work import with_use_cases
from authsvc.config.text import settings_text
from authsvc.core.audit.recording import AuditType
from authsvc.core.use_cases import UseCases

MANIFEST, CHECKSUMS = "manifest.json", "SHA256SUMS"


def export(
    folder: Annotated[Path, typer.Argument(help="The folder to create for it.")],
    reason: ReasonOption,
    since: Annotated[
        str, typer.Option("--since", help="From when: a time, or how long ago, such as 2h.")
    ],
    until: Annotated[
        str | None,
        typer.Option("--until", help="Up to when; by default now.", show_default=False),
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
) -> None:
    """Export the evidence of a time span: events, sessions, keys, freezes, blocks and settings.

    Each kind is a file of JSON lines that only you can read. SHA256SUMS has the checksums of all;
    the audit event of the export has the checksum of SHA256SUMS. No secrets are exported.
    """
    wanted, now = reason_of(reason), datetime.now(UTC)
    start = time_of(since, "--since", now)
    end = now if until is None else time_of(until, "--until", now)
    if start >= end:
        fail("--since is not before --until")
    settings = settings_text(settings_of(config, secrets))
    call = cli_call()

    async def work(use: UseCases) -> dict[str, Any]:
        kinds = use.evidence_export.of(start, end)
        if dry_run:
            return {"rows": {name: await _count(rows) for name, rows in kinds.items()}}
        # Not before the database has answered: what fails leaves no folder in the way.
        _create(folder)
        writer = _Writer(folder)
        counts = {name: await writer.write_rows(name, rows) for name, rows in kinds.items()}
        writer.write("settings.toml", [settings])
        manifest = {
            "since": start,
            "until": end,
            "made": now,
            "by": call.caller,
            "reason": wanted,
            "version": __version__,
            "rows": counts,
        }
        writer.write(MANIFEST, [to_json(manifest, indent=2), "\n"])
        checksum = writer.write_checksums()
        detail = {
            "since": start.isoformat(),
            "until": end.isoformat(),
            "checksum": checksum,
            "reason": wanted,
        }
        await use.incident_steps.record(AuditType.INCIDENT_EXPORT, call, detail)
        return manifest | {"folder": folder, "checksum": checksum}

    result = with_use_cases(config, secrets, work)
    rows = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in result["rows"].items())
    text = f"Would export {rows}." if dry_run else f"{folder}: {rows}, and the settings."
    conclude(result, text, as_json=as_json)


def _create(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        fail(f"{folder} exists already; nothing is overwritten")
    except OSError as error:
        fail(f"{folder} can't be created: {error.strerror}")


async def _count(rows: AsyncIterator[Any]) -> int:
    return sum([1 async for _ in rows])


class _Writer:
    """Writes files that only their owner can read, and keeps their checksums."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checksums: dict[str, str] = {}

    async def write_rows(self, name: str, rows: AsyncIterator[Any]) -> int:
        """Write a JSON line for each row; return how many."""
        count, digest = 0, hashlib.sha256()
        with self._open(f"{name}.jsonl") as file:
            async for row in rows:
                line = f"{to_json(dict(row))}\n".encode()
                digest.update(line)
                file.write(line)
                count += 1
        self._checksums[f"{name}.jsonl"] = digest.hexdigest()
        return count

    def write(self, name: str, texts: Iterable[str]) -> None:
        """Write a file of text."""
        data = "".join(texts).encode()
        with self._open(name) as file:
            file.write(data)
        self._checksums[name] = hashlib.sha256(data).hexdigest()

    def write_checksums(self) -> str:
        """Write the checksums of all files, as `sha256sum -c` reads them; return their own."""
        lines = (f"{checksum}  {name}\n" for name, checksum in sorted(self._checksums.items()))
        self.write(CHECKSUMS, lines)
        return self._checksums[CHECKSUMS]

    def _open(self, name: str) -> Any:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        return os.fdopen(os.open(self._folder / name, flags, 0o600), "wb")
