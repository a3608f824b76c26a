"""No code writes to the log or the terminal what the protos mark as a secret, or whole messages."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api import fields, is_secret

PACKAGE = Path(__file__).parents[2] / "authsvc"
SECRET = {field.name for field in fields() if is_secret(field)}
MESSAGES = {"request", "response"}
LOGS = {"log", "_log", "logger", "logging"}
PRINTS = {"print", "echo", "secho"}
# Other things that have the name of a secret.
HARMLESS = {
    ("rpc/call_log.py", "code"): "a status code",
    ("rpc/interceptor.py", "code"): "a status code",
}


def written(code: str) -> Iterator[str]:
    """Yield the names in the arguments of calls that log or print."""
    for call in ast.walk(ast.parse(code)):
        if isinstance(call, ast.Call) and writes(call.func):
            for argument in (*call.args, *call.keywords):
                yield from names_in(argument)


def writes(function: ast.expr) -> bool:
    match function:
        case ast.Name(name) | ast.Attribute(attr=name) if name in PRINTS:
            return True
        case ast.Attribute(value=ast.Name(owner) | ast.Attribute(attr=owner)):
            return owner in LOGS
    return False


def names_in(argument: ast.AST) -> Iterator[str]:
    for node in ast.walk(argument):
        match node:
            case ast.Name(name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                yield name


def test_code_writes_no_secret_field_and_no_message() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if PACKAGE / "v1" not in path.parents:
            file = path.relative_to(PACKAGE).as_posix()
            found |= {(file, name) for name in written(path.read_text())}
    assert {(file, name) for file, name in found if name in SECRET | MESSAGES} == set(HARMLESS)


@pytest.mark.parametrize(
    "code",
    [
        'log.info("x", password=given)',
        'self._log.warning("x", value=request.refresh_token)',
        'log.bind(a=1).info("x")\nlog.debug(f"{session_token}")',
        "print(tokens.access_token)",
        'typer.echo(f"{response}")',
    ],
)
def test_secret_fields_are_recognized(code: str) -> None:
    assert not (SECRET | MESSAGES).isdisjoint(written(code))


def test_secrets_come_from_the_option() -> None:
    assert {"password", "refresh_token", "api_key"} <= SECRET
    assert "page_token" not in SECRET
