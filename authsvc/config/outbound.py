"""Owns the settings of the service's own requests to HTTP servers."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from authsvc.config.types import Section

NO_PROXY_AT_ALL = "none"
_PROXY = re.compile(r"http://([^\s/?#@]+@)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?")


def proxy_url(text: str) -> str:
    """Return the URL of a proxy, which may be written without its scheme; raises ValueError."""
    url = text if "://" in text else f"http://{text}"
    if not _PROXY.fullmatch(url):
        raise ValueError('expected an HTTP proxy, such as "http://proxy.example.com:3128"')
    return url


def _proxy(secret: SecretStr) -> SecretStr:
    if secret.get_secret_value() != NO_PROXY_AT_ALL:
        proxy_url(secret.get_secret_value())
    return secret


class OutboundSettings(Section):
    """The service's own HTTP requests, to identity providers and web hooks."""

    proxy: Annotated[SecretStr, AfterValidator(_proxy)] | None = Field(
        default=None,
        description='The proxy, such as "http://user:password@proxy:3128", or "none"; by default '
        "what HTTPS_PROXY and HTTP_PROXY say.",
    )
    no_proxy: tuple[str, ...] | None = Field(
        default=None,
        description="Hosts, domains and networks that are reached without the proxy; by default "
        "what NO_PROXY says.",
    )
