"""Owns the settings of e-mail addresses."""

from pydantic import Field

from authsvc.config.types import Section


class EmailSettings(Section):
    """Which e-mail addresses new accounts may have."""

    directory_domains: bool = Field(
        default=False,
        description="Accept domains of private networks: single labels, .local and .home.arpa.",
    )
