"""Owns the settings of e-mail addresses."""

from pydantic import Field

from authsvc.config.types import Section


class EmailSettings(Section):
    """Which e-mail addresses new accounts may have."""

    directory_domains: bool = Field(
        default=False,
        description="Whether new accounts may have addresses of private networks, as directories"
        " have them: `ada@intranet`, `ada@corp.local`, `ada@home.arpa`. Accounts that have one can"
        " log in either way.",
    )
