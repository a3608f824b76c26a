"""authsvc: authentication, sessions and rate limits over gRPC."""

__version__ = "0.1.0"
