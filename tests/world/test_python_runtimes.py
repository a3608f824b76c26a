"""Stubs and client run with the oldest packages that a client's install allows, and the newest."""

import asyncio
import os
import shutil
import sys
from pathlib import Path
from uuid import UUID

import pytest

import authsvc
from authsvc.models.calls import Role
from tests.support.accounts import EMAIL, PASSWORD
from tests.support.certificates import Authority
from tests.support.probe import identity_of
from tests.support.service import Service
from tests.world.tools import NEW_RUNTIME, OLD_RUNTIME, Tool

pytestmark = pytest.mark.world

# A client: all modules are imported, and a call and an error come back.
CLIENT = """
import asyncio, importlib, pathlib, pkgutil, sys
import grpc
import google.protobuf
from google.rpc import error_details_pb2, status_pb2
import authsvc.v1

folder, address = pathlib.Path(sys.argv[1]), sys.argv[2]
for path in pathlib.Path(*authsvc.v1.__path__).glob("*_pb2*.py"):
    importlib.import_module("authsvc.v1." + path.stem)
import authsvc.client
for module in pkgutil.walk_packages(authsvc.client.__path__, "authsvc.client."):
    importlib.import_module(module.name)
from authsvc.v1 import auth_service_pb2 as pb, auth_service_pb2_grpc as stubs, options_pb2

credentials = grpc.ssl_channel_credentials(
    *((folder / name).read_bytes() for name in ("ca.crt", "app.key", "app.crt"))
)
options = [("grpc.ssl_target_name_override", "localhost")]
with grpc.secure_channel(address, credentials, options) as channel:
    auth = stubs.AuthServiceStub(channel)
    print(auth.Register(pb.RegisterRequest(email=sys.argv[3], password=sys.argv[4])).user_id)
    try:
        auth.Login(pb.LoginRequest(email=sys.argv[3], password="wrong"))
    except grpc.RpcError as error:
        [packed] = [value for key, value in error.trailing_metadata() if key.endswith("-bin")]
        info = error_details_pb2.ErrorInfo()
        assert status_pb2.Status.FromString(packed).details[0].Unpack(info)
        print(info.reason)
from authsvc.client import AsyncClient, Client, errors

files = {name: folder / f"app.{name}" for name in ("crt", "key")}
options = {
    "ca": folder / "ca.crt", "cert": files["crt"], "key": files["key"], "server_name": "localhost"
}
with Client(address, **options) as client:
    assert client.auth.GetJwks(pb.GetJwksRequest()).jwks_json
    try:
        client.auth.Login(pb.LoginRequest(email=sys.argv[3], password="wrong"))
    except errors.CredentialsInvalid as error:
        assert error.request_id

async def main():
    async with AsyncClient(address, **options) as client:
        assert (await client.auth.GetJwks(pb.GetJwksRequest())).jwks_json
        try:
            await client.auth.Login(pb.LoginRequest(email=sys.argv[3], password="wrong"))
        except errors.CredentialsInvalid as error:
            assert error.request_id

asyncio.run(main())
field = pb.LoginRequest.DESCRIPTOR.fields_by_name["password"]
print(field.GetOptions().Extensions[options_pb2.secret])
print(grpc.__version__, google.protobuf.__version__)
"""


@pytest.mark.parametrize("runtime", [OLD_RUNTIME, NEW_RUNTIME], ids=lambda tool: tool.name)
async def test_stubs_and_client_call_the_service(
    runtime: Tool, service: Service, authority: Authority, tmp_path: Path
) -> None:
    [package] = authsvc.__path__
    for part in ("__init__.py", "__main__.py"):
        (tmp_path / "authsvc").mkdir(exist_ok=True)
        shutil.copy(f"{package}/{part}", tmp_path / "authsvc")
    for part in ("client", "v1", "cli"):
        shutil.copytree(f"{package}/{part}", tmp_path / "authsvc" / part)
    app = authority.caller(identity_of(Role.APP))
    contents = {"ca.crt": authority.certificate, "app.crt": app.certificate, "app.key": app.key}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    # Without the packages of this environment (-S), and with warnings as errors.
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{runtime.bin}"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-S", "-W", "error", "-c", CLIENT),
        *(str(tmp_path), f"127.0.0.1:{service.clients.port}", EMAIL, PASSWORD),
        env=environment,
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    user_id, reason, secret, versions = output.decode().splitlines()
    assert str(UUID(user_id)) == user_id
    assert (reason, secret) == ("CREDENTIALS_INVALID", "True")
    if runtime is OLD_RUNTIME:
        assert versions == "1.74.0 6.31.1"
    command = [sys.executable, "-S", "-m", "authsvc", "serve"]
    run = await asyncio.create_subprocess_exec(
        *command, env=environment, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await run.communicate()
    assert run.returncode == 2
    assert b"pip install 'authsvc[server]'" in errors
