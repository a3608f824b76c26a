"""Owns the reading of /metrics of running replicas, by HTTP or HTTPS."""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from authsvc.config import Settings
from authsvc.dev.ports import dialled
from authsvc.errors import ServerError

_MAX_BYTES = 16 << 20
_MOST_REPLICAS = 256
_PLAIN = {"Accept-Encoding": "identity"}

Labels = Mapping[str, str]


class NobodyListensError(ServerError):
    """There is no connection to a replica."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """The samples of one replica at a moment of this machine's monotonic clock."""

    time: float
    samples: Mapping[str, Sequence[tuple[Labels, float]]]

    def of(self, name: str) -> Sequence[tuple[Labels, float]]:
        """Return the samples of a name, such as `authsvc_rpc_calls_total`, if there are any."""
        return self.samples.get(name, ())

    def value(self, name: str) -> float | None:
        """Return the value of a metric without labels; None if it is unknown."""
        found = self.of(name)
        return found[0][1] if found else None


@dataclass(frozen=True, slots=True)
class Replica:
    """Where a replica's metrics are: `url` as it was given, on one of its host's addresses.

    `name` tells it from the others.
    """

    name: str
    url: str
    ip: str
    host: str


class _Labels(dict[str, str]):
    """Labels of which each that is missing is empty, as for Prometheus; versions may differ."""

    def __missing__(self, name: str) -> str:
        return ""


def parse(text: str, at: float) -> Scrape:
    """Return the samples in Prometheus' text format; raises ValueError if it is none."""
    samples: dict[str, list[tuple[Labels, float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = _Labels(sample.labels)
            if sample.name.endswith("_bucket"):
                float(labels["le"])
            samples.setdefault(sample.name, []).append((labels, sample.value))
    return Scrape(at, samples)


def metrics_url(text: str) -> str:
    """Return the URL of metrics for what an operator writes: HOST:PORT, or a URL with or without.

    Raises ServerError if it is none.
    """
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ServerError(f'"{text}" is not an address of metrics, such as http://authsvc:8081')
    return parts._replace(path=parts.path.rstrip("/") or "/metrics", fragment="").geturl()


def own_url(settings: Settings) -> str:
    """Return the URL of the metrics of a service with these settings on this machine."""
    scheme = "http" if settings.http.tls is None else "https"
    return f"{scheme}://{dialled(settings.http.address)}/metrics"


async def replicas(url: str) -> Sequence[Replica]:
    """Return the replicas behind a URL: one for each address of its host.

    Raises ServerError if the name can't be resolved.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ServerError(f"{host} can't be resolved: {error.strerror or error}") from None
    ips = list(dict.fromkeys(str(place[0]) for *_, place in found))[:_MOST_REPLICAS]
    return [
        Replica(f"{f'[{ip}]' if ':' in ip else ip}:{port}", url, ip, host)
        for ip in _of_one_family(ips, host)
    ]


def _of_one_family(ips: Sequence[str], host: str) -> Iterator[str]:
    """Yield the addresses of IPv4 if there are any: a replica that has both counts once.

    Those of this machine are one replica, too.
    """
    old = [ip for ip in ips if ":" not in ip] or list(ips)
    yield from old[:1] if host == "localhost" else old


async def scrape(
    http: aiohttp.ClientSession,
    replica: Replica,
    tls: ssl.SSLContext | None = None,
    seconds: float = 5.0,
) -> Scrape:
    """Return the metrics of a replica; raises ServerError with the cause in a line.

    It is a NobodyListensError if there is no connection at all.
    """
    parts = urlsplit(replica.url)
    address = parts._replace(netloc=replica.name).geturl()
    try:
        async with http.get(
            address,
            headers={"Host": parts.netloc, "User-Agent": "authsvc", **_PLAIN},
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=seconds),
            ssl=tls or True,
            server_hostname=replica.host if parts.scheme == "https" else None,
        ) as response:
            if response.status != 200:
                raise ServerError(f"{replica.name} answers {response.status}")
            body = await _read(response.content)
            if body is None:
                raise ServerError(f"{replica.name} answers with more than {_MAX_BYTES} bytes")
        return parse(body.decode("utf-8", "replace"), time.monotonic())
    except TimeoutError:
        raise ServerError(f"{replica.name} does not answer in time") from None
    except aiohttp.ClientConnectorError as error:
        cause = error.os_error.strerror or type(error.os_error).__name__
        if isinstance(error.os_error, ConnectionError) and error.os_error.errno:
            # asyncio's text names the address once more, and not the cause.
            cause = os.strerror(error.os_error.errno)
        raise NobodyListensError(f"{replica.name} can't be reached: {cause}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise ServerError(f"{replica.name} does not answer: {type(error).__name__}") from None
    except ValueError:
        raise ServerError(f"{replica.name} answers with something else than metrics") from None


async def _read(content: aiohttp.StreamReader) -> bytes | None:
    """Return the whole content; None if it is too long."""
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > _MAX_BYTES:
            return None
    return bytes(body)


def client_tls(
    ca: Path | None, cert: Path | None, key: Path | None, *, check_host: bool = True
) -> ssl.SSLContext:
    """Return the TLS of a client; the system's authorities are trusted unless `ca` names others.

    Raises ServerError if a file can't be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
        context.check_hostname = check_host
        if cert is not None:
            context.load_cert_chain(cert, key)
    except OSError as error:
        # Errors of ssl are OSErrors, too; neither quotes the file.
        named = ", ".join(str(path) for path in (ca, cert, key) if path)
        raise ServerError(f"{named}: {error.strerror or type(error).__name__}") from None
    return context


def own_tls(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS by which the service's own metrics are read on this machine.

    Its certificate is shown, and need not be for a name of this machine.
    """
    tls = settings.http.tls
    if tls is None:
        return None
    context = client_tls(tls.client_ca_file, tls.certificate_file, tls.key_file, check_host=False)
    # Another authority may have issued it; on this machine, nobody is in between.
    context.verify_mode = ssl.CERT_NONE
    return context
