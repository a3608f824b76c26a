"""`authsvc call`: against the whole service, as its users type it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import typer
from typer.testing import CliRunner, Result

from authsvc.cli.call.messages import requests_of
from authsvc.cli.call.methods import complete_method, methods
from authsvc.cli.connection import target_of
from authsvc.cli.main import app
from authsvc.dev.workspace import Workspace
from authsvc.v1 import auth_service_pb2
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.logs import caught
from tests.support.probe import identity_of
from tests.support.service import Service

CREDENTIALS = json.dumps({"email": EMAIL, "password": PASSWORD})


class Shell:
    """Runs commands in a folder whose `.authsvc` has the certificates and address of a service."""

    async def call(self, *arguments: str, stdin: str | None = None) -> Result:
        # In a thread, as a command runs its own event loop.
        return await asyncio.to_thread(CliRunner().invoke, app, ["call", *arguments], input=stdin)

    def write(self, name: str, text: str) -> None:
        Path(name).write_text(text)

    async def fails(self, *arguments: str, stdin: str | None = None) -> str:
        """Return what a call that fails says, which is never a traceback."""
        result = await self.call(*arguments, stdin=stdin)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        return result.stderr


@pytest.fixture(autouse=True)
def log_apart() -> Iterator[None]:
    """The log, kept apart: the service would write it to where the output of commands is read."""
    with caught():
        yield


@pytest_asyncio.fixture
async def shell(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    clients = tmp_path / ".authsvc" / "certs" / "clients"
    clients.mkdir(parents=True)
    authority = service.clients.authority
    (clients.parent / "ca.crt").write_bytes(authority.certificate)
    for role in ("app", "edge", "issuer"):
        caller = authority.caller(identity_of(role))
        (clients / f"{role}.crt").write_bytes(caller.certificate)
        (clients / f"{role}.key").write_bytes(caller.key)
    config = clients.parents[1] / "config.toml"
    config.write_text(f'[grpc]\naddress = "127.0.0.1:{service.clients.port}"\n')
    monkeypatch.chdir(tmp_path)
    return Shell()


async def test_response_is_printed_with_its_secrets_masked(shell: Shell, service: Service) -> None:
    user_id = await service.register()
    result = await shell.call("AuthService/Login", "-", stdin=CREDENTIALS)
    assert result.exit_code == 0, result.output
    tokens = json.loads(result.stdout)["tokens"]
    assert tokens["user_id"] == user_id
    masked = {name for name, value in tokens.items() if value == "********"}
    assert masked == {"access_token", "refresh_token", "session_token", "csrf_token"}
    assert "--json" in result.stderr


async def test_bearer_is_read_from_file_and_never_printed(shell: Shell, service: Service) -> None:
    await service.register()
    login = await shell.call("authsvc.v1.AuthService/Login", "-", "--json", stdin=CREDENTIALS)
    (line,) = login.stdout.splitlines()
    token = json.loads(line)["tokens"]["access_token"]
    assert await service.judge_token(token) == ""
    shell.write("token", f"{token}\n")
    account = await shell.call("AccountService/GetAccount", "--bearer", "token")
    assert json.loads(account.stdout)["account"]["email"] == EMAIL
    account = await shell.call("AccountService.GetAccount", "--bearer", "-", stdin=token)
    assert account.exit_code == 0, account.output
    exported = await shell.call("AccountService/ExportData", "--bearer", "token")
    assert exported.stdout
    assert all("json_lines" in json.loads(line) for line in exported.stdout.splitlines())
    for mistake in (["--bearer", token], ["--metadata", f"authorization=Bearer {token}"]):
        assert token not in await shell.fails("AccountService/GetAccount", *mistake)


async def test_errors_are_told_in_words(shell: Shell) -> None:
    weak = json.dumps({"email": EMAIL, "password": "weak"})
    said = await shell.fails("AuthService/Register", weak, "--metadata", "x-request-id=r-1")
    assert said.startswith("error: INVALID_ARGUMENT PASSWORD_WEAK: ")
    assert "\n  password: " in said
    assert said.endswith("\n  request id: r-1\n")
    said = await shell.fails("AuthService/Login", CREDENTIALS, "--as", "edge")
    assert said.startswith("error: PERMISSION_DENIED CALLER_NOT_ALLOWED: ")
    unknown = '{"policy": "nope", "key": "k"}'
    assert "\n  policy: nope\n" in await shell.fails("RateLimitService/GetRateLimit", unknown)
    guess = json.dumps(json.loads(CREDENTIALS) | {"client": {"ip": "203.0.113.7"}})
    for _ in range(5):
        assert "CREDENTIALS_INVALID" in await shell.fails("AuthService/Login", "-", stdin=guess)
    assert "\n  try again in " in await shell.fails("AuthService/Login", guess)
    error = json.loads(await shell.fails("AuthService/Login", guess, "--json"))
    assert (error["code"], error["reason"]) == ("RESOURCE_EXHAUSTED", "TOO_MANY_ATTEMPTS")
    assert error["retry_after_seconds"] > 0
    assert error["request_id"]


MISTAKES = [
    (["AuthService/Logn"], "did you mean AuthService/Login"),
    (["Login"], "did you mean AuthService/Login?"),
    (["SessionService"], "its RPCs are SessionService/CreateSession, "),
    (["x.v1.AuthService/Login"], "did you mean AuthService/Login?"),
    (["AuthService/Login", '{"passwords": "x"}'], "passwords: LoginRequest has no such field; did"),
    (["AuthService/Login", '{"client": {"ipp": "x"}}'], "client.ipp: ClientContext has no"),
    (["AuthService/Login", '{"client": 5}'], "client must be a JSON object"),
    (["AuthService/Register", '{"delivery": "RETURN"}'], "did you mean DELIVERY_RETURN?"),
    (["AuthService/Login", "email=x"], "the request is not JSON"),
    (["AuthService/Login", f'{{"email": {"1" * 5_000}}}'], "a number with too many digits"),
    (["AuthService/Login", "{} {}"], "takes one request; 2 were given"),
    (["AuthService/Login", "{}", "--as", "nobody"], "use admin, app, edge, issuer, observer"),
    (["AuthService/Login", "{}", "--target", "127.0.0.1:1"], "127.0.0.1:1 does not answer"),
    (["AuthService/Login", "{}", "--cert", "x"], "--cert and --key go together"),
    (["AuthService/Login", "{}", "--metadata", "x"], "takes NAME=VALUE"),
    (["AuthService/Login", "-", "--bearer", "-"], "can't both come from standard input"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES)
def test_mistakes_are_told_in_one_line(
    workspace: Workspace, arguments: list[str], said: str
) -> None:
    assert workspace.certificates.exists()
    result = CliRunner().invoke(app, ["call", *arguments])
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_secret_of_wrong_type_is_not_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    request = auth_service_pb2.BatchValidateTokensRequest.DESCRIPTOR
    with pytest.raises(typer.Exit):
        requests_of('{"access_tokens": "hidden-271828"}', request)
    said = capsys.readouterr().err
    assert said.startswith("error: the request is not a BatchValidateTokensRequest: ")
    assert "********" in said
    assert "271828" not in said


def test_all_rpcs_can_be_completed() -> None:
    assert "AuthService/Login" in complete_method("")
    assert complete_method("AuthService/LoginW") == [
        *("AuthService/LoginWithCode", "AuthService/LoginWithPasskey")
    ]
    services = {name.partition("/")[0] for name in methods()}
    assert services == {
        *("AuthService", "AccountService", "SessionService", "RateLimitService", "AdminService"),
        "Health",
    }


def test_address_is_that_of_the_state_folder(tmp_path: Path) -> None:
    assert target_of(tmp_path) == "127.0.0.1:8443"
    (tmp_path / "config.toml").write_text('[grpc]\naddress = "127.0.0.1:9443"\n')
    assert target_of(tmp_path) == "127.0.0.1:9443"
