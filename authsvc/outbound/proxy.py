"""Owns the choice of the proxy for an outbound HTTP request, by the settings and the environment.

`outbound.proxy` overrides HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, `outbound.no_proxy` overrides
NO_PROXY; they mean what they mean to curl. Requests to https addresses go through a tunnel
(CONNECT), in which TLS is verified from end to end. Plain http is only ever spoken on this machine,
so requests to http addresses use no proxy that is elsewhere.
"""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies_environment

from authsvc.config import ConfigError, OutboundSettings
from authsvc.config.delivery import is_loopback
from authsvc.config.outbound import NO_PROXY_AT_ALL, proxy_url

_PORTS = {"http": 80, "https": 443}


class ProxyRules:
    """The proxies by scheme of the address, and the hosts that are reached without one."""

    def __init__(self, proxies: Mapping[str, str], exceptions: Sequence[str] = ()) -> None:
        self._proxies = dict(proxies)
        self._exceptions = [_Exception(text) for text in exceptions]

    def of(self, url: str) -> str | None:
        """Return the URL of the proxy for a request to `url`, which may contain its password."""
        address = urlsplit(url)
        proxy = self._proxies.get(address.scheme)
        if proxy is None or any(each.covers(address) for each in self._exceptions):
            return None
        if address.scheme == "http" and not is_loopback(urlsplit(proxy).hostname or ""):
            return None
        return proxy


DIRECT = ProxyRules({})


def proxy_rules(settings: OutboundSettings) -> ProxyRules:
    """Return the rules by the settings and, for what they leave open, the environment.

    Raises:
        ConfigError: A variable of the environment is not the URL of a proxy.
    """
    environment = getproxies_environment()
    exceptions = settings.no_proxy
    if exceptions is None:
        exceptions = tuple(environment.get("no", "").replace(",", " ").split())
    if settings.proxy is not None:
        chosen = settings.proxy.get_secret_value()
        if chosen == NO_PROXY_AT_ALL:
            return DIRECT
        return ProxyRules(dict.fromkeys(_PORTS, proxy_url(chosen)), exceptions)
    found = {}
    for scheme in _PORTS:
        for name in (scheme, "all"):
            if name in environment:
                try:
                    found[scheme] = proxy_url(environment[name])
                except ValueError as error:
                    raise ConfigError([f"environment variable {name}_proxy: {error}"]) from None
                break
    return ProxyRules(found, exceptions)


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


class _Exception:
    """An entry of NO_PROXY: "*", a name (and those below it), an address or a network; any port.

    `name:port` is for that port only.
    """

    def __init__(self, text: str) -> None:
        self._everything = text == "*"
        self._port: int | None = None
        name, separator, port = text.rpartition(":")
        if separator and port.isascii() and port.isdigit() and (":" not in name or name[-1] == "]"):
            text, self._port = name, int(port)
        self._name = text.lower().removeprefix("*").strip("[].")
        self._network = _network(self._name)

    def covers(self, address: SplitResult) -> bool:
        """Return whether requests to this address use no proxy."""
        if self._port not in (None, address.port or _PORTS[address.scheme]):
            return False
        host = (address.hostname or "").rstrip(".")
        if self._everything or not self._name:
            return self._everything
        if self._network is None:
            return host == self._name or host.endswith(f".{self._name}")
        try:
            return ip_address(host) in self._network
        except ValueError:
            return False
