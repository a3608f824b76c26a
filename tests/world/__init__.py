"""Tests against other programs, such as PgBouncer, which `make test-world` installs first."""
