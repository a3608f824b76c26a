"""Owns the webhook channel: posts messages to an HTTP endpoint, signed by Standard Webhooks 1.0."""

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import Mapping, Sequence
from datetime import datetime

import aiohttp

from authsvc.config import WebhookSettings
from authsvc.config.delivery import webhook_key
from authsvc.core.messages.delivery import NotDelivered
from authsvc.core.messages.templates import RenderedMessage
from authsvc.models.clock import Clock
from authsvc.outbound.proxy import ProxyRules
from authsvc.outbound.traced import note_status, request_span
from authsvc.tracing import trace_headers

# The only 4xx statuses that are temporary (RFC 9110 section 15.5.9, RFC 6585 section 4).
_TEMPORARY = frozenset({408, 429})
# Small, because only the status of a response is used.
_MAX_HEADER_BYTES = 8_190


class WebhookChannel:
    """Posts messages to one URL."""

    name = "webhook"

    def __init__(self, settings: WebhookSettings, proxies: ProxyRules, clock: Clock) -> None:
        """Prepare the channel; raises OSError if the CA file can't be used."""
        self._url = settings.url
        self._proxy = proxies.of(settings.url)
        self._keys = [webhook_key(secret) for secret in settings.secrets]
        self._clock = clock
        self._context = ssl.create_default_context(cafile=settings.ca_file)
        self._session: aiohttp.ClientSession | None = None
        self.limit = settings.timeout

    async def send(self, rendered: RenderedMessage) -> None:
        """Post the message; any 2xx means that the endpoint has accepted it.

        Raises:
            NotDelivered: The endpoint could not be reached or trusted, or returned another status.
                A 4xx other than 408 and 429 is permanent; redirects are never followed.
        """
        await self.post(f"msg_{rendered.message_id}", payload(rendered))

    async def post(self, message_id: str, body: bytes) -> None:
        """Post a body, JSON, signed together with its id; raises NotDelivered as `send` does."""
        headers = {
            "content-type": "application/json",
            "user-agent": "authsvc",
            "webhook-id": message_id,
            **signature_headers(self._keys, message_id, self._clock.now(), body),
        }
        _check(*await self._answer("POST", body, headers))

    async def check(self) -> None:
        """Ask for the headers of the URL; raises NotDelivered if nobody answers, as `send` does."""
        await self._answer("HEAD", b"", {"user-agent": "authsvc"})

    async def _answer(
        self, method: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, str]:
        """Return the status of the response, and when to retry."""
        try:
            with request_span(method, self._url) as span:
                async with (
                    asyncio.timeout(self.limit.total_seconds()),
                    self._open_session().request(
                        method,
                        self._url,
                        data=body or None,
                        headers={**headers, **trace_headers()},
                        allow_redirects=False,
                        proxy=self._proxy,
                    ) as response,
                ):
                    # Closes the connection; the rest of the response is not needed.
                    response.close()
                    note_status(span, response.status)
                    return response.status, response.headers.get("retry-after", "")
        except TimeoutError as error:
            raise NotDelivered(error="timeout") from error
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise NotDelivered(error="tls") from error
        except aiohttp.ClientHttpProxyError as error:
            raise NotDelivered(error=f"proxy_status_{error.status}") from error
        except aiohttp.ClientProxyConnectionError as error:
            raise NotDelivered(error="proxy") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NotDelivered(error="connection") from error

    async def close(self) -> None:
        """Close the session."""
        if self._session:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._context, force_close=True, limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                max_line_size=_MAX_HEADER_BYTES,
                max_field_size=_MAX_HEADER_BYTES,
            )
        return self._session


def payload(rendered: RenderedMessage) -> bytes:
    """Return the body, which is the same each time that the message is posted."""
    message, content = rendered.message, rendered.content
    data = {
        "message_id": str(rendered.message_id),
        "kind": message.kind.value,
        "address": message.address,
        "user_id": str(message.user_id) if message.user_id else None,
        "code": message.code or None,
        "expire_time": message.expire_time.isoformat() if message.expire_time else None,
        "subject": content.subject,
        "text": content.text,
        "html": content.html,
    }
    body = {
        "type": f"message.{message.kind.value}",
        "timestamp": rendered.create_time.isoformat(),
        "data": data,
    }
    return json.dumps(body, separators=(",", ":")).encode()


def signature_headers(
    keys: Sequence[bytes], message_id: str, now: datetime, body: bytes
) -> dict[str, str]:
    """Return the headers that sign the body, its id and the time with each key."""
    timestamp = str(int(now.timestamp()))
    signed = f"{message_id}.{timestamp}.".encode() + body
    macs = (hmac.digest(key, signed, hashlib.sha256) for key in keys)
    return {
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{base64.b64encode(mac).decode()}" for mac in macs),
    }


def _check(status: int, retry_after: str) -> None:
    if 200 <= status < 300:
        return
    permanent = 400 <= status < 500 and status not in _TEMPORARY
    # The other form, a date, is ignored: the usual delays grow by themselves.
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
    raise NotDelivered(error=f"status_{status}", permanent=permanent, retry_after=seconds)
