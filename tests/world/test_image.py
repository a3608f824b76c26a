"""The image: built twice the same, complete, and serving as operators run it.

It needs no daemon and no registry of images. `tests/deploy` compares it with `deploy/Dockerfile`.
"""

import asyncio
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from authsvc import __version__
from authsvc.dev.postgres import EmbeddedPostgres
from authsvc.dev.workspace import Workspace
from authsvc.v1 import auth_service_pb2 as pb
from authsvc.v1.auth_service_pb2_grpc import AuthServiceStub
from authsvc.v1.common_pb2 import ClientContext, Delivery
from deploy.image import debian, recipe
from deploy.image.build import LOCK, Source, build, package_names
from deploy.image.errors import ImageError
from tests.support.proxy import Proxy
from tests.world.containers import (
    MOUNTS,
    USER,
    Bundle,
    Container,
    give_to_group,
    public_folder,
    unpack,
    why_no_namespaces,
)
from tests.world.place import FOLDER

# Each build takes half a minute of processor time.
pytestmark = [pytest.mark.world, pytest.mark.timeout(900)]

_ROOT = Path(__file__).parents[2]
_CACHE = FOLDER / "image"
_SOURCE = Source("0123456789abcdef0123456789abcdef01234567", 1_795_000_000)
# What they import is not in the image: extras, and what is for developers.
_FOR_OTHERS = ("authsvc.dev.watch", "authsvc.outbound.hsm", "authsvc.testing.plugin")
_SETTINGS = {
    "AUTHSVC_CONFIG": "/etc/authsvc/config/config.toml",
    "AUTHSVC_SECRETS_DIR": "/etc/authsvc/secrets",
    # The ports of the manifests may be taken here.
    "AUTHSVC_GRPC__ADDRESS": "127.0.0.1:0",
    "AUTHSVC_HTTP__ADDRESS": "127.0.0.1:0",
}
_PASSWORD = "Correct-Horse-42-Staple"
_IMPORT_ALL = f"""
import importlib, pkgutil
import authsvc
for module in pkgutil.walk_packages(authsvc.__path__, "authsvc."):
    if module.name not in {_FOR_OTHERS}:
        importlib.import_module(module.name)
        print(module.name)
"""
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


@pytest.fixture(scope="session")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lock of Debian's packages; a new one, if its archive no longer has one of them.

    It is in a folder that all workers of this run share, and which one at a time may change.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "image"
    folder.mkdir(exist_ok=True)
    _CACHE.mkdir(parents=True, exist_ok=True)
    found = folder / LOCK.name
    with _alone(folder):
        if not found.exists():
            _copy_lock(found)
    return found


@pytest.fixture(scope="session")
def built(lock: Path) -> Path:
    """The file of the image, built once."""
    folder = lock.parent / "first"
    with _alone(lock.parent):
        if not folder.exists():
            build(folder, cache=_CACHE, source=_SOURCE, lock=lock)
    [archive] = folder.glob("*.oci.tar")
    return archive


@pytest.fixture(scope="session")
def bundle(built: Path) -> Iterator[Bundle]:
    """The image, unpacked."""
    with public_folder() as folder:
        yield unpack(built, folder / "image")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copy_lock(path: Path) -> None:
    names = package_names(recipe.this_machine())
    locked = debian.read_lock(LOCK)
    try:
        debian.fetch([locked[name] for name in names], release=recipe.RELEASE, cache=_CACHE)
    except ImageError as error:
        print(f"The lock is out of date: {error}")
        debian.write_lock(path, names, release=recipe.RELEASE, cache=_CACHE)
    else:
        shutil.copy(LOCK, path)


def test_two_builds_make_the_same_image(built: Path, lock: Path, tmp_path: Path) -> None:
    """The second one in other folders, by another process with another environment."""
    program = f"""
from pathlib import Path
from deploy.image.build import Source, build
build(Path("out"), cache=Path("cache"), source=Source{astuple(_SOURCE)}, lock=Path({str(lock)!r}))
"""
    (tmp_path / "cache").mkdir()
    for file in _CACHE.glob("*.deb"):
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
    assert labels["org.opencontainers.image.revision"] == _SOURCE.revision
    assert labels["org.opencontainers.image.created"] == bundle.config["created"]
    assert bundle.process["args"] == ["authsvc", "serve"]
    assert bundle.process["user"] == {"uid": USER, "gid": USER}


