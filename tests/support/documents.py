"""Owns the reading of the project's pages: their tables, code blocks, links and names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
# What a page calls new is an example of an addition: it need not exist.
NEW = " (new)"

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """A Markdown file of the repository."""

    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(REPOSITORY))

    @property
    def text(self) -> str:
        return self.path.read_text()

    @property
    def prose(self) -> str:
        """The text without its code blocks."""
        return _FENCE.sub("", self.text)

    def blocks(self, language: str) -> list[str]:
        """Return the code blocks in a language."""
        return [body for name, body in _FENCE.findall(self.text) if name == language]

    def tables(self, *header: str) -> Iterator[list[str]]:
        """Yield the rows of all tables whose header starts with these cells."""
        lines = iter(self.text.splitlines())
        for line in lines:
            if cells(line)[: len(header)] != [*header]:
                continue
            next(lines)
            for row in lines:
                if not row.startswith("|"):
                    break
                yield cells(row)

    def links(self) -> list[str]:
        """Return the targets of the page's links."""
        return _LINK.findall(self.prose)

    def anchors(self) -> set[str]:
        """Return the anchors of the page's headings, as code hosts generate them."""
        return {anchor(heading) for heading in _HEADING.findall(self.prose)}

    def names(self) -> list[str]:
        """Return what is between backticks in the prose, except what is called new."""
        text = self.prose
        return [match[1] for match in _CODE.finditer(text) if not text.startswith(NEW, match.end())]


def page(name: str) -> Page:
    """Return the page at a path relative to the top of the repository."""
    return Page(REPOSITORY / name)


def pages() -> list[Page]:
    """Return every page that people read."""
    at_the_top = ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG")
    found = [REPOSITORY / f"{name}.md" for name in at_the_top]
    return [Page(path) for path in (*found, *sorted((REPOSITORY / "docs").rglob("*.md")))]


def cells(line: str) -> list[str]:
    """Return the cells of a table's row, or none if the line is not a row."""
    if not line.startswith("|"):
        return []
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def anchor(heading: str) -> str:
    """Return the anchor of a heading: lower case, blanks to hyphens, no punctuation."""
    plain = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return plain.replace(" ", "-")
