"""`authsvc top` reads replicas over real HTTP, and goes on when they are restarted."""

import asyncio
import io
import json
import os
import pty
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from authsvc.cli import scraping
from authsvc.cli.scraping import Scrape, metrics_url, parse, replicas
from authsvc.cli.top.command import Watcher, _printer
from authsvc.cli.top.snapshot import Observation, Snapshot, snapshot
from authsvc.dev.workspace import Workspace
from authsvc.errors import ServerError
from authsvc.outbound.http import open_session
from tests.cli.conftest import Command, plain
from tests.support.metrics_server import metrics_server
from tests.support.ports import port_of


def text(uptime: float, calls: int) -> str:
    labels = 'method="/authsvc.v1.AuthService/GetJwks",code="OK",reason=""'
    return f"authsvc_uptime_seconds {uptime}\nauthsvc_rpc_calls_total{{{labels}}} {calls}\n"


def calls(found: Snapshot) -> float:
    return sum(row.calls_per_second for row in found.methods)


async def test_replicas_come_go_and_are_restarted() -> None:
    async with (
        metrics_server(text(100, 10)) as first,
        metrics_server(text(50, 0)) as second,
        open_session() as http,
    ):
        watcher = Watcher([f"{first.url}/metrics", f"{second.url}/metrics"], None)
        assert calls(await watcher.look(http)) == 0
        first.text, second.text = text(110, 30), text(60, 50)
        found = await watcher.look(http)
        assert calls(found) == 2 + 5
        assert [row.name for row in found.replicas] == [first.name, second.name]
        # One is down, and counts for nothing.
        second.status = 503
        first.text = text(120, 30)
        found = await watcher.look(http)
        assert [row.problem for row in found.replicas] == ["", "answers 503"]
        assert calls(found) == 0
        # It is back, with nothing to be compared with.
        second.status, second.text = 200, text(1, 4)
        assert calls(await watcher.look(http)) == 0
        # It is restarted between two looks.
        second.text = text(11, 24)
        assert calls(await watcher.look(http)) == 2
        second.text = text(2, 6)
        assert calls(await watcher.look(http)) == 3


