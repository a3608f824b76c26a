"""Releases of authsvc: version, changelog, packages, bill of materials, tag; `make release`."""