def test_bill_of_materials_lists_what_is_installed(built: Path, bundle: Bundle) -> None:
    bill = (bundle.root / recipe.DOCUMENTS / "sbom.cdx.json").read_text()
    [beside] = built.parent.glob("*.cdx.json")
    assert beside.read_text() == bill
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    found = {(part["purl"].split("/")[0], part["name"]) for part in json.loads(bill)["components"]}
    notes = (bundle.root / "var/lib/dpkg/status.d").iterdir()
    debian_s = {("pkg:deb", path.name) for path in notes if path.suffix != ".md5sums"}
    metadata = (bundle.root / recipe.SITE_PACKAGES).glob("*.dist-info/METADATA")
    names = {re.findall(r"^Name: (.+)$", path.read_text(), re.MULTILINE)[0] for path in metadata}
    wheels = {("pkg:pypi", re.sub(r"[-_.]+", "-", name).lower()) for name in names - {"authsvc"}}
    assert found == debian_s | wheels


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


def test_image_is_small(bundle: Bundle) -> None:
    assert sum(path.stat().st_size for path in bundle.layers) < 100_000_000


def test_file_with_another_hash_is_refused(lock: Path, tmp_path: Path) -> None:
    netbase = debian.read_lock(lock)["netbase"]
    changed = replace(netbase, sha256="0" * 64)
    with pytest.raises(ImageError, match="netbase is not the locked one"):
        debian.fetch([changed], release=recipe.RELEASE, cache=tmp_path)
    gone = replace(netbase, version="0.1")
    with pytest.raises(ImageError, match="make image-lock"):
        debian.fetch([gone], release=recipe.RELEASE, cache=tmp_path)


@pytest.fixture
def etc(tmp_path: Path) -> Iterator[Path]:
    """What the manifests mount at /etc/authsvc, but the address of the database."""
    with public_folder() as folder:
        _write_settings(folder, Workspace(tmp_path / "workspace"))
        yield folder


@pytest.fixture
def run(bundle: Bundle, etc: Path) -> Iterator[Callable[..., Container]]:
    """Starts containers with the settings of the manifests; they end with the test."""
    if reason := why_no_namespaces():
        pytest.skip(f"containers need user namespaces: {reason}")
    started: list[Container] = []

    def start(*command: str, **environment: str) -> Container:
        for name in MOUNTS:
            give_to_group(etc / name)
        started.append(Container(bundle, etc, command, **environment))
        return started[-1]

    yield start
    for container in started:
        container.process.kill()


def _write_settings(etc: Path, workspace: Workspace) -> None:
    """Write the settings of the base, with one more caller, and secrets and certificates."""
    workspace.prepare()
    for name in MOUNTS:
        (etc / name).mkdir()
    config = (_ROOT / "deploy/kubernetes/base/config.toml").read_text()
    caller = '[[callers]]\nidentity = "spiffe://authsvc.dev/issuer"\nroles = ["issuer", "app"]\n'
    (etc / "config/config.toml").write_text(f"{config}\n{caller}")
    for name in ("keyring", "peppers"):
        shutil.copy(workspace.secrets / f"secrets__{name}", etc / "secrets")
    certificates = workspace.certificates
    names = {"server.crt": "tls.crt", "server.key": "tls.key", "ca.crt": "ca.crt"}
    for source, target in names.items():
        shutil.copy(certificates / source, etc / "tls" / target)
    for suffix in ("crt", "key"):
        shutil.copy(certificates / "clients" / f"edge.{suffix}", etc / "tls")


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


def test_every_module_of_the_service_can_be_imported(run: Callable[..., Container]) -> None:
    container = run("python", "-W", "error", "-c", _IMPORT_ALL)
    assert container.process.end() == 0, container.process.output
    assert "authsvc.core.login.password" in container.process.output


async def test_image_serves_and_drains(
    run: Callable[..., Container], etc: Path, own_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with Proxy(own_server.dsn()) as proxy:
        (etc / "secrets" / "database__url").write_text(proxy.dsn)
        migration = run("authsvc", "migrate", **_SETTINGS)
        assert await asyncio.to_thread(migration.process.end) == 0, migration.process.output
        service = run(**_SETTINGS)
        serving = await asyncio.to_thread(
            service.process.wait_for, r'serving.*"grpc": ?"127.0.0.1:(\d+)"'
        )
        target = f"127.0.0.1:{serving[1]}"
        tls = "/etc/authsvc/tls"
        files = (f"--ca={tls}/ca.crt", f"--cert={tls}/edge.crt", f"--key={tls}/edge.key")
        health = run("authsvc", "health", f"--target={target}", *files)
        assert await asyncio.to_thread(health.process.end) == 0, health.process.output
        await _register_and_log_in(target, tmp_path / "workspace" / "certs")
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
