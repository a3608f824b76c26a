"""Owns the questions to a service of breached passwords, by range (k-anonymity).

The service gets five of the forty digits of a password's SHA-1, which hundreds of breached
passwords have in common. Source: haveibeenpwned.com, "API v3", "Pwned Passwords".
"""

import re
from collections.abc import Mapping

import aiohttp

from authsvc.config import BreachedPasswordSettings, ConfigError
from authsvc.errors import ProviderUnavailable
from authsvc.outbound.http import JsonClient
from authsvc.outbound.proxy import ProxyRules

# The longest response with padding has about 50 kB.
_MAX_BYTES = 262_144
_LINE = re.compile("([0-9A-Fa-f]{35}):([0-9]{1,10})")
# Adds lines with a count of 0, so that the length of the response doesn't reveal the range.
_HEADERS = {"Accept": "text/plain", "Add-Padding": "true"}


class RangeApi:
    """A service of breached passwords at an address, to which the prefix is appended."""

    def __init__(self, address: str, client: JsonClient) -> None:
        self._address = address.rstrip("/")
        self._client = client

    async def fetch(self, prefix: str) -> Mapping[str, int]:
        """Return how often passwords were breached, by the rest of the SHA-1 in upper case.

        Raises:
            ProviderUnavailable: There is no valid response in time.
            ProviderMisconfigured: The server's certificate is not trusted, or the proxy refused.
        """
        text = await self._client.get_text(f"{self._address}/{prefix}", _HEADERS)
        found = {}
        for line in text.split():
            parts = _LINE.fullmatch(line)
            if parts is None:
                raise ProviderUnavailable(
                    "The service of breached passwords answered something else."
                )
            if count := int(parts[2]):
                found[parts[1].upper()] = count
        return found


def open_ranges(
    settings: BreachedPasswordSettings, http: aiohttp.ClientSession, proxies: ProxyRules
) -> RangeApi | None:
    """Return the service in the settings, or None if there is none.

    Raises:
        ConfigError: The CA file can't be used.
    """
    if settings.address is None:
        return None
    try:
        client = JsonClient(
            provider="breached-passwords",
            session=http,
            timeout=settings.timeout.total_seconds(),
            max_bytes=_MAX_BYTES,
            ca_file=settings.ca_file,
            proxies=proxies,
        )
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError([f"passwords.breached.ca_file: {reason}"]) from None
    return RangeApi(settings.address, client)
