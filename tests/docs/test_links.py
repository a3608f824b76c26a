"""Linked pages and anchors exist, and so do the files that pages name."""

import re

import pytest

from tests.support.documents import REPOSITORY, Page, pages

_TOP = {path.name for path in REPOSITORY.iterdir()}
_PACKAGE = REPOSITORY / "authsvc"
# A relative path with a folder in it, or a file name with an extension used in the repository.
_PATH = re.compile(r"[\w.-]+(/[\w.-]+)+/?|[\w-]+\.(py|md|proto|sql|toml|yaml|lock)")
_RUNTIME = (".authsvc/", ".venv/")


@pytest.mark.parametrize("document", pages(), ids=str)
def test_relative_links_resolve(document: Page) -> None:
    for link in document.links():
        if link.startswith(("https://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        path = (document.path.parent / target).resolve() if target else document.path
        assert path.exists(), link
        assert path.is_relative_to(REPOSITORY), link
        if anchor:
            assert anchor in Page(path).anchors(), link


@pytest.mark.parametrize("document", pages(), ids=str)
def test_named_files_exist(document: Page) -> None:
    missing = [name for name in document.names() if _names_a_file(name) and not _exists(name)]
    assert missing == [], "what is an example of something to add is followed by (new)"


def _names_a_file(name: str) -> bool:
    if not _PATH.fullmatch(name) or name.startswith(_RUNTIME) or "NNNN" in name:
        return False
    first = name.partition("/")[0]
    known = first in _TOP or (_PACKAGE / first).exists()
    return known or re.search(r"\.(py|md|proto|sql|toml|yaml|lock)$", name) is not None


def _exists(name: str) -> bool:
    """Return whether a path exists in the repository or package; a bare file name, anywhere."""
    if (REPOSITORY / name).exists() or (_PACKAGE / name).exists():
        return True
    folders = ("authsvc", "docs", "protos", "tests")
    return "/" not in name and any(
        next((REPOSITORY / folder).rglob(name), None) for folder in folders
    )


def test_every_page_is_reachable_from_readme() -> None:
    reached, todo = set(), [REPOSITORY / "README.md"]
    while todo:
        path = todo.pop()
        if path in reached or path.suffix != ".md":
            continue
        reached.add(path)
        links = (link.partition("#")[0] for link in Page(path).links() if "://" not in link)
        todo += [(path.parent / link).resolve() for link in links if link]
    assert {str(document) for document in pages() if document.path not in reached} == set()


def test_paths_are_distinguished_from_similar_text() -> None:
    assert not _names_a_file("/readyz")
    assert not _names_a_file("spiffe://a/b")
    assert _names_a_file("core/no_such_topic/x.py")
    assert _names_a_file("no_such_file.py")
