"""What the image leaves out of the wheels: nothing that is left needs it, and no license is lost.

`tests/world` tries what is left in the image itself.
"""

import ast
import csv
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from deploy.image import recipe, slim, wheels
from deploy.image.build import ROOT
from deploy.release import sbom

# Files that import what is left out, and why they never do so here.
_EXCUSED = {
    # For classes with `__get_validators__`, which the service has none of.
    "pydantic/_internal/_generate_schema.py": {"pydantic.v1"},
}
_LICENSE = re.compile(r"licen[sc]e|copying|copyright|notice|authors", re.IGNORECASE)


@pytest.fixture(scope="module")
def locked() -> dict[str, Path]:
    """The files of the locked packages that are installed here, by their paths in site-packages."""
    lock = sbom.read_lock((ROOT / "deploy/requirements.lock").read_text())
    found = [each for package in lock for each in metadata.distributions(name=package.name)]
    files = [file for each in found for file in each.files or ()]
    return {file.as_posix(): Path(str(file.locate())) for file in files}


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported(path: str, source: bytes) -> Iterator[str]:
    package = path.split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{name.name}" for name in node.names)


def test_nothing_that_is_left_imports_what_is_left_out(locked: dict[str, Path]) -> None:
    sources = {path: file for path, file in locked.items() if path.endswith(".py")}
    unused = {_module(path) for path in sources if recipe.UNUSED.fullmatch(path)}
    assert "pygments.lexers.python" in unused
    owners = {module.split(".")[0] for module in unused}
    for path, file in sources.items():
        source = file.read_bytes()
        # To import it, a file has to name its package or be in it.
        if recipe.UNUSED.fullmatch(path) or not (
            path.split("/")[0] in owners or any(owner.encode() in source for owner in owners)
        ):
            continue
        found = unused.intersection(_imported(path, source))
        assert found == _EXCUSED.get(path, set()), path


def test_licenses_are_left(locked: dict[str, Path]) -> None:
    licenses = [path for path in locked if _LICENSE.search(Path(path).name)]
    assert len(licenses) > 50
    assert not [path for path in licenses if recipe.UNUSED.fullmatch(path)]
    assert not [path for path in locked if ".dist-info/" in path and path.endswith(".py")]


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with a package, of which something is unused."""
    folder = tmp_path / recipe.SITE_PACKAGES
    files = {
        "shop/__init__.py": "",
        "shop/till.py": 'def pay():\n    """Pay."""\n    raise KeyError("no coins")\n',
        "shop/till.pyi": "def pay() -> None: ...\n",
        "shop/scale.so": "compiled",
        "shop/source/till.pyx": "",
        "shop-1.0.dist-info/licenses/LICENSE": "free",
        "shop-1.0.dist-info/RECORD": "shop/__init__.py,,\nshop/till.py,,\nshop/till.pyi,,\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_unused_files_and_sources_are_left_out(packages: Path) -> None:
    assert slim.main([str(packages)]) == 0
    left = {path.relative_to(packages).as_posix() for path in packages.rglob("*")}
    assert left == {
        *("shop", "shop/__init__.pyc", "shop/till.pyc", "shop/scale.so"),
        *("shop-1.0.dist-info", "shop-1.0.dist-info/RECORD"),
        *("shop-1.0.dist-info/licenses", "shop-1.0.dist-info/licenses/LICENSE"),
    }


def test_traceback_names_files_and_lines_that_are_left_out(packages: Path) -> None:
    slim.main([str(packages)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "from shop.till import pay; pay()"],
        env={"PYTHONPATH": str(packages)},
        capture_output=True,
        check=False,
        text=True,
    )
    assert f'File "{packages}/shop/till.py", line 3, in pay\nKeyError' in done.stderr


def test_module_that_cannot_be_compiled_keeps_its_source(
    packages: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (packages / "shop/new.py").write_text("syntax of another Python")
    assert slim.main([str(packages)]) == 1
    assert (packages / "shop/new.py").exists()
    assert "SyntaxError" in capfd.readouterr().out


def test_record_names_what_is_there(packages: Path, tmp_path: Path) -> None:
    slim.main([str(packages)])
    wheels.renew_records(tmp_path)
    with (packages / "shop-1.0.dist-info/RECORD").open(newline="") as file:
        rows = list(csv.reader(file))
    assert [name for name, _, _ in rows] == ["shop/__init__.pyc", "shop/till.pyc"]
    assert all(digest.startswith("sha256=") for _, digest, _ in rows)
    assert [int(size) for _, _, size in rows] == [
        (packages / name).stat().st_size for name, _, _ in rows
    ]
