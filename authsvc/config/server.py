"""Owns the settings of the two ports and of TLS."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from authsvc.config.types import Between, Duration, FilePath, GrpcListen, HttpListen, Section


class GrpcSettings(Section):
    """The gRPC port and its limits."""

    address: GrpcListen = Field("127.0.0.1:8443", description="Where gRPC listens: `HOST:PORT`.")
    max_message_bytes: int = Field(
        65_536, ge=1_024, le=16_777_216, description="The largest request; larger ones are refused."
    )
    max_batch_message_bytes: int = Field(
        1_048_576, ge=1_024, le=16_777_216, description="The same for the batch RPCs."
    )
    max_metadata_bytes: int = Field(
        16_384, ge=1_024, le=1_048_576, description="The largest metadata of a call."
    )
    max_concurrent_rpcs: int = Field(
        1_000,
        ge=1,
        le=1_000_000,
        description="Calls at a time of callers with a role; more get `OVERLOADED`.",
    )
    max_concurrent_rpcs_per_caller: int = Field(
        750,
        ge=1,
        le=1_000_000,
        description=(
            "Of these, how many one caller may hold; if all are taken, a caller with less than"
            " half of another's replaces one of those."
        ),
    )
    max_concurrent_streams: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Calls at a time on one connection; a client's further calls wait.",
    )
    max_connections: int = Field(
        1_000, ge=1, le=1_000_000, description="Connections at a time, of all callers together."
    )
    max_connections_per_caller: int = Field(
        500,
        ge=1,
        le=1_000_000,
        description=(
            "Of these, how many one caller with a role may hold; all replicas of a service that"
            " share an identity are one caller."
        ),
    )
    max_connections_per_stranger: int = Field(
        8,
        ge=1,
        le=1_000_000,
        description="The same for each caller without a role, such as a health probe.",
    )
    max_connections_of_strangers: int = Field(
        32, ge=1, le=10_000, description="The same for all callers without a role together."
    )
    max_new_connections_per_network: int = Field(
        250,
        ge=1,
        le=1_000_000,
        description=(
            "How many connections from one IPv4 /24 or IPv6 /64 may be in their handshake, or"
            " belong to callers without a role; of too many, those of the address or caller that"
            " has most end."
        ),
    )
    first_call_timeout: Annotated[Duration, Between("1ms", "24d")] = Field(
        timedelta(seconds=10),
        description=(
            "How long a connection may wait for its first permitted call: always without a role,"
            " with a role only while more than half of `max_connections` are open. One"
            " connection of each caller may wait longer."
        ),
    )
    max_connection_age: Annotated[Duration, Between("1ms", "24d")] = Field(
        timedelta(minutes=5),
        description=(
            "After this, give or take a tenth, a connection is closed gracefully and the client"
            " opens another, perhaps to a newer replica."
        ),
    )
    max_connection_idle: Annotated[Duration, Between("1ms", "24d")] = Field(
        timedelta(minutes=2),
        description="After this long without a call, a connection is closed gracefully.",
    )
    min_ping_interval: Annotated[Duration, Between("1ms", "24d")] = Field(
        timedelta(seconds=30), description="Clients that ping more often are disconnected."
    )
    handshake_timeout: Annotated[Duration, Between("1ms", "24d")] = Field(
        timedelta(seconds=5),
        description=(
            "How long a TLS handshake may take, and after it the acknowledgement of the HTTP/2"
            " settings."
        ),
    )
    call_timeout: Annotated[Duration, Between("1ms")] = Field(
        timedelta(seconds=10),
        description="How long a call may take; then it ends with `STORE_UNAVAILABLE`.",
    )
    drain_timeout: Annotated[Duration, Between("0s", "24d")] = Field(
        timedelta(seconds=20), description="How long running calls may take when the service stops."
    )
    reflection: bool = Field(
        True, description="Whether callers with the role `observer` can list the services."
    )


class TlsSettings(Section):
    """The server's certificate and the CAs that must have issued client certificates."""

    certificate_file: FilePath = Field(description="The server's certificate, PEM, with its chain.")
    key_file: FilePath = Field(description="The certificate's private key, PEM, unencrypted.")
    client_ca_file: FilePath = Field(
        description=(
            "The authorities that sign the certificates of callers, or, for HTTP, of those who may"
            " read `/metrics`, PEM."
        )
    )
    min_version: Literal["1.2", "1.3"] = Field(
        "1.2", description="`1.3` refuses clients that speak TLS 1.2."
    )


class HttpSettings(Section):
    """The HTTP port: JWKS, discovery, metrics, livez, readyz."""

    address: HttpListen = Field("127.0.0.1:8081", description="Where HTTP listens: `HOST:PORT`.")
    max_connections: int = Field(
        256,
        ge=1,
        le=1_000_000,
        description=(
            "Connections at a time; a new one replaces the oldest of the network that has most."
        ),
    )
    max_connections_per_network: int = Field(
        64,
        ge=1,
        description=(
            "Of these, how many one IPv4 address or IPv6 /64 may hold; a new one replaces its"
            " oldest."
        ),
    )
    tls: TlsSettings | None = Field(None, description="TLS on this port: see below.")
