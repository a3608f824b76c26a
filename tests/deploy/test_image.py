"""The image's recipe: pinned packages, and the same as `deploy/Dockerfile`.

What is built from it is tried in `tests/world`.
"""

import re
from pathlib import Path

import pytest
import yaml

from deploy.image import debian, recipe
from deploy.image.build import LOCK, ROOT, package_names
from deploy.image.errors import ImageError
from deploy.image.layers import entries

_DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "deploy" / "Dockerfile").read_text())
_BUILD, _FINAL = _DOCKERFILE.split("FROM ${PYTHON}")[1:]


def _instruction(name: str) -> str:
    (found,) = re.findall(rf"^{name} (.*)$", _FINAL, re.MULTILINE)
    return str(found)


def _pairs(text: str) -> dict[str, str]:
    return {name: value.strip('"') for name, value in re.findall(r'(\S+?)=("[^"]*"|\S+)', text)}


def test_lock_pins_all_packages_and_no_others() -> None:
    assert set(debian.read_lock(LOCK)) == set(package_names(recipe.this_machine()))


@pytest.mark.parametrize("line", ["libc6", "libc6 2.41 amd64", "libc6 2.41 amd64 sha256:abc"])
def test_line_without_hash_is_refused(line: str, tmp_path: Path) -> None:
    lock = tmp_path / "debian.lock"
    lock.write_text(f"# Locked.\n{line}\n")
    with pytest.raises(ImageError, match="no locked package"):
        debian.read_lock(lock)


def test_layer_is_the_same_whoever_made_its_files(tmp_path: Path) -> None:
    """Neither times, nor owners, nor the rights of the one who builds matter."""
    layers = []
    for name, mode in (("first", 0o600), ("second", 0o664)):
        folder = tmp_path / name
        (folder / "usr" / "bin").mkdir(parents=True, mode=mode | 0o111)
        (folder / "usr" / "text").write_text("text")
        (folder / "usr" / "text").chmod(mode)
        (folder / "usr" / "bin" / "program").write_text("program")
        (folder / "usr" / "bin" / "program").chmod(mode | 0o100)
        (folder / "bin").symlink_to("usr/bin")
        (folder / "tmp").mkdir()
        layers.append([entry.get_info() for _, entry in entries(folder, 1_000)])
    assert layers[0] == layers[1]
    rights = {str(info["name"]).rstrip("/"): oct(int(str(info["mode"]))) for info in layers[0]}
    assert rights["usr/text"] == "0o644"
    assert rights["usr/bin/program"] == rights["usr"] == "0o755"
    assert rights["tmp"] == "0o1777"


def test_dockerfile_has_the_same_python() -> None:
    (base,) = re.findall(r"^ARG PYTHON=(\S+)$", _DOCKERFILE, re.MULTILINE)
    assert base == f"python:{recipe.PYTHON}-slim-{recipe.RELEASE}"


def test_dockerfile_installs_the_same_packages() -> None:
    assert "--require-hashes --only-binary :all: -r /tmp/requirements.lock" in _BUILD
    assert f"/{recipe.PREFIX}/bin/authsvc" in _BUILD
    # The same is left out of them; the service, copied afterwards, keeps its sources.
    assert _BUILD.index("python -m deploy.image.slim") < _BUILD.index("COPY authsvc")
    assert "pip install --no-compile" in _BUILD
    context = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(\S+)", _DOCKERFILE, re.MULTILINE)
    assert {f"!{path}" for path in copied} == {line for line in context if line.startswith("!")}
    assert f"COPY --from=build /{recipe.PREFIX} /{recipe.PREFIX}" in _FINAL
    assert f"/{recipe.DOCUMENTS}/requirements.lock" in _FINAL


def test_dockerfile_starts_the_same_way() -> None:
    assert yaml.safe_load(_instruction("ENTRYPOINT")) == [*recipe.ENTRYPOINT]
    assert yaml.safe_load(_instruction("CMD")) == [*recipe.COMMAND]
    assert _instruction("USER") == f"{recipe.USER}:{recipe.USER}"
    assert _instruction("EXPOSE") == " ".join(map(str, recipe.PORTS))
    assert _instruction("STOPSIGNAL") == recipe.STOP_SIGNAL
    given, wanted = _pairs(_instruction("ENV")), dict(recipe.ENVIRONMENT)
    # The base of the Dockerfile has its Python in /usr/local.
    assert given.pop("PATH").startswith(wanted.pop("PATH").split(":")[0])
    assert given == wanted
    for account in recipe.ACCOUNTS["etc/passwd"].splitlines()[1:]:
        assert f"echo '{account}' >> /etc/passwd" in _FINAL


def test_dockerfile_has_the_same_labels() -> None:
    labels = _pairs(_instruction("LABEL"))
    assert set(labels) == {f"org.opencontainers.image.{name}" for name in recipe.LABELS}
    assert labels["org.opencontainers.image.title"] == recipe.TITLE
    assert labels["org.opencontainers.image.description"] == recipe.DESCRIPTION


def test_manifests_start_the_image_as_its_user() -> None:
    pod = yaml.safe_load((ROOT / "deploy/kubernetes/base/deployment.yaml").read_text())
    spec = pod["spec"]["template"]["spec"]
    context = spec["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (recipe.USER, recipe.USER)
    for container in (*spec["initContainers"], *spec["containers"]):
        # The entry point is the image's, which has no shell and no other programs.
        assert "command" not in container
        assert "exec" not in str(container.get("lifecycle", {}))
