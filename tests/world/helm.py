"""Owns the rendering of the chart by the real Helm, as somebody with a file of values does it."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from tests.support.documents import REPOSITORY
from tests.world.place import WorldError
from tests.world.schemas import VERSIONS
from tests.world.tools import HELM, Tool

CHART = REPOSITORY / "deploy" / "chart"
PRODUCTION = CHART / "values-production.yaml"
RELEASE, NAMESPACE = "authsvc", "login"

Object: TypeAlias = dict[str, Any]
Values: TypeAlias = Mapping[str, Any]


class HelmError(Exception):
    """Helm refused; the message is its own."""


class Rendered:
    """The objects that Helm would create, in its order."""

    def __init__(self, documents: Sequence[Object]) -> None:
        self.all = documents

    def __iter__(self) -> Iterator[Object]:
        return iter(self.all)

    def names(self) -> set[tuple[str, str]]:
        """Return kind and name of each object."""
        return {(each["kind"], each["metadata"]["name"]) for each in self.all}

    def one(self, kind: str, name: str = RELEASE) -> Object:
        [found] = (
            each for each in self.all if each["kind"] == kind and each["metadata"]["name"] == name
        )
        return found

    def pods(self) -> Iterator[Object]:
        """Yield metadata and spec of each pod, those of Deployments and Jobs included."""
        for each in self.all:
            if each["kind"] == "Pod":
                yield each
            elif each["kind"] in {"Deployment", "Job"}:
                yield each["spec"]["template"]


def helm(*arguments: str | Path, stdin: str = "", program: Tool = HELM) -> str:
    """Run Helm and return what it prints; raises HelmError."""
    if not program.is_installed():
        raise WorldError(f"{program.name} is missing: run `python -m tests.world.install`")
    done = subprocess.run(
        [program.bin / "helm", *arguments], input=stdin, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise HelmError(done.stderr)
    return done.stdout


def render(
    values: Values | None = None,
    *files: Path,
    version: str = VERSIONS[-1],
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    chart: Path = CHART,
    program: Tool = HELM,
) -> Rendered:
    """Render the chart with files of values, and with `values` above them; raises HelmError."""
    given = [argument for file in files for argument in ("--values", file)]
    text = helm(
        *("template", release, chart, "--namespace", namespace),
        *("--kube-version", f"{version}.0", *given, "--values", "-"),
        stdin=yaml.safe_dump(dict(values or {})),
        program=program,
    )
    return Rendered([each for each in yaml.safe_load_all(text) if each])
