"""The image: built twice the same, without privileges, and serving as operators run it.

It needs no daemon and no registry of images. `tests/deploy` compares it with `deploy/Dockerfile`.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from authsvc import __version__
from authsvc.cli.doctor.table import CHECKS
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.common_pb2 import ClientContext, Delivery
from deploy.image import debian, recipe
from deploy.image.errors import ImageError
from tests.support.proxy import Proxy
from tests.world.containers import USER, Bundle, Container
from tests.world.image import CACHE, SETTINGS, SOURCE

# Each build takes half a minute of processor time.
pytestmark = [pytest.mark.world, pytest.mark.timeout(900)]

_ROOT = Path(__file__).parents[2]
_PASSWORD = "Correct-Horse-42-Staple"
_PRIVILEGES = """
import json, os, ssl
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def refusal(path):
    try:
        open(path, "w").close()
    except OSError as error:
        return error.strerror
paths = ["/etc/authsvc/x", "/opt/authsvc/x", "/usr/bin/x", "/x", "/tmp/x"]
print(json.dumps({
    "pid": os.getpid(),
    "ids": [os.getuid(), os.getgid(), os.getgroups()],
    "capabilities": [status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")],
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "refusals": [refusal(path) for path in paths],
    "authorities": len(ssl.create_default_context().get_ca_certs()),
}))
"""


def test_two_builds_make_the_same_image(built: Path, lock: Path, tmp_path: Path) -> None:
    """The second one in other folders, by another process with another environment."""
    program = f"""
from pathlib import Path
from deploy.image.build import Source, build
build(Path("out"), cache=Path("cache"), source=Source{astuple(SOURCE)}, lock=Path({str(lock)!r}))
"""
    (tmp_path / "cache").mkdir()
    for file in CACHE.glob("*.deb"):
        (tmp_path / "cache" / file.name).symlink_to(file)
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "PYTHONPATH": str(_ROOT)},
        umask=0o077,
        check=True,
    )
    for first in built.parent.iterdir():
        assert first.read_bytes() == (tmp_path / "out" / first.name).read_bytes(), first.name


def test_image_says_what_it_is(bundle: Bundle) -> None:
    labels = bundle.config["config"]["Labels"]
    assert labels == bundle.manifest["annotations"]
    assert labels["org.opencontainers.image.title"] == "authsvc"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.revision"] == SOURCE.revision
    assert labels["org.opencontainers.image.created"] == bundle.config["created"]
    assert bundle.process["args"] == ["authsvc", "serve"]
    assert bundle.process["user"] == {"uid": USER, "gid": USER}


def test_nothing_in_the_image_gives_privileges(bundle: Bundle) -> None:
    for path in bundle.layers:
        with tarfile.open(path) as layer:
            for entry in layer:
                assert (entry.uid, entry.gid) == (0, 0), entry.name
                assert entry.isreg() or entry.isdir() or entry.issym(), entry.name
                expected = {0o777} if entry.issym() else {0o644, 0o755}
                shared = {0o1777} if entry.name in {"tmp", "var/tmp"} else set()
                assert entry.mode in (shared or expected), entry.name
    programs = {path.name for path in (bundle.root / "usr/bin").iterdir()}
    assert programs == {f"python{recipe.PYTHON}"}
    assert not list(bundle.root.glob("usr/sbin/*"))
    assert not list((bundle.root / recipe.SITE_PACKAGES).glob("pip*"))


def test_file_with_another_hash_is_refused(lock: Path, tmp_path: Path) -> None:
    netbase = debian.read_lock(lock)["netbase"]
    changed = replace(netbase, sha256="0" * 64)
    with pytest.raises(ImageError, match="netbase is not the locked one"):
        debian.fetch([changed], release=recipe.RELEASE, cache=tmp_path)
    gone = replace(netbase, version="0.1")
    with pytest.raises(ImageError, match="make image-lock"):
        debian.fetch([gone], release=recipe.RELEASE, cache=tmp_path)


def test_container_has_no_privileges_and_can_write_nowhere(run: Callable[..., Container]) -> None:
    container = run("python", "-c", _PRIVILEGES)
    assert container.process.end() == 0, container.process.output
    found = json.loads(container.process.output)
    *_, temporary = refusals = found.pop("refusals")
    assert refusals == [*["Read-only file system"] * 4, temporary]
    assert temporary is None
    assert found.pop("authorities") > 100
    assert found == {
        "pid": 1,
        "ids": [USER, USER, []],
        "capabilities": ["0000000000000000"] * 4,
        "no_new_privileges": "1",
    }


async def test_image_serves_and_drains(
    run: Callable[..., Container], etc: Path, own_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with Proxy(own_server.dsn()) as proxy:
        (etc / "secrets" / "database__url").write_text(proxy.dsn)
        migration = run("authsvc", "migrate", **SETTINGS)
        assert await asyncio.to_thread(migration.process.end) == 0, migration.process.output
        service = run(**SETTINGS)
        serving = await asyncio.to_thread(
            service.process.wait_for, r'serving.*"grpc": ?"127.0.0.1:(\d+)"'
        )
        target = f"127.0.0.1:{serving[1]}"
        tls = "/etc/authsvc/tls"
        files = (f"--ca={tls}/ca.crt", f"--cert={tls}/edge.crt", f"--key={tls}/edge.key")
        health = run("authsvc", "health", f"--target={target}", *files)
        assert await asyncio.to_thread(health.process.end) == 0, health.process.output
        await _register_and_log_in(target, tmp_path / "workspace" / "certs")
        doctor = run("authsvc", "doctor", f"--target={target}", *files, "--json", **SETTINGS)
        # It finds what to change in these settings; each of its checks runs, and none fails itself.
        assert await asyncio.to_thread(doctor.process.end) in {0, 1}, doctor.process.output
        findings = json.loads(doctor.process.output)["findings"]
        assert {finding["check"] for finding in findings} >= {check.name for check in CHECKS}
        assert not [each for each in findings if "a defect" in each["remedy"]]
        service.signal(signal.SIGTERM)
        assert await asyncio.to_thread(service.process.end) == 0, service.process.output
        assert "stopped" in service.process.output


async def _register_and_log_in(target: str, tls: Path) -> None:
    names = ("ca.crt", "clients/issuer.key", "clients/issuer.crt")
    credentials = grpc.ssl_channel_credentials(*((tls / name).read_bytes() for name in names))
    client = ClientContext(ip="198.51.100.7", user_agent="test", device_id="laptop")
    async with grpc.aio.secure_channel(target, credentials) as channel:
        auth: Any = AuthServiceStub(channel)
        registered = await auth.Register(
            pb.RegisterRequest(
                email="ada@example.com",
                password=_PASSWORD,
                delivery=Delivery.DELIVERY_RETURN,
                client=client,
            )
        )
        await auth.VerifyEmail(
            pb.VerifyEmailRequest(
                email="ada@example.com",
                code=registered.code,
                registration_token=registered.registration_token,
                client=client,
            )
        )
        login = pb.LoginRequest(email="ada@example.com", password=_PASSWORD, client=client)
        tokens = (await auth.Login(login)).tokens
        request = pb.ValidateTokenRequest(access_token=tokens.access_token)
        # The role app of the issuer may validate, too.
        assert (await auth.ValidateToken(request)).active
