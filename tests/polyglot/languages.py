"""Owns the building of the programs in other languages, each once for the same sources.

They are built in .venv/world/polyglot, from code that their usual generator makes of the protos.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.world.generation import PROTOS, ROOT, generate, run
from tests.world.install import PROTOC
from tests.world.place import FOLDER
from tests.world.tools import GO, GO_GRPC, JAVA, RUST, RUST_GRPC, TYPESCRIPT, Tool

# Set by `make test-world`: a missing toolchain is an error there, and elsewhere a skipped test.
_REQUIRED = "POLYGLOT_TOOLCHAINS"
_SERVICE_CONFIG = ROOT / "docs" / "clients" / "service-config.json"


@dataclass(frozen=True)
class Language:
    """How the program in `name` is built, and what runs it."""

    name: str
    clients: Sequence[str]
    plugins: Sequence[Tool]
    build: Sequence[Sequence[str]]
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def sources(self) -> Path:
        """The folder of the program's own files."""
        return Path(__file__).parent / self.name

    @property
    def folder(self) -> Path:
        """The folder in which the program is built."""
        return FOLDER / "polyglot" / self.name

    def missing(self) -> str:
        """Return what the machine lacks to build it, or "" if nothing."""
        for client in self.clients:
            if shutil.which(client) is None:
                return f"{client} is not on the PATH"
        if not PROTOC.is_installed() or not all(tool.is_installed() for tool in self.plugins):
            return "its generator is missing: run `python -m tests.world.install`"
        return ""

    def built(self) -> list[str]:
        """Return the command that runs the program, which is built unless it is there.

        Skips the test without the language's toolchain, or fails it where all are required.
        """
        missing = self.missing()
        if missing and os.environ.get(_REQUIRED) == "required":
            pytest.fail(f"{self.name}: {missing}")
        if missing:
            pytest.skip(f"{self.name}: {missing}")
        note = self.folder / "built.txt"
        wanted = self._digest()
        if not note.is_file() or note.read_text() != wanted:
            note.unlink(missing_ok=True)
            self._build()
            note.write_text(wanted)
        return [each.format(folder=self.folder) for each in self.command]

    def _build(self) -> None:
        print(f"Building the client in {self.name} …", file=sys.stderr, flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self._files():
            place = self.folder / path.relative_to(self.sources)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        shutil.copyfile(_SERVICE_CONFIG, self.folder / _SERVICE_CONFIG.name)
        shutil.rmtree(self.folder / "gen", ignore_errors=True)
        generate(self.name, self.folder, *self.plugins)
        for command in self.build:
            run(["nice", *command], self.folder, self.environment)

    def _digest(self) -> str:
        digest = hashlib.sha256(repr(self).encode())
        for path in (*self._files(), _SERVICE_CONFIG, *sorted(PROTOS.rglob("*.*"))):
            digest.update(str(path).encode() + path.read_bytes())
        return digest.hexdigest()

    def _files(self) -> list[Path]:
        return sorted(path for path in self.sources.rglob("*") if path.is_file())


GO_CLIENT = Language(
    name="go",
    clients=["go"],
    plugins=[GO, GO_GRPC],
    build=[["go", "build", "-o", "client", "."]],
    command=["{folder}/client"],
)
_NPM = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
TYPESCRIPT_CLIENT = Language(
    name="typescript",
    clients=["node", "npm"],
    plugins=[TYPESCRIPT],
    build=[_NPM, ["node_modules/.bin/tsc"]],
    command=["node", "{folder}/built/main.js"],
)
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
JAVA_CLIENT = Language(
    name="java",
    clients=["java", "mvn"],
    plugins=[JAVA],
    build=[["mvn", "-q", "-B", "compile", _COPY]],
    command=["java", "-cp", "{folder}/target/classes:{folder}/target/dependency/*", "Main"],
)
RUST_CLIENT = Language(
    name="rust",
    clients=["cargo"],
    plugins=[RUST, RUST_GRPC],
    build=[["cargo", "build", "--quiet"]],
    command=["{folder}/target/debug/client"],
)
LANGUAGES = (GO_CLIENT, TYPESCRIPT_CLIENT, JAVA_CLIENT, RUST_CLIENT)
