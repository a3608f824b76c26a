"""Owns requests to HTTP servers for JSON and text, bounded in time and size, without redirects.

The content of responses is never logged and never part of an error.
"""

import json
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import structlog

from authsvc.errors import ProviderMisconfigured, ProviderUnavailable, ServiceError
from authsvc.outbound.answers import Answer
from authsvc.outbound.proxy import DIRECT, ProxyRules
from authsvc.outbound.traced import note_status, request_span
from authsvc.tracing import trace_headers

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "authsvc"}
_CHUNK = 65_536

log = structlog.get_logger(__name__)


def open_session() -> aiohttp.ClientSession:
    """Return a session for all clients to share, without cookies; the caller has to close it."""
    # Compressed responses, which are never requested, are not expanded: they could be huge.
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)


class JsonClient:
    """Sends requests to one provider's servers; `provider` is its name, for the log.

    A request takes at most `timeout` seconds, and a response has at most `max_bytes`. Redirects are
    not followed. Certificates are verified against `ca_file`, or the system's CAs, through a proxy
    as well, which sees nothing but the names of hosts.
    """

    def __init__(
        self,
        *,
        provider: str,
        session: aiohttp.ClientSession,
        timeout: float,
        max_bytes: int,
        ca_file: Path | None = None,
        proxies: ProxyRules = DIRECT,
    ) -> None:
        self.provider = provider
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._max_bytes = max_bytes
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._proxies = proxies

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Return the response to a GET, whatever its status; its content is None if it isn't JSON.

        Raises:
            ProviderUnavailable: There is no response, or it is too long.
            ProviderMisconfigured: There is none because the server's certificate is not trusted, or
                the proxy refused.
        """
        return await self._request("GET", url, headers or {}, None)

    async def get_text(self, url: str, headers: Mapping[str, str]) -> str:
        """Return the text of the response to a GET whose status has to be 200; raise as `get` does.

        `provider_failed` in the log says what other status there was.
        """
        status, body = await self._send("GET", url, headers, None)
        if status != HTTPStatus.OK:
            log.warning("provider_failed", provider=self.provider, host=_host(url), status=status)
            raise ProviderUnavailable
        return body.decode("utf-8", "replace")

    async def post(
        self, url: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Return the response to a POST of a form, as in `get`."""
        return await self._request("POST", url, headers or {}, form)

    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> Answer:
        status, body = await self._send(method, url, headers, form)
        return Answer(self.provider, _host(url), status, _parsed(body))

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> tuple[int, bytes]:
        try:
            with request_span(method, url) as span:
                async with self._session.request(
                    method,
                    url,
                    data=form,
                    headers={**_HEADERS, **headers, **trace_headers()},
                    allow_redirects=False,
                    timeout=self._timeout,
                    ssl=self._tls,
                    proxy=self._proxies.of(url),
                ) as response:
                    note_status(span, response.status)
                    return response.status, await self._read(response)
        # ValueError: too long, or an invalid URL.
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._failure(url, error) from None

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        content = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            content += chunk
            if len(content) > self._max_bytes:
                raise ValueError("too long")
        return bytes(content)

    def _failure(self, url: str, error: Exception) -> ServiceError:
        """Log why there is no response, and return the error for it."""
        facts: dict[str, object] = {"provider": self.provider, "host": _host(url)}
        mend = ""
        if isinstance(error, aiohttp.ClientHttpProxyError):
            facts |= {"error": "proxy", "status": error.status}
            if error.status < 500:
                mend = "let the proxy connect to this host, and check outbound.proxy"
        elif isinstance(error, aiohttp.ClientConnectorCertificateError):
            certificate_error = error.certificate_error
            if isinstance(certificate_error, ssl.SSLCertVerificationError):
                facts["problem"] = certificate_error.verify_message
            facts["error"] = "certificate"
            mend = "name the CA in ca_file if it is not one that the system trusts"
        else:
            facts["error"] = type(error).__name__
        if mend:
            log.error("provider_misconfigured", **facts, mend=mend)
            return ProviderMisconfigured()
        log.warning("provider_failed", **facts)
        return ProviderUnavailable()


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    # RecursionError: nested too deeply.
    except (ValueError, RecursionError):
        return None


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]
