"""The client needs only what `pip install authsvc` brings, and the command says so without more."""

import os
import re
import subprocess
import sys
import tomllib

import pytest

from tests.support.documents import REPOSITORY

# Run by a process of its own: nothing else can be imported.
_HOOK = """
import importlib, pkgutil, sys
from importlib.abc import MetaPathFinder

ALLOWED = {*sys.stdlib_module_names, "grpc", "google", "jwt", "cryptography", "_cffi_backend",
    "typing_extensions"}
OWN = ("authsvc.client", "authsvc.v1", "authsvc.cli")

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top == "authsvc":
            allowed = name in ("authsvc", "authsvc.__main__") or name.startswith(OWN)
        else:
            allowed = top in ALLOWED
        if not allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
_IMPORTS = """
import authsvc.client
for name in authsvc.client.__all__:
    getattr(authsvc.client, name)
for module in pkgutil.walk_packages(authsvc.client.__path__, "authsvc.client."):
    importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules} - {*sys.stdlib_module_names}))
"""
_COMMAND = """
from authsvc.__main__ import main
main()
"""
_PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", _HOOK + program]
    environment = {**os.environ, "COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}
    return subprocess.run(
        command, env=environment, check=False, capture_output=True, text=True, cwd=REPOSITORY
    )


def test_client_imports_only_what_its_install_brings() -> None:
    done = run(_IMPORTS)
    assert done.returncode == 0, done.stderr
    assert "grpc" in done.stdout.split()


def test_command_names_the_extra_that_it_needs() -> None:
    done = run(_COMMAND)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"error: \w+ is missing: pip install 'authsvc\[server\]' .*\n", done.stderr)


@pytest.mark.parametrize("extra", ["embedded", "dev"])
def test_extras_include_the_service(extra: str) -> None:
    includes = {"embedded": "authsvc[server]", "dev": "authsvc[embedded]"}
    assert includes[extra] in _PROJECT["optional-dependencies"][extra]


def test_floors_of_the_service_are_not_below_those_of_the_client() -> None:
    def floors(dependencies: list[str]) -> dict[str, tuple[int, ...]]:
        pairs = (each.split(">=") for each in dependencies if ">=" in each)
        return {name: tuple(map(int, version.split("."))) for name, version in pairs}

    client = floors(_PROJECT["dependencies"])
    assert len(client) == len(_PROJECT["dependencies"])
    server = floors(_PROJECT["optional-dependencies"]["server"])
    assert {name for name in client if server.get(name, client[name]) < client[name]} == set()
