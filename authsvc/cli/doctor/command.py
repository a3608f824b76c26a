"""Owns the command `authsvc doctor`: its options, its progress, and what it prints."""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from authsvc import log as logs
from authsvc.cli.doctor.deployment import Deployment, Options
from authsvc.cli.doctor.findings import Finding, Level, error, ok, warning
from authsvc.cli.doctor.running import Check, Result, run_checks
from authsvc.cli.doctor.table import CHECKS, VALID
from authsvc.cli.doctor.tls_checks import host_of
from authsvc.cli.output import (
    DEVELOPMENT,
    ConfigOption,
    JsonOption,
    SecretsOption,
    duration_of,
    fail,
    plain_text,
    run,
    sources_of,
    to_json,
)
from authsvc.cli.scraping import metrics_url
from authsvc.config import ConfigError, LogSettings, Settings, load_with_notes
from authsvc.errors import ServerError

_LONGEST_TIMEOUT = 300.0
_STYLES = {
    Level.OK: "green",
    Level.WARNING: "yellow",
    Level.ERROR: "bold red",
    Level.SKIPPED: "dim",
}
_NOTE = "change the setting or remove the file, if this is not meant"


def doctor(
    *,
    config: ConfigOption = None,
    secrets: SecretsOption = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT",
            help="An address by which callers reach the service; may be repeated. By default, the"
            " address of the settings, on this machine.",
        ),
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="The HTTP port of the replicas, one for each address of its name; may be"
            " repeated. By default, the address of the settings, on this machine.",
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            help="The authorities that callers trust; by default tls.client_ca_file.",
            show_default=False,
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(
            help="A client's certificate; by default the service's own.", show_default=False
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The key of --cert.", show_default=False)] = None,
    issuer_ca: Annotated[
        Path | None,
        typer.Option(
            help="The authority of the issuer's address; by default the system's.",
            show_default=False,
        ),
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            help="How many replicas there are; by default those that are connected.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Run only this subject or check; may be repeated."),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Leave out this subject or check; may be repeated."),
    ] = None,
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="How long one check may take.")
    ] = "15s",
    read_only: Annotated[
        bool,
        typer.Option("--read-only", help="Write nothing; revocations.freshness is skipped."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 for warnings, too.")
    ] = False,
    list_checks: Annotated[bool, typer.Option("--list", help="Only list the checks.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a deployment from inside, with the service's own settings, and say what to do.

    Run it where the service runs, before or while it serves. It changes nothing but one row of
    the revocation log, which names nothing that exists.

    Exit codes: 0 if there are no errors; 1 if there are, or with --strict warnings.
    """
    checks = _selected(only or (), skip or ())
    if list_checks:
        _list(checks, as_json=as_json)
        return
    if (cert is None) != (key is None):
        fail("--cert and --key need each other")
    _check_addresses(target or (), url or ())
    config, secrets = sources_of(config, secrets)
    if cert is None and config == DEVELOPMENT / "config.toml":
        cert, key = (DEVELOPMENT / "certs" / "clients" / f"app.{end}" for end in ("crt", "key"))
    seconds = duration_of(timeout, "--timeout")
    limit = seconds.total_seconds() if seconds else 0.0
    if not 0 < limit <= _LONGEST_TIMEOUT:
        fail(f"--timeout: expected more than 0 and at most {_LONGEST_TIMEOUT:g}s")
    options = Options(
        targets=tuple(target or ()),
        urls=tuple(url or ()),
        ca=ca,
        cert=cert,
        key=key,
        issuer_ca=issuer_ca,
        replicas=replicas,
        may_write=not read_only,
        timeout=limit,
    )
    # What the parts of the service log, the findings say.
    logs.configure(LogSettings(level="warning"), io.StringIO())
    settings, valid = _load(config, secrets)
    results = [Result(Check(VALID, "the settings", _never), valid)]
    if settings is not None:
        results += run(lambda: _examine(settings, options, checks))
    _print(results, as_json=as_json)
    counts = _counts(results)
    if counts[Level.ERROR] or (strict and counts[Level.WARNING]):
        raise typer.Exit(1)


def _check_addresses(targets: Sequence[str], urls: Sequence[str]) -> None:
    """End the command if an address can't be one."""
    try:
        for target in targets:
            host_of(target)
        for url in urls:
            metrics_url(url)
    except ServerError as failure:
        fail(str(failure))


async def _never(_deployment: Deployment) -> Sequence[Finding]:
    return ()


def _load(config: Path | None, secrets: Path | None) -> tuple[Settings | None, Sequence[Finding]]:
    remedy = "correct the settings; nothing else can be checked until then"
    try:
        loaded = load_with_notes(config, secrets_dir=secrets)
    except ConfigError as failure:
        found = [error(problem, remedy) for problem in failure.problems]
        if config is None:
            where = "no settings file was read, only the environment"
            found.append(error(f"settings: {where}", "name the file by --config or AUTHSVC_CONFIG"))
        return None, found
    notes = [warning(note, _NOTE) for note in loaded.notes]
    return loaded.settings, notes or [ok(str(config) if config else "from the environment")]


def _selected(only: Sequence[str], skip: Sequence[str]) -> Sequence[Check]:
    known = {name for check in CHECKS for name in (check.name, check.subject)}
    unknown = sorted({*only, *skip} - known)
    if unknown:
        fail(
            f"there is no check or subject {', '.join(unknown)}; the subjects are "
            + ", ".join(dict.fromkeys(check.subject for check in CHECKS))
        )
    return [
        check
        for check in CHECKS
        if (not only or not {check.name, check.subject}.isdisjoint(only))
        and {check.name, check.subject}.isdisjoint(skip)
    ]


async def _examine(
    settings: Settings, options: Options, checks: Sequence[Check]
) -> Sequence[Result]:
    deployment = Deployment(settings=settings, options=options)
    console = Console(stderr=True)
    waiting = {check.name: None for check in checks}

    def text() -> str:
        done = len(checks) - len(waiting)
        return f"{done} of {len(checks)} checks done; waiting for {next(iter(waiting), 'nothing')}"

    with console.status(text()) as status:

        def note(check: Check) -> None:
            del waiting[check.name]
            status.update(text())

        try:
            return await run_checks(checks, deployment, note)
        finally:
            await deployment.close()


def _counts(results: Sequence[Result]) -> Counter[Level]:
    return Counter(finding.level for result in results for finding in result.findings)


def _rows(results: Sequence[Result]) -> Iterator[Mapping[str, Any]]:
    for result in results:
        for finding in result.findings:
            yield {
                "check": result.check.name,
                "looks_at": result.check.looks_at,
                "level": finding.level,
                "text": finding.text,
                "remedy": finding.remedy,
            }


def _print(results: Sequence[Result], *, as_json: bool) -> None:
    counts = _counts(results)
    if as_json:
        totals = {level.value: counts[level] for level in Level}
        print(to_json({"counts": totals, "findings": list(_rows(results))}, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(result.check.name) for result in results)
    for result in results:
        for finding in result.findings:
            level = f"{finding.level:7}"
            console.print(level, style=_STYLES[finding.level], end="  ", markup=False)
            name = f"{result.check.name:{width}}"
            console.print(f"{name}  {plain_text(finding.text)}", markup=False)
            if finding.remedy:
                console.print(f"{'':9}{'':{width}}  → {plain_text(finding.remedy)}", markup=False)
    print(f"\n{', '.join(f'{level}: {counts[level]}' for level in Level)}")


def _list(checks: Sequence[Check], *, as_json: bool) -> None:
    rows = [{"check": check.name, "looks_at": check.looks_at} for check in checks]
    if as_json:
        print(to_json(rows, indent=2))
        return
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        print(f"{check.name:{width}}  {check.looks_at}")
