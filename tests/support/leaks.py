"""Finds secrets in text, in any of the forms in which careless code writes them."""

import base64
from collections.abc import Iterable, Iterator, Mapping

# This many consecutive characters of a secret are a leak.
WINDOW = 12


def forms(raw: bytes) -> Iterator[str]:
    """Yield the text forms of these bytes."""
    yield raw.decode("latin-1")
    yield raw.hex()
    yield base64.b64encode(raw).decode()
    yield base64.urlsafe_b64encode(raw).decode()


def windows(text: str) -> set[str]:
    folded = text.casefold()
    return {folded[at : at + WINDOW] for at in range(len(folded) - WINDOW + 1)}


def leaks(written: str, secrets: Mapping[str, Iterable[str]]) -> set[str]:
    """Return the names of the secrets of which any part is in the text, in any form."""
    found = windows(written)
    return {
        name
        for name, texts in secrets.items()
        if any(not windows(text).isdisjoint(found) for text in texts)
    }
