"""Owns the command itself: what it takes, the call, and what it prints."""

import re
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import grpc
import typer
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from authsvc.cli.call.errors import error_text, error_values
from authsvc.cli.call.messages import has_secrets, requests_of, response_text
from authsvc.cli.call.methods import complete_method, method_of
from authsvc.cli.connection import credentials_of, open_channel, target_of
from authsvc.cli.output import DEVELOPMENT, fail, follow

_NAME = re.compile(r"[a-z0-9_.-]+")
_DEADLINE = 10.0
_LONGEST_TIMEOUT = 3_600


def _complete_client(incomplete: str) -> list[str]:
    found = (DEVELOPMENT / "certs" / "clients").glob(f"{incomplete}*.crt")
    return sorted(path.stem for path in found)


def call(
    method: Annotated[
        str,
        typer.Argument(help="The RPC, such as AuthService/Login.", autocompletion=complete_method),
    ],
    request: Annotated[
        str,
        typer.Argument(help="The request as JSON; - reads it from standard input."),
    ] = "{}",
    *,
    client: Annotated[
        str,
        typer.Option(
            "--as",
            help="The client to call as: one of the state folder's certificates.",
            autocompletion=_complete_client,
        ),
    ] = "app",
    bearer: Annotated[
        Path | None,
        typer.Option(
            help="A file with the access token of the user to act for; - is standard input."
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(help="Metadata to send, as NAME=VALUE (repeatable)."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one line of JSON for each response, including its secrets, and for an"
            " error.",
        ),
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            help="How long the call may take, in seconds.",
            show_default="10, or no limit for a stream",
        ),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--state", help="The state folder of `authsvc dev`.")
    ] = DEVELOPMENT,
    target: Annotated[
        str | None,
        typer.Option(
            help="The address of the service.", show_default="that of the state folder's service"
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(help="The CA certificate.", show_default="the state folder's"),
    ] = None,
    cert: Annotated[
        Path | None, typer.Option(help="A client certificate to use instead of --as.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The key of --cert.")] = None,
    server_name: Annotated[
        str,
        typer.Option(
            help="The name to expect in the service's certificate; see `authsvc health`.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Call any RPC of a running service, and print its response as JSON.

    The names of RPCs and fields are those of the protos. A stream's responses are printed as they
    come, until it ends or Ctrl-C is pressed. Secrets in responses are masked unless --json is
    given. To keep passwords off the command line, pass the request by standard input.

    Exit codes: 0 if the call succeeded; 1 if it was rejected, with the service's reason.
    """
    found = method_of(method)
    if timeout is not None and not 0 < timeout <= _LONGEST_TIMEOUT:
        fail(f"--timeout is more than 0 and at most {_LONGEST_TIMEOUT} seconds")
    if request == "-" and str(bearer) == "-":
        fail("the request and the access token can't both come from standard input")
    sent = _metadata(metadata or ())
    requests = _requests(request, found)
    if bearer is not None:
        sent.append(("authorization", f"Bearer {_token(bearer)}"))
    files = _Files(folder / "certs", client, ca, cert, key)
    credentials = credentials_of(*files.paths())
    address = target or target_of(folder)
    deadline = timeout or (None if found.server_streaming else _DEADLINE)

    async def work() -> None:
        connect = deadline or _DEADLINE
        async with await open_channel(address, server_name, credentials, connect) as channel:
            async for response in _responses(channel, found, requests, sent, deadline):
                _print(response, found, as_json=as_json)

    try:
        follow(work)
    except grpc.aio.AioRpcError as error:
        print(error_text(error_values(error), plain=as_json), file=sys.stderr)
        raise typer.Exit(1) from None
    if not as_json and has_secrets(found.output_type):
        print("note: secrets are masked; --json prints them", file=sys.stderr)


class _Files(NamedTuple):
    """The files of a client: those given, or else those of `client` in the folder `certs`."""

    certs: Path
    client: str
    ca: Path | None
    cert: Path | None
    key: Path | None

    def paths(self) -> tuple[Path, Path, Path]:
        """Return the CA certificate, the client's certificate and its key, or end the command."""
        if (self.cert is None) != (self.key is None):
            fail("--cert and --key go together")
        own = self.certs / "clients" / self.client
        if self.cert is None and not own.with_suffix(".crt").exists():
            fail(self._missing())
        return (
            self.ca or self.certs / "ca.crt",
            self.cert or own.with_suffix(".crt"),
            self.key or own.with_suffix(".key"),
        )

    def _missing(self) -> str:
        known = sorted(path.stem for path in (self.certs / "clients").glob("*.crt"))
        if not known:
            return f"no certificates in {self.certs}; start the service first with: make run"
        return f"no certificate of {self.client} in {self.certs}/clients: use {', '.join(known)}"


async def _responses(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    requests: Sequence[Message],
    metadata: Sequence[tuple[str, str]],
    deadline: float | None,
) -> AsyncIterator[Message]:
    kinds = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    stub: Any = kinds[method.client_streaming, method.server_streaming](
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    sent: Any = iter(requests) if method.client_streaming else requests[0]
    running = stub(sent, metadata=tuple(metadata), timeout=deadline)
    if not method.server_streaming:
        yield await running
        return
    async for response in running:
        yield response


def _print(response: Message, method: MethodDescriptor, *, as_json: bool) -> None:
    text = response_text(response, method.output_type, plain=as_json)
    if method.server_streaming and not as_json:
        # A line for each response, whatever its size.
        text = " ".join(line.strip() for line in text.splitlines())
    print(text, flush=True)


def _requests(text: str, method: MethodDescriptor) -> list[Message]:
    requests = requests_of(sys.stdin.read() if text == "-" else text, method.input_type)
    if not method.client_streaming and len(requests) != 1:
        fail(f"{method.name} takes one request; {len(requests)} were given")
    return requests


def _token(file: Path) -> str:
    try:
        token = (sys.stdin.read() if str(file) == "-" else file.read_text()).strip()
    except (OSError, UnicodeDecodeError):
        # Without its name, which may be a token that was given by mistake.
        fail("--bearer takes a file with an access token, which can't be read")
    if not token or not token.isascii() or not token.isprintable():
        fail("--bearer takes a file with an access token, and nothing else")
    return token


def _metadata(pairs: Sequence[str]) -> list[tuple[str, str]]:
    result = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.lower()
        if not equals or not _NAME.fullmatch(name) or name.endswith("-bin"):
            fail("--metadata takes NAME=VALUE, with a name of letters, digits, '_', '-' and '.'")
        if name == "authorization":
            fail("an access token goes by --bearer FILE, so that no other process can read it")
        if not value.isascii() or not value.isprintable():
            fail(f"the value of the metadata {name} must be printable ASCII")
        result.append((name, value))
    return result
