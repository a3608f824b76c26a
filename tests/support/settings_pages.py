"""Owns the generated pages of the settings: the tables of docs/settings.md, and the example.

`python -m tests.support.settings_pages` fails if they differ from the settings; with `--write` it
writes them.
"""

import re
import sys
from collections.abc import Iterator

from authsvc.config.reference import rows
from authsvc.config.text import example_text
from tests.support.documents import REPOSITORY

REFERENCE = REPOSITORY / "docs" / "settings.md"
EXAMPLE = REPOSITORY / "docs" / "settings.example.toml"
_HEADER = "| key | type | default | meaning |\n|---|---|---|---|\n"
_TABLE = re.compile(r"(?<=<!-- settings: )([a-z_]+)( -->\n\n).*?(?=\n<!-- end -->)", re.DOTALL)


def sections() -> Iterator[str]:
    """Yield the sections of the settings, in their order."""
    yield from dict.fromkeys(re.split(r"\[|\.", row.key)[0] for row in rows())


def reference() -> str:
    """Return the page of the settings with the tables that it should have."""
    return _TABLE.sub(
        lambda found: f"{found[1]}{found[2]}{_table(found[1])}", REFERENCE.read_text()
    )


def _table(section: str) -> str:
    return _HEADER + "".join(
        f"| `{row.key}` | {row.kind} | {row.default} | {row.meaning} |\n"
        for row in rows()
        if re.split(r"\[|\.", row.key)[0] == section
    )


def main() -> None:
    """Compare the pages with the settings, or write them."""
    pages = {REFERENCE: reference(), EXAMPLE: example_text()}
    missing = [name for name in sections() if f"<!-- settings: {name} -->" not in pages[REFERENCE]]
    if missing:
        sys.exit(
            f"error: docs/settings.md has no table for {', '.join(missing)}: add the lines"
            f" `<!-- settings: {missing[0]} -->`, an empty one, `<!-- end -->`"
        )
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    if "--write" in sys.argv[1:]:
        for path in stale:
            path.write_text(pages[path])
    elif stale:
        names = ", ".join(str(path.relative_to(REPOSITORY)) for path in stale)
        sys.exit(f"error: {names} differs from the settings; run `make settings`")


if __name__ == "__main__":
    main()