async def test_each_address_of_a_name_is_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a headless Service; the resolver is not ours."""

    async def resolve(host: str, port: int, **_: object) -> Sequence[Any]:
        assert (host, port) == ("authsvc-headless", 8081)
        ips = ("10.0.0.1", "10.0.0.2", "10.0.0.1", "fd00::1")
        return [(None, None, 0, "", (ip, port)) for ip in ips]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve, raising=False)
    found = await replicas("http://authsvc-headless:8081/metrics")
    assert [each.name for each in found] == ["10.0.0.1:8081", "10.0.0.2:8081"]


async def test_name_that_cannot_be_resolved_is_a_problem_of_its_own() -> None:
    async with metrics_server(text(1, 1)) as server, open_session() as http:
        watcher = Watcher(["http://no-such-host.invalid/metrics", f"{server.url}/metrics"], None)
        found = await watcher.look(http)
    assert [bool(row.problem) for row in found.replicas] == [False, True]
    assert "can't be resolved" in found.replicas[1].problem


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("authsvc:8081", "http://authsvc:8081/metrics"),
        ("http://authsvc:8081/", "http://authsvc:8081/metrics"),
        ("https://auth.example.com/internal/metrics", "https://auth.example.com/internal/metrics"),
        ("[::1]:8081", "http://[::1]:8081/metrics"),
    ],
)
def test_url_may_be_written_briefly(given: str, url: str) -> None:
    assert metrics_url(given) == url


@pytest.mark.parametrize("given", ["", "ftp://a", "http://", "http://a:x", "http://a:99999"])
def test_what_is_no_url_is_refused(given: str) -> None:
    with pytest.raises(ServerError, match="is not an address of metrics"):
        metrics_url(given)


async def test_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "_MAX_BYTES", 1_000)
    async with metrics_server(text(1, 1) * 1_000) as server, open_session() as http:
        found = await Watcher([f"{server.url}/metrics"], None).look(http)
    assert found.replicas[0].problem.startswith("answers with more than")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--interval", "1s"), "--interval: expected 2s to 60m"),
        (("--interval", "2h"), "--interval: expected 2s to 60m"),
        (("--url", "ftp://a"), '"ftp://a" is not an address of metrics'),
        (("--key", "a.key"), "--cert and --key need each other"),
        (("--url", "https://a", "--ca", "none.crt"), "none.crt: No such file or directory"),
    ],
)
def test_wrong_options_are_refused(command: Command, arguments: tuple[str, ...], said: str) -> None:
    result = command("top", "--once", *arguments)
    assert result.exit_code == 1
    assert said in plain(result.output)


def test_replicas_that_cannot_be_read_end_with_code_1(
    command: Command, unheard: socket.socket
) -> None:
    url = f"http://127.0.0.1:{port_of(unheard)}"
    result = command("top", "--once", "--json", "--interval", "2s", "--url", url)
    assert result.exit_code == 1
    [row] = json.loads(result.stdout)["replicas"]
    assert row["problem"] == "can't be reached: Connection refused"


async def test_replica_that_is_named_twice_counts_once() -> None:
    async with metrics_server(text(100, 10)) as server, open_session() as http:
        watcher = Watcher([f"{server.url}/metrics"] * 2, None)
        await watcher.look(http)
        server.text = text(110, 30)
        found = await watcher.look(http)
    assert (len(found.replicas), calls(found)) == (1, 2)


@pytest.mark.parametrize("as_json", [False, True])
def test_numbers_that_json_does_not_have_are_null(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    shown = snapshot(
        [
            Observation(
                "a:8081", None, parse("authsvc_revocation_read_age_seconds +Inf\n" + text(5, 1), 0)
            )
        ]
    )
    _printer(Console(file=io.StringIO()), as_json=as_json)(shown)
    output = capsys.readouterr().out
    if as_json:
        found = json.loads(output, parse_constant=pytest.fail)
        assert found["replicas"][0]["revocation_age_seconds"] is None
        assert found["gauges"]["revocation_age_seconds"] is None
    else:
        # In a pipe, the whole view is printed, with room for all columns but those of wide ones.
        assert "1 of 1 replicas, 0 calls/s" in output
        assert "loop p99" in output
        assert "in flight" in output
        assert "revocations: read never ago" in output


def test_pipe_gets_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    def many(count: int) -> Scrape:
        lines = [
            f'authsvc_rpc_calls_total{{method="/m/{number}",code="OK"}} {count}\n'
            for number in range(100)
        ]
        return parse(f"authsvc_uptime_seconds {count}\n" + "".join(lines), count)

    _printer(Console(file=io.StringIO()), as_json=False)(
        snapshot([Observation("a:8081", many(1), many(2))])
    )
    output = capsys.readouterr().out
    assert output.count("/m/") == 100
    assert " more" not in output


@pytest.mark.world
@pytest.mark.parametrize("down", [False, True])
async def test_once_shows_what_happened_in_between(
    tmp_path: Path, unheard: socket.socket, down: bool
) -> None:
    """One replica that is down does not make it fail."""
    more = ["--url", f"http://127.0.0.1:{port_of(unheard)}"] if down else []
    async with metrics_server(text(100, 10)) as server:
        process = await asyncio.create_subprocess_exec(
            *run("--once", "--json", "--url", server.url, *more),
            stdout=subprocess.PIPE,
            cwd=tmp_path,
        )
        assert process.stdout is not None
        await server.until_asked()
        server.text = text(110, 30)
        found = json.loads(await process.stdout.readline())
        assert await process.wait() == 0
    assert found["methods"][0]["calls_per_second"] == 2
    assert [bool(row["problem"]) for row in found["replicas"]] == [False, True][: 1 + down]


@pytest.mark.world
async def test_http_port_with_tls_is_read_with_the_client_that_is_named(
    workspace: Workspace,
) -> None:
    """Without --url, the settings say where; a certificate that is named goes before theirs."""
    folder = workspace.certificates
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.crt")
    tls.load_cert_chain(folder / "server.crt", folder / "server.key")
    tls.verify_mode = ssl.CERT_REQUIRED
    client = folder / "clients" / "app"
    named = ("--ca", folder / "ca.crt", "--cert", f"{client}.crt", "--key", f"{client}.key")
    async with metrics_server(text(100, 10), tls=tls) as server:
        own = {
            "AUTHSVC_DATABASE__URL": "postgresql://a@127.0.0.1/b",
            "AUTHSVC_HTTP__ADDRESS": server.name,
            "AUTHSVC_HTTP__TLS__CLIENT_CA_FILE": str(folder / "ca.crt"),
        }
        # One that is for servers only is not taken for a client's.
        for certificate, arguments, code in (
            (folder / "server", (), 1),
            (folder / "server", named, 0),
            (client, (), 0),
        ):
            own["AUTHSVC_HTTP__TLS__CERTIFICATE_FILE"] = f"{certificate}.crt"
            own["AUTHSVC_HTTP__TLS__KEY_FILE"] = f"{certificate}.key"
            process = await asyncio.create_subprocess_exec(
                *run("--once", "--json", *map(str, arguments)),
                stdout=subprocess.PIPE,
                env=os.environ | own,
            )
            output, _ = await process.communicate()
            assert process.returncode == code, output
            assert bool(json.loads(output)["replicas"][0]["problem"]) == bool(code)


def run(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "authsvc", "top", "--interval", "2s", *arguments]


@pytest.mark.slow
async def test_pipe_gets_a_line_of_json_for_each_look(tmp_path: Path) -> None:
    async with metrics_server(text(100, 10)) as server:
        process = await asyncio.create_subprocess_exec(
            *run("--json", "--url", server.url), stdout=subprocess.PIPE, cwd=tmp_path
        )
        assert process.stdout is not None
        first = json.loads(await process.stdout.readline())
        server.text = text(110, 30)
        second = json.loads(await process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
    assert (first["methods"], first["replicas"][0]["calls_per_second"]) == ([], None)
    assert second["methods"][0]["calls_per_second"] == 2
    # Numbers that JSON does not have are null.
    assert second["gauges"]["hashes_queued"] is None


@pytest.mark.slow
async def test_terminal_shows_views_and_is_left_as_it_was(tmp_path: Path) -> None:
    async with metrics_server(text(100, 10)) as server:
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *run("--url", server.url), stdin=theirs, stdout=theirs, cwd=tmp_path
        )
        os.close(theirs)
        output = await asyncio.to_thread(_read_until, ours, b"1 of 1 replicas")
        process.send_signal(signal.SIGINT)
        output += await asyncio.to_thread(_read_until, ours, b"\x1b[?1049l")
        assert await process.wait() == 0
        os.close(ours)
    # The alternate screen was entered, and left again.
    assert b"\x1b[?1049h" in output
    assert b"Traceback" not in output


def _read_until(descriptor: int, mark: bytes) -> bytes:
    output = b""
    while mark not in output:
        output += os.read(descriptor, 65_536)
    return output
