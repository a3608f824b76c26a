"""Owns the code generated from protos/: proves that authsvc/v1 is current, or renews it.

The generator has an environment of its own, .venv/protos: the generated code runs with older
versions of grpcio and protobuf than the service's.
"""

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos"
GENERATED = ROOT / "authsvc" / "v1"
_TOOLS = ROOT / ".venv" / "protos" / "bin"


def generate(target: Path) -> None:
    """Generate messages, stubs and their types below `target`."""
    command = [
        *(str(_TOOLS / "python"), "-m", "grpc_tools.protoc", f"-I{PROTOS}"),
        f"--plugin=protoc-gen-mypy={_TOOLS / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={_TOOLS / 'protoc-gen-mypy_grpc'}",
        *(f"--{kind}_out={target}" for kind in ("python", "grpc_python")),
        *(f"--{kind}_out=quiet:{target}" for kind in ("mypy", "mypy_grpc")),
        *(str(path) for path in sorted(PROTOS.rglob("*.proto"))),
    ]
    subprocess.run(command, check=True)
    (target / "authsvc" / "v1" / "__init__.py").touch()


def differences(fresh: Path) -> list[str]:
    """Return the names of files in which `fresh` and the committed code differ."""
    names = sorted({path.name for folder in (fresh, GENERATED) for path in folder.glob("*.py*")})
    _, mismatches, missing = filecmp.cmpfiles(fresh, GENERATED, names, shallow=False)
    return mismatches + missing


def main() -> int:
    """Compare, or with --write renew; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / "authsvc" / "v1"
        stale = differences(fresh)
        if stale and "--write" in sys.argv:
            shutil.rmtree(GENERATED)
            shutil.copytree(fresh, GENERATED)
            print("renewed: " + ", ".join(stale))
        elif stale:
            print("authsvc/v1 is not current (run `make protos`): " + ", ".join(stale))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
