"""Owns the settings of the service's own requests to HTTP servers."""

import re
from typing import Annotated

from pydantic import Field, SecretStr

from authsvc.config.types import Form, Section

NO_PROXY_AT_ALL = "none"
_PROXY = r"(http://)?([^\s/?#@]+@)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?"
_EXPECTED = "an HTTP proxy, such as http://proxy.example.com:3128"


def proxy_url(text: str) -> str:
    """Return the URL of a proxy, which may be written without its scheme; raises ValueError."""
    if not re.fullmatch(_PROXY, text):
        raise ValueError(f"expected {_EXPECTED}")
    return text if "://" in text else f"http://{text}"


class OutboundSettings(Section):
    """The service's own HTTP requests, to identity providers and web hooks."""

    proxy: Annotated[SecretStr, Form(_PROXY, f'{_EXPECTED}, or "none"')] | None = Field(
        None,
        description="The proxy, such as `http://user:password@proxy.example.com:3128`, or `none`;"
        " overrides `HTTPS_PROXY` and `HTTP_PROXY`.",
    )
    no_proxy: tuple[str, ...] | None = Field(
        None,
        description="Names, domains and networks that are reached without it, such as `.internal`"
        " and `10.0.0.0/8`; overrides `NO_PROXY`.",
    )
