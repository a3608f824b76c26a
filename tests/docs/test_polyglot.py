"""The pages for clients in other languages show the code that the tests run."""

import pytest

from tests.polyglot.excerpts import LANGUAGES, blocks_of, excerpts_of, page_of


@pytest.mark.parametrize("language", LANGUAGES)
def test_page_shows_excerpts_of_program(language: str) -> None:
    # If it fails: `python -m tests.polyglot.excerpts`
    assert blocks_of(language) == excerpts_of(language)
    assert len(page_of(language).blocks(language)) == len(blocks_of(language))
