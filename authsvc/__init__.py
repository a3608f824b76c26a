"""authsvc: who is this, is this session still good, may this happen now."""

__version__ = "0.1.0"
