"""Owns the excerpts of the programs that docs/clients shows, so that the pages' code is what runs.

In a program, an excerpt stands between `// docs: NAME` and `// docs: end`. In a page it is the code
block below `<!-- NAME -->`. `python -m tests.polyglot.excerpts` brings the pages up to date.
"""

import re
from pathlib import Path
from textwrap import dedent

from tests.support.documents import Page, page

LANGUAGES = ("go", "java", "typescript", "rust")

_EXCERPT = re.compile(r"^ *// docs: (\w+)\n(.*?)^ *// docs: end\n", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^<!-- (\w+) -->\n\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_of(language: str) -> Page:
    """Return the page of a language."""
    return page(f"docs/clients/{language}.md")


def excerpts_of(language: str) -> dict[str, str]:
    """Return the excerpts of a program by their names."""
    files = sorted(path for path in (Path(__file__).parent / language).rglob("*") if path.is_file())
    found = [match for path in files for match in _EXCERPT.findall(path.read_text())]
    assert len(found) == len(dict(found)), f"two excerpts of {language} have one name"
    return {name: dedent(text).strip("\n") + "\n" for name, text in found}


def blocks_of(language: str) -> dict[str, str]:
    """Return the code blocks of a language's page by the names of their excerpts."""
    found = [
        (name, text)
        for name, kind, text in _BLOCK.findall(page_of(language).text)
        if kind == language
    ]
    return dict(found)


def main() -> None:
    """Replace the code blocks of every page by the excerpts."""
    for language in LANGUAGES:
        path, excerpts = page_of(language).path, excerpts_of(language)

        def replaced(match: re.Match[str], excerpts: dict[str, str] = excerpts) -> str:
            return f"<!-- {match[1]} -->\n\n```{match[2]}\n{excerpts[match[1]]}```"

        path.write_text(_BLOCK.sub(replaced, path.read_text()))


if __name__ == "__main__":
    main()
