"""Owns JSON requests to HTTP servers, bounded in time and size, without redirects.

The content of responses is never logged and never part of an error.
"""

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import structlog

from authsvc.errors import ProviderUnavailable

JsonObject: TypeAlias = Mapping[str, Any]

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "authsvc"}
_CHUNK = 65_536

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's response, any JSON; `content` may contain secrets."""

    status: int
    content: Any = field(repr=False)

    def object(self) -> JsonObject:
        """Return the content, if the status is 200 and it is an object.

        Raises:
            ProviderUnavailable: Otherwise.
        """
        if self.status != 200 or not isinstance(self.content, dict):
            raise ProviderUnavailable
        return self.content


def open_session() -> aiohttp.ClientSession:
    """Return a session for all clients to share, without cookies or proxies from the environment.

    The caller has to close it.
    """
    # Compressed responses, which are never requested, are not expanded: they could be huge.
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)


class JsonClient:
    """Sends requests to one provider's servers.

    A request takes at most `timeout` seconds, and a response has at most `max_bytes`. Redirects are
    not followed. Certificates are verified against `ca_file`, or the system's CAs.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        timeout: float,
        max_bytes: int,
        ca_file: Path | None = None,
    ) -> None:
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._max_bytes = max_bytes
        self._tls = ssl.create_default_context(cafile=ca_file)

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Return the response to a GET, whatever its status, if it is JSON.

        Raises:
            ProviderUnavailable: The request failed, or the response is not JSON.
        """
        return await self._request("GET", url, headers or {}, None)

    async def post(
        self, url: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Return the response to a POST of a form, as in `get`."""
        return await self._request("POST", url, headers or {}, form)

    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> Answer:
        try:
            async with self._session.request(
                method,
                url,
                data=form,
                headers={**_HEADERS, **headers},
                allow_redirects=False,
                timeout=self._timeout,
                ssl=self._tls,
            ) as response:
                return Answer(response.status, json.loads(await self._read(response)))
        # ValueError: not JSON, or an invalid URL; RecursionError: JSON nested too deeply.
        except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
            log.warning("provider_failed", host=_host(url), error=type(error).__name__)
            raise ProviderUnavailable from None

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        content = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            content += chunk
            if len(content) > self._max_bytes:
                raise ValueError("too long")
        return bytes(content)


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]
