"""The wheel has all files of the package, and needs only what a client does."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.support.documents import REPOSITORY

pytestmark = pytest.mark.world


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(
        REPOSITORY / "authsvc", source / "authsvc", ignore=shutil.ignore_patterns("__pycache__")
    )
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    [built] = (source / "dist").glob("*.whl")
    return zipfile.ZipFile(built)


def test_wheel_has_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    files = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "authsvc").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files - {*wheel.namelist()} == set()


def test_wheel_needs_only_what_the_client_does(wheel: zipfile.ZipFile) -> None:
    [metadata] = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    needs = message_from_bytes(wheel.read(metadata)).get_all("Requires-Dist") or []
    light = [each for each in needs if "extra ==" not in each]
    project = tomllib.loads(Path(REPOSITORY / "pyproject.toml").read_text())["project"]
    assert sorted(light) == sorted(project["dependencies"])
    assert 'authsvc[server]; extra == "embedded"' in needs
