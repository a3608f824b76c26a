"""Owns asking HTTP servers for JSON: within bounds of time and size, and no further than asked.

What a server answers is never logged and never in an error.
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
    """What a server answered, a JSON object or array; `content` may hold secrets."""

    status: int
    content: Any = field(repr=False)

    def object(self) -> JsonObject:
        """Return the content of an answer that says 200 and holds an object.

        Raises:
            ProviderUnavailable: It is another.
        """
        if self.status != 200 or not isinstance(self.content, dict):
            raise ProviderUnavailable
        return self.content


def open_session() -> aiohttp.ClientSession:
    """Return the session whose connections all clients share: no cookies, no proxy of a variable.

    Whoever opens it closes it.
    """
    # What is small must not grow large here: compressed answers, never asked for, stay so.
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)


class JsonClient:
    """Asks one provider's servers.

    A request takes `timeout` seconds at most, and an answer is at most `max_bytes`. No redirect is
    followed. Certificates are verified against `ca_file`, or the system's authorities.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        timeout: float,
        max_bytes: int,
        ca_file: Path | None = None,
    ) -> None:
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._max_bytes = max_bytes
        self._tls = ssl.create_default_context(cafile=ca_file)

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Return the answer to a GET, whatever its status, if it is JSON.

        Raises:
            ProviderUnavailable: There is no such answer.
        """
        return await self._ask("GET", url, headers or {}, None)

    async def post(
        self, url: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Return the answer to a POST of a form; as `get`."""
        return await self._ask("POST", url, headers or {}, form)

    async def _ask(
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
        # ValueError: no JSON, or an address that is none; RecursionError: JSON that is too deep.
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
