"""The pages for developers match the code: floors, topics, classes, functions."""

import ast
import re
import tomllib
from collections import defaultdict
from dataclasses import dataclass, field

import pytest

from authsvc.rpc.access import ACCESS
from tests.support.documents import REPOSITORY, Page, page, pages

ARCHITECTURE = page("docs/ARCHITECTURE.md")
DECISIONS = [document for document in pages() if document.path.parent.name == "decisions"]
_CORE = REPOSITORY / "authsvc" / "core"
_HEADINGS = ["Context", "Decision", "Measurement", "Rejected"]
_GLOSSARY = {
    *("attempt", "charge", "receipt", "proof", "factor", "challenge", "caller", "client"),
    *("subject", "session", "family", "doorbell"),
}
# Names of other projects and protocols that look like ours.
_FOREIGN = {"asyncpg.Pool"}


def contract() -> list[list[str]]:
    """Return the floors of core in the import contract."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    (found,) = (
        one
        for one in settings["tool"]["importlinter"]["contracts"]
        if one.get("containers") == ["authsvc.core"]
    )
    assert found["exhaustive"]
    return [floor.split(" | ") for floor in found["layers"]]


def test_floors_match_import_contract() -> None:
    floors: dict[int, list[str]] = defaultdict(list)
    for floor, topic, _ in ARCHITECTURE.tables("floor", "topic"):
        floors[int(floor)].append(topic.strip("`"))
    assert [*floors.items()] == [*enumerate(contract())]


def test_floors_include_all_folders_of_core() -> None:
    topics = {path.stem for path in _CORE.iterdir() if not path.name.startswith("_")}
    assert {topic for floor in contract() for topic in floor} == topics


def test_picture_shows_every_floor() -> None:
    (picture,) = ARCHITECTURE.blocks("mermaid")
    for number, floor in enumerate(contract()):
        (label,) = set(re.findall(rf'\bf{number}\["?([\w ·]+)"?\]', picture))
        assert label.split(" · ") == floor
    steps = re.findall(r"(f\d+)\S* --> (f\d+)", re.sub(r'\["?[\w ·]+"?\]', "", picture))
    assert steps == [(f"f{n}", f"f{n + 1}") for n in range(len(contract()) - 1)]


def test_layers_are_packages() -> None:
    layers = [cell.strip("`") for cell, *_ in ARCHITECTURE.tables("layer")]
    assert {*layers} <= {path.name for path in (REPOSITORY / "authsvc").iterdir()}


def test_glossary_is_sorted_and_complete() -> None:
    words = [word for word, _ in ARCHITECTURE.tables("word", "means")]
    assert words == sorted(words)
    assert set(words) >= _GLOSSARY


@dataclass
class Names:
    """The names that the code defines: classes with their members, and all names."""

    members: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    all: set[str] = field(default_factory=set)

    def add(self, module: ast.Module) -> None:
        for node in ast.walk(module):
            self.all |= _defined(node)
            if isinstance(node, ast.ClassDef):
                self.members[node.name].update(*map(_defined, node.body))


def _defined(node: ast.AST) -> set[str]:
    """Return the names that a statement defines in its scope."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {node.name}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case _:
            return set()


@pytest.fixture(scope="module")
def names() -> Names:
    found = Names()
    for folder in ("authsvc", "tests"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            if "v1" not in path.parts:
                found.add(ast.parse(path.read_text()))
    protos = "".join(path.read_text() for path in (REPOSITORY / "protos").rglob("*.proto"))
    found.all |= set(re.findall(r"\b(?:message|enum|service|rpc) (\w+)", protos))
    for path in (_CORE.parent / "store" / "migrations").glob("*.sql"):
        found.all |= set(re.findall(r"\w+", path.read_text()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("document", [ARCHITECTURE, *DECISIONS], ids=str)
def test_named_classes_and_functions_exist(document: Page, names: Names) -> None:
    missing = [
        name for name in document.names() if name not in _FOREIGN and not _is_defined(name, names)
    ]
    assert missing == [], "what is an example of something to add is followed by (new)"


def _is_defined(name: str, names: Names) -> bool:
    """Return whether a name is defined, or does not look like a class, a method or a function."""
    if match := re.fullmatch(r"(_?[A-Z]\w*[a-z]\w*)\.(\w+)", name):
        owner, member = match.groups()
        return member in names.members.get(owner, ()) or f"/authsvc.v1.{owner}/{member}" in ACCESS
    if re.fullmatch(r"_?[A-Z][a-z]+([A-Z]\w*)+", name):
        return name in names.members or name in names.all
    if re.fullmatch(r"[a-z]+(_[a-z]+)+", name):
        return name in names.all or (_CORE / name).is_dir() or (_CORE / f"{name}.py").exists()
    return True


@pytest.mark.parametrize("document", DECISIONS, ids=str)
def test_decision_has_all_sections(document: Page) -> None:
    if document.path.name == "README.md":
        return
    assert re.findall(r"^## (.+)$", document.text, re.MULTILINE) == _HEADINGS
    number = document.path.name[:4]
    assert document.text.startswith(f"# {number}: ")


def test_decisions_are_numbered_and_listed() -> None:
    files = sorted(document.path.name for document in DECISIONS if document.path.stem != "README")
    assert [name[:4] for name in files] == [f"{n:04}" for n in range(1, len(files) + 1)]
    assert page("docs/decisions/README.md").links() == files
