"""Owns the place where the tests of the world install programs."""

from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".venv" / "world"


class WorldError(Exception):
    """A program can't be installed or is not there; the message says what to do."""
