"""Owns the settings of the cookie that carries a session's token."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from authsvc.config.types import Form, Section

# A token (RFC 9110, section 5.6.2).
_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}"
# Labels in lower case, at least two: browsers refuse cookies for a whole top-level domain. The last
# one is not a number, so it is no address.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = rf"(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?"
_MAX_DOMAIN = 253


class CookieSettings(Section):
    """The cookie that carries a session's token to the browser."""

    name: Annotated[
        str, Form(_NAME, "1 to 64 letters, digits and characters of !#$%&'*+-.^_`|~")
    ] = Field(
        "__Host-session",
        description="Its name. Browsers enforce the rules of the prefixes `__Host-` and"
        " `__Secure-`, and so does the check of the settings.",
    )
    secure: bool = Field(True, description="Whether it is sent over HTTPS only.")
    http_only: bool = Field(True, description="Whether scripts can't read it.")
    same_site: Literal["strict", "lax", "none"] = Field(
        "lax",
        description="Which requests of other sites it is sent with; `none` requires `secure`.",
    )
    domain: (
        Annotated[
            str, Form(_DOMAIN, "a domain in lower case with at least one dot, such as example.com")
        ]
        | None
    ) = Field(
        None, description="The domain whose hosts get it; without one, the host that set it only."
    )
    path: Annotated[
        str,
        Form(r"/[!-:<-~]{0,255}", "a path such as /app, in ASCII, without blanks and semicolons"),
    ] = Field("/", description="The path below which it is sent.")

    @model_validator(mode="after")
    def _browsers_accept_it(self) -> Self:
        # Browsers compare the prefixes without regard to case.
        prefix = re.match(r"__(?:host|secure)-", self.name, re.IGNORECASE)
        if self.domain is not None and len(self.domain) > _MAX_DOMAIN:
            raise ValueError(f"domain must have at most {_MAX_DOMAIN} characters")
        if prefix and not self.secure:
            raise ValueError(f"name begins with {prefix[0]}, which requires secure = true")
        if prefix and prefix[0].lower() == "__host-":
            if self.domain is not None:
                raise ValueError(f"name begins with {prefix[0]}, which excludes a domain")
            if self.path != "/":
                raise ValueError(f'name begins with {prefix[0]}, which requires path = "/"')
        if self.same_site == "none" and not self.secure:
            raise ValueError('same_site = "none" requires secure = true')
        return self
